#!/usr/bin/env python3
"""Ask every type of frontend over both families, and see by what the servers tell that the answers came the way they should.

    services.py WAY     one of WAYS; a line for each cell that fails, and a summary
"""
import json, subprocess, sys, time

CLIENT = {4: "192.0.2.11", 6: "2001:db8:1::11"}
GATEWAY = {4: "10.244.0.1", 6: "2001:db8:2::1"}
NODE = ("192.0.2.1", "2001:db8:1::1")
POD = {4: "10.244.0.21", 6: "2001:db8:2::21"}
# Ports: HTTP, DNS, UDP, iperf3, SCTP; the last row is what backends listen on.
SERVICE, NODE_PORTS, HOST_PORTS, TARGETS = (80, 53, 7, 5201, 9), (30080, 30053, 30007, 30521, 30009), (8081, 8053, 8007, 8521, 8009), (8080, 53, 7007, 5201, 9009)
# The addresses of each type of frontend, and the ports on them.
TYPES = {
    "ClusterIP": (("10.96.0.80", "2001:db8:96::80"), SERVICE),
    "NodePort": (NODE, NODE_PORTS),
    "LoadBalancer": (("203.0.113.80", "2001:db8:cafe::80"), SERVICE),
    "externalIP": (("198.51.100.80", "2001:db8:ef::80"), SERVICE),
    "hostPort": (NODE, HOST_PORTS),
}
# How TCP and everything else come back.
WAYS = {
    "dnat": ("dnat", "dnat"), "snat": ("snat", "snat"), "opt": ("dsr", "dsr"), "geneve": ("dsr", "dsr"), "ipip": ("dsr", "dsr"),
    "hybrid": ("dsr", "snat"),
}
CONNECTIONS, ASSOCIATIONS = 24, 2


def started(*command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, what):
    out, err = process.communicate(timeout=30)
    if process.returncode:
        raise AssertionError(f"{what} says {process.returncode}: {(err or out).strip()[-200:]}")
    return out.split("\n")[:-1] if out.endswith("\n") else out.split("\n")


def stories(lines, expected):
    """Every line is a server's name and then what was expected; the names."""
    for line in lines:
        name, _, rest = line.partition(" ")
        if rest != expected:
            raise AssertionError(f"heard {rest!r}, not {expected!r}")
    return {line.split()[0] for line in lines}


def cell(way, kind, family):
    """Everything that one frontend serves, each over connections of its own. Which backends answered, and Gbit/s."""
    (v4, v6), (http, dns, udp, speed, sctp) = TYPES[kind]
    ip = v4 if family == 4 else v6
    host = ip if family == 4 else f"[{ip}]"

    def expected(protocol, port):
        back = "dnat" if kind == "hostPort" else WAYS[way][protocol != "tcp"]
        if back == "dsr":
            return f"{CLIENT[family]} {ip} {port}"
        peer = GATEWAY[family] if back == "snat" else CLIENT[family]
        target = TARGETS[(http, dns, udp, speed, sctp).index(port)]
        return peer, target

    def told(lines, protocol, port):
        wanted = expected(protocol, port)
        if isinstance(wanted, tuple):
            peer, target = wanted
            own = {line.split()[2] for line in lines}
            pods = {POD[family]} if kind == "hostPort" else set(BACKENDS[family])
            if not own <= pods:
                raise AssertionError(f"answered by {own - pods}")
            return set().union(*(stories([line], f"{peer} {line.split()[2]} {target}") for line in lines))
        return stories(lines, wanted)

    urls = [f"http://{host}:{http}/"] * CONNECTIONS
    curl = started("curl", "-sS", "--max-time", "20", "-H", "Connection: close", *urls)
    digs = [started("dig", f"@{ip}", "-p", str(dns), "+short", "+tries=1", "+time=5", *extra, "web.test") for extra in ((), ("+tcp",))]
    others = started("python3", f"{HERE}/tell.py", "ask", ip, str(udp), str(sctp), str(ASSOCIATIONS))
    names = told(ended(curl, "curl"), "tcp", http)
    for dig in digs:
        if (answer := ended(dig, "dig")) != ["198.18.0.1"]:
            raise AssertionError(f"dig hears {answer}")
    lines = [line.split(" ", 1) for line in ended(others, "UDP and SCTP")]
    for protocol, port in (("udp", udp), ("sctp", sctp)):
        heard = [line for of, line in lines if of == protocol]
        if len(heard) != ASSOCIATIONS:
            raise AssertionError(f"{protocol}: {lines}")
        told(heard, protocol, port)
    address = ip if kind in ("NodePort", "hostPort") else ip[:-2] + "81"
    bulk = ended(started("iperf3", "-J", "-c", address, "-p", str(speed), "-n", "1M", "--connect-timeout", "5000"), "iperf3")
    return names, json.loads("".join(bulk))["end"]["sum_received"]["bits_per_second"] / 1e9


BACKENDS = {4: ("10.244.0.11", "10.244.0.12"), 6: ("2001:db8:2::11", "2001:db8:2::12")}
HERE = __file__.rsplit("/", 1)[0]


def main():
    way = sys.argv[1]
    failed, answered, rates, began = 0, set(), [], time.monotonic()
    row = []
    for kind in TYPES:
        families = []
        for family in (4, 6):
            try:
                names, rate = cell(way, kind, family)
                if kind != "hostPort":
                    answered |= names
                rates.append(rate)
                families.append(f"IPv{family}")
            except (AssertionError, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as error:
                failed += 1
                print(f"{way}, {kind}, IPv{family}: {error}", flush=True)
        row.append(f"{kind} {'+'.join(families) or 'neither'}")
    if answered != {"b1", "b2"}:
        failed += 1
        print(f"{way}: only {answered} answered")
    print(f"figure: {way}: {', '.join(row)}; iperf3 at least {min(rates, default=0):.2f} Gbit/s; {time.monotonic() - began:.1f} s")
    sys.exit(failed > 0)


main()
