"""A client that asks a resolver itself, so that a connection is tried the moment its answer is there.

names.py first SERVER COUNT SUFFIX     each of COUNT names once: ask, connect at once; how many first SYNs came through
names.py ask SERVER NAME [TYPE]        one question: the response code and the addresses
names.py connect ADDRESS [SECONDS]     does a connection come about?
names.py keep SERVER NAME SECONDS FILE ask again and again, connect, talk for up to three seconds; what was lost
names.py serve PORT                    echo whatever comes, on all addresses
"""
import json, random, selectors, socket, struct, sys, threading, time

TYPES = {"A": 1, "AAAA": 28}


def ask(server, name, kind="A", patience=1.0, tries=5):
    """Response code and addresses. A question without an answer is asked again, as any client does."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(patience)
        s.connect((server, 53))
        for _ in range(tries):
            ident = random.randrange(65536)
            labels = b"".join(bytes([len(l)]) + l.encode() for l in name.rstrip(".").split("."))
            s.send(struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", TYPES[kind], 1))
            try:
                answer = s.recv(4096)
            except (TimeoutError, socket.timeout, ConnectionError):
                continue
            got, flags, _, count = struct.unpack("!4H", answer[:8])
            if got == ident:
                return flags & 15, records(answer, 12 + len(labels) + 5, count)
    return None, []


def skip(answer, at):
    while answer[at]:
        if answer[at] >= 192:
            return at + 2
        at += 1 + answer[at]
    return at + 1


def records(answer, at, count):
    found = []
    for _ in range(count):
        at = skip(answer, at)
        kind, _, _, length = struct.unpack("!2HIH", answer[at:at + 10])
        data = answer[at + 10:at + 10 + length]
        at += 10 + length
        if kind in (1, 28):
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, data))
    return found


def connect(ip, patience=0.9):
    """Within less than a second: a SYN that is lost is sent again after one."""
    s = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    s.settimeout(patience)
    try:
        s.connect((ip, 80))
        return s
    except OSError:
        s.close()
        return None


def first(server, count, suffix):
    came, asked_again = 0, 0
    for n in range(int(count)):
        code, ips = ask(server, f"n{n}.{suffix}", tries=1)
        if not ips:
            asked_again += 1
            code, ips = ask(server, f"n{n}.{suffix}")
        s = connect(ips[0]) if ips else None
        if s:
            came += 1
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
    print(json.dumps({"asked": int(count), "came": came, "asked_again": asked_again}))


def keep(server, name, seconds, path):
    told = {"answers": 0, "connections": 0, "refused": 0, "broken": 0, "addresses": 0, "unanswered": 0}
    lock, seen = threading.Lock(), set()
    until = time.monotonic() + float(seconds)

    def talk(ip):
        s = connect(ip)
        if not s:
            with lock:
                told["refused"] += 1
            return
        end = time.monotonic() + random.uniform(0, 3)
        try:
            s.settimeout(5)
            while True:
                s.sendall(b"ping")
                if s.recv(4) != b"ping":
                    raise OSError("closed")
                if time.monotonic() > end:
                    break
                time.sleep(0.1)
        except OSError:
            with lock:
                told["broken"] += 1
        s.close()

    threads = []
    while time.monotonic() < until:
        code, ips = ask(server, name)
        if not ips:
            told["unanswered"] += 1
            continue
        told["answers"] += 1
        for ip in ips[:2]:
            seen.add(ip)
            told["connections"] += 1
            thread = threading.Thread(target=talk, args=(ip,))
            thread.start()
            threads.append(thread)
        threads = [t for t in threads if t.is_alive()]
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    told["addresses"] = len(seen)
    with open(path, "w") as file:
        json.dump(told, file)
    print(json.dumps(told))


def serve(port):
    loop = selectors.DefaultSelector()
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    listener.setblocking(False)
    loop.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in loop.select():
            if key.fileobj is listener:
                try:
                    s, _ = listener.accept()
                except OSError:
                    continue
                s.setblocking(False)
                loop.register(s, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.send(data)
                    continue
            except OSError:
                pass
            loop.unregister(key.fileobj)
            key.fileobj.close()


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "ask":
        code, ips = ask(*rest)
        print(json.dumps({"code": code, "addresses": ips}))
    elif what == "connect":
        sys.exit(0 if connect(rest[0], float(rest[1]) if len(rest) > 1 else 0.9) else 1)
    else:
        {"first": first, "keep": keep, "serve": serve}[what](*rest)
