"""Announces more servers than any home has, by plain multicast: run within a network namespace of its own.

The packets are written out by hand (RFC 1035, RFC 6762, RFC 6763): PTR, SRV, TXT and A in one response.
"""

import socket
import struct
import sys


def name(text):
    labels = [part.encode() for part in text.split(".") if part]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner, kind, data, flush):
    return name(owner) + struct.pack(">HHIH", kind, 0x8001 if flush else 1, 4500, len(data)) + data


def announcement(number, pin):
    service = "_rezcache._udp.local"
    instance, host = f"flood-{number}.{service}", f"flood-{number}.local"
    text = b"".join(bytes([len(part)]) + part for part in (b"v=1", b"pin=" + pin.encode()))
    address = bytes([10, 77, 9, number % 250 + 1])
    records = [
        record(service, 12, name(instance), False),
        record(instance, 33, struct.pack(">HHH", 0, 0, 1000 + number) + name(host), True),
        record(instance, 16, text, True),
        record(host, 1, address, True),
    ]
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


own, pin, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sender.bind(("", 5353))
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
for number in range(count):
    # Every other one claims to be the server that was joined.
    claimed = pin if number % 2 else "sha256:" + format(number, "064x")
    sender.sendto(announcement(number, claimed), ("224.0.0.251", 5353))
