#!/usr/bin/env python3
"""A server that tells whom it heard and as whom, over UDP and SCTP, and its client. SCTP is spoken by hand over raw sockets: the
kernels of labs may know nothing of it.

    tell.py serve NAME UDP-PORT…                   "NAME PEER OWN-ADDRESS OWN-PORT" to each datagram, and in SCTP on every port
    tell.py ask ADDRESS UDP-PORT SCTP-PORT COUNT   what is told: COUNT datagrams, COUNT whole associations; a line for each
"""
import ipaddress, os, random, select, socket, struct, sys, time

from wire import crc32c

SCTP = 132
DATA, INIT, INIT_ACK, SACK, SHUTDOWN, SHUTDOWN_ACK, ECHO, COOKIE_ACK, COMPLETE = 0, 1, 2, 3, 7, 8, 10, 11, 14


def chunk(kind, value=b"", flags=0):
    return struct.pack("!BBH", kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)


def packet(sport, dport, tag, *chunks):
    head, rest = struct.pack("!HHI", sport, dport, tag), b"".join(chunks)
    return head + struct.pack("<I", crc32c(head + bytes(4) + rest)) + rest


def data(tsn, text):
    return chunk(DATA, struct.pack("!IHHI", tsn, 0, 0, 0) + text, 3)


def read(raw):
    """Ports, tag and the first chunk; the checksum must be right."""
    sport, dport, tag = struct.unpack("!HHI", raw[:8])
    assert struct.pack("<I", crc32c(raw[:8] + bytes(4) + raw[12:])) == raw[8:12], "a wrong SCTP checksum"
    kind, _, length = struct.unpack("!BBH", raw[12:16])
    return sport, dport, tag, kind, raw[16 : 12 + length]


def plain(address):
    ip = ipaddress.ip_address(address.split("%")[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip)


class Server:
    def __init__(self, name, ports):
        self.name, self.peers, self.sockets = name, {}, {}
        for port in ports:
            self.listen(socket.AF_INET6, socket.SOCK_DGRAM, port, 0)
        for family in (socket.AF_INET, socket.AF_INET6):
            self.listen(family, socket.SOCK_RAW, 0, SCTP)

    def listen(self, family, kind, port, proto):
        own = socket.socket(family, kind, proto)
        if family == socket.AF_INET6:
            if kind == socket.SOCK_DGRAM:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                own.bind(("::", port))
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            own.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        self.sockets[own] = port

    def run(self):
        print("serving", flush=True)
        while True:
            for own in select.select(list(self.sockets), [], [])[0]:
                heard, aside, _, peer = own.recvmsg(65536, 256)
                # Answers come from the address that was asked.
                level, kind, told = aside[0]
                if own.family == socket.AF_INET6:
                    asked, told = socket.inet_ntop(socket.AF_INET6, told[:16]), told[:16] + bytes(4)
                else:
                    asked, told = socket.inet_ntoa(told[8:12]), bytes(4) + told[8:12] + bytes(4)
                    heard = heard[(heard[0] & 15) * 4 :]
                story = lambda port: f"{self.name} {plain(peer[0])} {plain(asked)} {port}".encode()
                port = self.sockets[own]
                answers = [story(port)] if port else self.associate(heard, peer[0], story)
                for answer in answers:
                    own.sendmsg([answer], [(level, kind, told)], 0, peer)

    def associate(self, heard, peer, story):
        sport, dport, tag, kind, value = read(heard)
        if kind == INIT:
            own = random.randrange(1, 1 << 32)
            self.peers[peer, sport] = theirs = struct.unpack("!I", value[:4])[0]
            cookie = struct.pack("!HH4s", 7, 8, b"cook")
            return [packet(dport, sport, theirs, chunk(INIT_ACK, struct.pack("!IIHHI", own, 65536, 1, 1, 1) + cookie))]
        theirs = self.peers.get((peer, sport), 0)
        if kind == ECHO:
            return [packet(dport, sport, theirs, chunk(COOKIE_ACK))]
        if kind == DATA:
            seen = chunk(SACK, struct.pack("!IIHH", struct.unpack("!I", value[:4])[0], 65536, 0, 0))
            return [packet(dport, sport, theirs, seen, data(1, story(dport)))]
        if kind == SHUTDOWN:
            return [packet(dport, sport, theirs, chunk(SHUTDOWN_ACK))]
        return []


def associate(address, port):
    """One association from beginning to end; what the server told."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    own = socket.socket(family, socket.SOCK_RAW, SCTP)
    own.settimeout(3)
    own.connect((address, 0))
    sport, tag = random.randrange(20000, 30000), random.randrange(1, 1 << 32)

    def exchange(to, *chunks):
        own.send(packet(sport, port, to, *chunks))
        while True:
            heard = own.recv(65536)
            if family == socket.AF_INET:
                heard = heard[(heard[0] & 15) * 4 :]
            theirs, ours, seen, kind, value = read(heard)
            if ours == sport:
                assert (theirs, seen) == (port, tag), "another port or tag than was agreed"
                return heard, kind, value

    _, kind, value = exchange(0, chunk(INIT, struct.pack("!IIHHI", tag, 65536, 1, 1, 1)))
    assert kind == INIT_ACK, kind
    theirs = struct.unpack("!I", value[:4])[0]
    assert exchange(theirs, chunk(ECHO, b"cook"))[1] == COOKIE_ACK
    heard, kind, _ = exchange(theirs, data(1, b"who?"))
    assert kind == SACK, kind
    story = heard[12 + 16 + 16 :].rstrip(b"\0").decode()
    assert exchange(theirs, chunk(SHUTDOWN, struct.pack("!I", 1)))[1] == SHUTDOWN_ACK
    own.send(packet(sport, port, theirs, chunk(COMPLETE)))
    return story


def datagram(address, port):
    own = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    own.settimeout(3)
    own.connect((address, port))
    own.send(os.urandom(32))
    return own.recv(65536).decode()


def main():
    if sys.argv[1] == "serve":
        Server(sys.argv[2], map(int, sys.argv[3:])).run()
    address, udp, sctp, count = sys.argv[2], *map(int, sys.argv[3:])
    for _ in range(count):
        print("udp", datagram(address, udp))
        print("sctp", associate(address, sctp))


main()
