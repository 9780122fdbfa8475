#!/usr/bin/env python3
"""Conversations that can tell exactly what was lost: numbered datagrams and numbered lines over TCP, echoed by the server.

    talk.py serve PORT                                     echoes UDP and TCP, both families
    talk.py udp ADDRESS PORT STATE [--rate N] [--size N]   a datagram every 1/N s, until SIGTERM
    talk.py tcp ADDRESS PORT STATE [--rate N] [--size N]   a line every 1/N s over one connection, until SIGTERM
    … --ports N                                            each datagram from the next of N ports: so many flows

STATE is a file that is replaced many times a second by a JSON object: sent, received, lost (numbers that did not come back
within a second, or at the end), longest_gap_ms (between two that came back), silent_ms (since the last that did), error.
"""
import argparse, json, os, selectors, signal, socket, struct, time

PATIENCE = 1.0


def serve(port):
    ready = selectors.DefaultSelector()
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    udp.bind(("::", port))
    for own in (tcp, udp):
        ready.register(own, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            try:
                if key.fileobj is tcp:
                    ready.register(tcp.accept()[0], selectors.EVENT_READ)
                elif key.fileobj is udp:
                    data, aside, _, peer = udp.recvmsg(65536, 64)
                    # From the address that was asked, whichever of ours it is.
                    asked = [(level, kind, told[:16] + bytes(4)) for level, kind, told in aside]
                    udp.sendmsg([data], asked, 0, peer)
                elif data := key.fileobj.recv(65536):
                    key.fileobj.sendall(data)
                else:
                    raise ConnectionError
            except OSError:
                if key.fileobj not in (tcp, udp):
                    ready.unregister(key.fileobj)
                    key.fileobj.close()


class Talk:
    def __init__(self, args):
        self.args, self.stopped, self.error = args, False, None
        self.sent, self.received, self.lost, self.waiting = 0, 0, [], {}
        self.longest_gap, self.heard_at, self.began = 0.0, None, time.monotonic()
        kind = socket.SOCK_DGRAM if args.kind == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
        self.sockets = [socket.socket(family, kind) for _ in range(args.ports)]
        self.socket = self.sockets[0]
        self.rest = b""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))

    def connect(self):
        for own in self.sockets:
            own.settimeout(5)
            own.connect((self.args.address, self.args.port))
            if self.args.kind == "tcp":
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own.setblocking(False)

    def send(self, now):
        number = self.sent
        text = b"%010d" % number
        text += b"x" * (self.args.size - len(text) - 1) + b"\n"
        try:
            self.sockets[number % len(self.sockets)].send(text)
        except BlockingIOError:
            return  # the connection is stuck; nothing was sent
        except OSError as error:
            if self.args.kind == "tcp":
                raise
            self.error = str(error)  # an ICMP error about an earlier datagram; this one was not sent
            return
        self.waiting[number] = now
        self.sent += 1

    def hear(self, now, own):
        while True:
            try:
                data = own.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if self.args.kind == "tcp":
                    raise
                self.error = str(error)
                continue
            if not data:
                raise ConnectionError("the server closed the connection")
            self.rest += data
            *lines, self.rest = self.rest.split(b"\n")
            for line in lines:
                if self.waiting.pop(int(line[:10]), None) is not None:
                    self.received += 1
                    if self.heard_at is not None:
                        self.longest_gap = max(self.longest_gap, now - self.heard_at)
                    self.heard_at = now

    def give_up(self, now, patience):
        late = [number for number, at in self.waiting.items() if now - at > patience]
        # TCP sends again by itself: only the end of the conversation says what was lost.
        if self.args.kind == "udp" or patience == 0:
            for number in late:
                del self.waiting[number]
            self.lost += late

    def tell(self, done=False):
        now = time.monotonic()
        state = {
            "sent": self.sent, "received": self.received, "lost": len(self.lost), "which": self.lost[:20],
            "waiting": len(self.waiting), "longest_gap_ms": round(self.longest_gap * 1000),
            "silent_ms": round((now - (self.heard_at or self.began)) * 1000), "error": self.error, "done": done,
        }
        with open(self.args.state + ".new", "w") as file:
            json.dump(state, file)
        os.replace(self.args.state + ".new", self.args.state)

    def run(self):
        try:
            self.connect()
            self.converse()
        except OSError as error:
            self.error = str(error)
        self.give_up(time.monotonic(), 0)
        self.tell(done=True)

    def converse(self):
        ready = selectors.DefaultSelector()
        for own in self.sockets:
            ready.register(own, selectors.EVENT_READ)
        due = told = time.monotonic()
        while not self.stopped:
            now = time.monotonic()
            if now >= due:
                self.send(now)
                due = now + 1 / self.args.rate  # no catching up: a burst would measure queues, not the gateway
            for key, _ in ready.select(max(0, due - time.monotonic())):
                self.hear(time.monotonic(), key.fileobj)
            self.give_up(time.monotonic(), PATIENCE)
            if now - told > 0.02:
                self.tell()
                told = now
        end = time.monotonic() + PATIENCE
        while self.waiting and time.monotonic() < end:
            for key, _ in ready.select(0.05):
                self.hear(time.monotonic(), key.fileobj)


def main():
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("serve").add_argument("port", type=int)
    for kind in ("udp", "tcp"):
        talk = kinds.add_parser(kind)
        talk.add_argument("address")
        talk.add_argument("port", type=int)
        talk.add_argument("state")
        talk.add_argument("--rate", type=float, default=500)
        talk.add_argument("--size", type=int, default=64)
        talk.add_argument("--ports", type=int, default=1)
    args = parser.parse_args()
    if args.kind == "serve":
        serve(args.port)
    else:
        Talk(args).run()


main()
