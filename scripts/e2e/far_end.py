#!/usr/bin/env python3
"""A backend's end of every way in which it is told to answer a client itself, on a plain kernel and written from the formats.

    far_end.py DEVICE TUN STATE     hears DEVICE, gives what it understood to the kernel by TUN; STATE counts it by kind

Understood are IP in IP, Geneve with the service in an option, and the option of the IP header itself (the service is told
at a connection's beginning and remembered). What the kernel gets is addressed to the service, which it must have as an
address of its own; the frames themselves are to be kept from it (nftables).
"""
import fcntl, json, os, socket, struct, subprocess, sys

from wire import checksum, crc32c

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
OUTGOING = 4
TCP, UDP, SCTP, IPIP, IP6IP, DESTINATION = 6, 17, 132, 4, 41, 60
SUM_AT = {TCP: 16, UDP: 6}


def services_of_options(options, skip_padding):
    """Type and data of every option of an IPv4 (0 ends, 1 pads) or IPv6 (0 pads) header."""
    while options:
        if options[0] in skip_padding:
            options = options[1:]
            continue
        if skip_padding == (1,):
            kind, length = options[0], options[1] if options[0] else len(options)
            yield kind, options[2:length]
        else:
            kind, length = options[0], options[1] + 2
            yield kind, options[2:length]
        options = options[max(length, 2) :]


class FarEnd:
    def __init__(self):
        self.known, self.counts = {}, {"ipip": 0, "geneve": 0, "opt": 0}

    def understand(self, packet):
        """The packet as the kernel is to have it, or None."""
        v4 = packet[0] >> 4 == 4
        if v4:
            head, proto, end = (packet[0] & 15) * 4, packet[9], struct.unpack("!H", packet[2:4])[0]
        else:
            head, proto, end = 40, packet[6], 40 + struct.unpack("!H", packet[4:6])[0]
        packet = packet[:end]
        if proto == (IPIP if v4 else IP6IP):
            self.counts["ipip"] += 1
            return packet[head:]
        if proto == UDP and struct.unpack("!H", packet[head + 2 : head + 4])[0] == 6081:
            return self.geneve(packet[head + 8 :])
        return self.option(packet, v4, head, proto)

    def geneve(self, rest):
        end = 8 + (rest[0] & 63) * 4
        options, frame = rest[8:end], rest[end:]
        assert rest[2:4] == b"\x65\x58" and options[:3] == b"\x01\x4b\x81", "an option of the service"
        v4 = frame[12:14] == b"\x08\x00"
        size = 4 if v4 else 16
        ip, port = options[4 : 4 + size], struct.unpack("!H", options[4 + size : 6 + size])[0]
        self.counts["geneve"] += 1
        return redirected(frame[14:], ip, port)

    def option(self, packet, v4, head, proto):
        told = None
        if v4 and head > 20:
            for kind, data in services_of_options(packet[20:head], (1,)):
                if kind == 0x9A:
                    told = data[2:6][::-1], struct.unpack("<H", data[:2])[0]
            total = struct.pack("!H", len(packet) - head + 20)
            packet = b"\x45" + packet[1:2] + total + packet[4:20] + packet[head:]
            head = 20
        elif not v4 and proto == DESTINATION:
            proto, length = packet[40], (packet[41] + 1) * 8
            for kind, data in services_of_options(packet[42 : 40 + length], (0,)):
                if kind == 0x1B:
                    told = data[:16], struct.unpack("!H", data[16:18])[0]
            rest = packet[40 + length :]
            packet = packet[:4] + struct.pack("!HB", len(rest), proto) + packet[7:40] + rest
        if proto not in (TCP, UDP, SCTP):
            return None
        flow = packet[12:20] if v4 else packet[8:40]
        flow += bytes([proto]) + packet[head : head + 4]
        if told:
            self.counts["opt"] += 1
            self.known[flow] = told
        told = self.known.get(flow)
        return redirected(packet, *told) if told else None


def redirected(packet, ip, port):
    """The packet with another destination, its checksums right as far as they were."""
    packet = bytearray(packet)
    v4 = packet[0] >> 4 == 4
    head, proto, at = (20, packet[9], 16) if v4 else (40, packet[6], 24)
    old = bytes(packet[at : at + len(ip)] + packet[head + 2 : head + 4])
    packet[at : at + len(ip)] = ip
    packet[head + 2 : head + 4] = struct.pack("!H", port)
    if v4:
        packet[10:12] = b"\0\0"
        packet[10:12] = struct.pack("!H", checksum(bytes(packet[:20])))
    if proto == SCTP:
        packet[head + 8 : head + 12] = bytes(4)
        packet[head + 8 : head + 12] = struct.pack("<I", crc32c(bytes(packet[head:])))
    else:
        sum_at = head + SUM_AT[proto]
        before = struct.unpack("!H", packet[sum_at : sum_at + 2])[0]
        # RFC 1624: ~(~before + ~old + new).
        words = sum(~word & 0xFFFF for word in struct.unpack(f"!{len(old) // 2}H", old))
        after = checksum(ip + struct.pack("!H", port), (~before & 0xFFFF) + words)
        packet[sum_at : sum_at + 2] = struct.pack("!H", after)
    return bytes(packet)


def main():
    device, name, state = sys.argv[1:]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"], check=True)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    link.bind((device, 3))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    link.settimeout(0.2)
    end, told = FarEnd(), None
    while True:
        try:
            packet, address = link.recvfrom(65536)
            if address[2] != OUTGOING and address[1] in (0x0800, 0x86DD):
                if inner := end.understand(packet):
                    os.write(tun, inner)
        except TimeoutError:
            pass
        else:
            continue
        if told != end.counts:
            told = dict(end.counts)
            with open(state + ".new", "w") as file:
                json.dump(told, file)
            os.replace(state + ".new", state)


main()
