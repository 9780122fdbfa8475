#!/usr/bin/env python3
"""Frames that programs on kernel sockets cannot send, and what comes back: bounded in number and time.

    frames.py send DEVICE MAC SOURCE DESTINATION [options]     one kind of packet, --count of it
    frames.py flood DEVICE MAC DESTINATION PORT [options]      SYNs from ever new sources
    frames.py listen DEVICE SECONDS [--count N]                one JSON object a frame; ends after --count frames

`send` makes UDP by default; --fragments takes pieces in the order of sending as OFFSET+LENGTH, in bytes of the IP payload,
as in `1480+520,0+1480`.
"""
import argparse, ipaddress, json, os, random, select, socket, struct, sys, time

from wire import checksum

PROTOCOLS = {"udp": 17, "tcp": 6, "icmp": 1, "icmp6": 58}


def pseudo(src, dst, proto, length):
    return sum(struct.unpack(f"!{len(src.packed)}H", src.packed + dst.packed)) + proto + length


def transport(args, src, dst):
    """The IP payload with its checksum."""
    data = bytes(i % 251 for i in range(args.size))
    if args.text:
        data = args.text.encode()
    if args.proto == "udp":
        head, at = struct.pack("!4H", args.sport, args.dport, 8 + len(data), 0), 6
    elif args.proto == "tcp":
        flags = sum(1 << "FSRPAU".index(letter) for letter in args.flags)
        head, at = struct.pack("!2H2I4H", args.sport, args.dport, args.seq, args.ack, 5 << 12 | flags, 65535, 0, 0), 16
    else:
        head, at = struct.pack("!2B3H", 8 if args.proto == "icmp" else 128, 0, 0, args.sport, 1), 2
    whole = head + data
    start = 0 if args.proto == "icmp" else pseudo(src, dst, PROTOCOLS[args.proto], len(whole))
    value = checksum(whole, start) ^ (0x5555 if args.bad == "l4" else 0)
    return whole[:at] + struct.pack("!H", value) + whole[at + 2 :]


def ip(args, src, dst, proto, payload, offset=0, more=False, ident=0):
    if src.version == 4:
        flags = offset // 8 | more << 13 | (0x4000 if args.df else 0)
        total = 20 + len(payload) + args.lie
        head = struct.pack("!BBHHHBBH", 0x45, 0, total, ident, flags, args.ttl, proto, 0) + src.packed + dst.packed
        value = checksum(head) ^ (0x5555 if args.bad == "ip" else 0)
        return head[:10] + struct.pack("!H", value) + head[12:] + payload
    if offset or more:
        payload = struct.pack("!BBHI", proto, 0, offset | more, ident) + payload
        proto = 44
    return struct.pack("!IHBB", 6 << 28, len(payload) + args.lie, proto, args.ttl) + src.packed + dst.packed + payload


def ethernet(args, own, version, packet):
    tags = b"".join(struct.pack("!HH", 0x8100, tag) for tag in args.vlan)
    return bytes.fromhex(args.mac.replace(":", "")) + own + tags + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet


def raw(device):
    own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    own.bind((device, 0))
    return own, own.getsockname()[4]


def send(args):
    link, own = raw(args.device)
    src, dst = ipaddress.ip_address(args.source), ipaddress.ip_address(args.destination)
    for number in range(args.count):
        payload = transport(args, src, dst)
        ident = args.ident or random.randrange(1, 1 << 16)
        pieces = [(0, len(payload), False)]
        if args.fragments:
            cut = [tuple(map(int, piece.split("+"))) for piece in args.fragments.split(",")]
            last = max(offset + length for offset, length in cut)
            pieces = [(offset, length, offset + length < last) for offset, length in cut]
        for offset, length, more in pieces:
            piece = payload[offset : offset + length]
            link.send(ethernet(args, own, src.version, ip(args, src, dst, PROTOCOLS[args.proto], piece, offset, more, ident)))
        args.sport += args.step
        if args.rate:
            time.sleep(1 / args.rate)


def flood(args):
    """As fast as one socket goes: templates differ in source address and port."""
    link, own = raw(args.device)
    args.proto, args.flags, args.ack, args.size, args.text, args.dport = "tcp", "S", 0, 0, None, args.port
    net, dst, frames = ipaddress.ip_network(args.sources), ipaddress.ip_address(args.destination), []
    for number in range(args.count):
        src = net[random.randrange(net.num_addresses)]
        args.sport, args.seq = random.randrange(1024, 65536), random.randrange(1 << 32)
        frames.append(ethernet(args, own, src.version, ip(args, src, dst, 6, transport(args, src, dst))))
    began = time.monotonic()
    for number, frame in enumerate(frames):
        link.send(frame)
        ahead = number / args.rate - (time.monotonic() - began)
        if ahead > 0.002:
            time.sleep(ahead)
    print(json.dumps({"sent": len(frames), "seconds": round(time.monotonic() - began, 3)}))


def listen(args):
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    link.bind((args.device, 3))
    link.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the kernel takes tags off and tells of them aside
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    print(json.dumps({"listening": True}), flush=True)
    end, seen = time.monotonic() + args.seconds, 0
    while seen < args.count and (left := end - time.monotonic()) > 0:
        if not select.select([link], [], [], left)[0]:
            break
        frame, extra, _, address = link.recvmsg(65536, 256)
        told = describe(frame) if address[2] != 4 else None  # 4: what this host sent itself
        if told and (not args.proto or told.get("proto") == args.proto):
            for level, kind, data in extra:
                status, _, _, _, _, tag, _ = struct.unpack("IIIHHHH", data[:20])
                if status & 0x10:
                    told["vlan"] = tag & 0xFFF
            told["at"] = time.time()
            print(json.dumps(told), flush=True)
            seen += 1


def describe(frame):
    kind, packet = frame[12:14], frame[14:]
    told = {"source_mac": frame[6:12].hex(":"), "length": len(frame)}
    if kind == b"\x08\x00" and len(packet) >= 20:
        head = (packet[0] & 15) * 4
        total, ident, flags, told["ttl"], proto = struct.unpack("!2xHHHBB", packet[:10])
        told["src"], told["dst"] = (str(ipaddress.ip_address(packet[i : i + 4])) for i in (12, 16))
        told["ip_ok"], payload = checksum(packet[:head]) == 0, packet[head:total]
        told["offset"], told["more"], told["df"] = (flags & 0x1FFF) * 8, bool(flags & 0x2000), bool(flags & 0x4000)
    elif kind == b"\x86\xdd" and len(packet) >= 40:
        length, proto, told["ttl"] = struct.unpack("!4xHBB", packet[:8])
        told["src"], told["dst"] = (str(ipaddress.ip_address(packet[i : i + 16])) for i in (8, 24))
        payload, told["offset"], told["more"] = packet[40 : 40 + length], 0, False
        if proto == 44:
            proto, field = payload[0], struct.unpack("!H", payload[2:4])[0]
            told["offset"], told["more"], payload = field & ~7, bool(field & 1), payload[8:]
    else:
        return None
    names = {number: name for name, number in PROTOCOLS.items()}
    told["proto"] = names.get(proto, proto)
    if told["offset"] == 0 and len(payload) >= 8:
        if proto in (6, 17):
            told["sport"], told["dport"] = struct.unpack("!HH", payload[:4])
        else:
            told["type"], told["code"] = payload[0], payload[1]
            told["mtu"] = struct.unpack("!I", payload[4:8])[0]
        src, dst = ipaddress.ip_address(told["src"]), ipaddress.ip_address(told["dst"])
        start = 0 if proto == 1 else pseudo(src, dst, proto, len(payload))
        told["l4_ok"] = told["more"] or checksum(payload, start) == 0
        if proto in (1, 58) and told["type"] in ((3, 11) if proto == 1 else (1, 2, 3)):
            told["quoted"] = describe(b"\0" * 12 + kind + payload[8:])
    return told


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("send", "flood"):
        command = commands.add_parser(name)
        for argument in ("device", "mac") + (("source", "destination") if name == "send" else ("destination",)):
            command.add_argument(argument)
        command.add_argument("--vlan", type=int, action="append", default=[])
        command.add_argument("--ttl", type=int, default=64)
        command.add_argument("--df", action="store_true")
        command.add_argument("--lie", type=int, default=0, help="add to the length that the IP header tells")
        command.add_argument("--bad", choices=["ip", "l4"], help="a wrong checksum")
        command.add_argument("--count", type=int, default=1)
    one = commands.choices["send"]
    one.add_argument("--proto", choices=PROTOCOLS, default="udp")
    one.add_argument("--sport", type=int, default=40000)
    one.add_argument("--dport", type=int, default=7)
    one.add_argument("--step", type=int, default=0, help="add to the source port after each")
    one.add_argument("--flags", default="S")
    one.add_argument("--seq", type=int, default=1)
    one.add_argument("--ack", type=int, default=0)
    one.add_argument("--size", type=int, default=32)
    one.add_argument("--text")
    one.add_argument("--ident", type=int)
    one.add_argument("--fragments")
    one.add_argument("--rate", type=float)
    many = commands.choices["flood"]
    many.add_argument("port", type=int)
    many.add_argument("--sources", default="198.18.0.0/15")
    many.add_argument("--rate", type=float, default=20000)
    ear = commands.add_parser("listen")
    ear.add_argument("device")
    ear.add_argument("seconds", type=float)
    ear.add_argument("--count", type=int, default=1 << 30)
    ear.add_argument("--proto", choices=PROTOCOLS)
    args = parser.parse_args()
    {"send": send, "flood": flood, "listen": listen}[args.command](args)


main()
