"""A backend's tunnel end on a plain kernel: what comes in IP-in-IP is given to the kernel by a TUN device.

    decap.py DEVICE     makes the device, sets it up, and goes on until it is told to end
"""
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

device = sys.argv[1]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
subprocess.run(["ip", "link", "set", device, "up"], check=True)
v4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
v6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 41)
while True:
    ready, _, _ = select.select([v4, v6], [], [])
    for end in ready:
        packet = end.recv(65535)
        # The kernel shows the outer header of IPv4 alone.
        os.write(tun, packet[(packet[0] & 15) * 4:] if end is v4 else packet)
