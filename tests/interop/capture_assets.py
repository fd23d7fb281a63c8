#!/usr/bin/env python3
"""Reads the captures: assets as they crossed HTTP, HTTP replies, and LLUDP datagrams.

A minimal pcap, IPv4, TCP and HTTP/1.1 reader, so that the stand-in grid is fed with what a real
grid sent and needs no other tool. Every asset is checked against the sha256 of manifest.json.

Run as a program it prints what the captures hold, or writes the assets to a folder:

    capture_assets.py [--captures DIR] [--write DIR]
"""
from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
import re
import struct
import sys
from typing import Iterator

CAPTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "sessions"

# Bytes before the IPv4 header, by pcap link type: null/loop, Ethernet, raw IP, Linux cooked.
LINK_HEADER = {0: 4, 1: 14, 101: 0, 113: 16}
PCAP_ORDER = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}
QUERY_KIND = {"texture_id": "texture", "mesh_id": "mesh", "sound_id": "sound", "animatn_id": "animation"}
ZERO_CODED, RELIABLE, APPENDED_ACKS = 0x80, 0x40, 0x10


@dataclasses.dataclass
class Asset:
    uuid: str
    kind: str
    content_type: str
    body: bytes


@dataclasses.dataclass
class Exchange:
    """One HTTP request and its answer; header names in lower case."""

    method: str
    target: str
    request_headers: dict[str, str]
    request_body: bytes
    status: int
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass
class Datagram:
    """One LLUDP datagram of a simulator, without header and acks, its body coded as captured."""

    port: int
    flags: int
    body: bytes


def packets(path: pathlib.Path) -> Iterator[tuple[int, bytes, bytes, bytes]]:
    """Yields (protocol, source address, destination address, payload) of each IPv4 packet."""
    data = path.read_bytes()
    order = PCAP_ORDER[data[:4]]
    skip = LINK_HEADER[struct.unpack(order + "I", data[20:24])[0]]
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8:at + 12])[0]
        frame = data[at + 16 + skip:at + 16 + length]
        at += 16 + length
        if len(frame) < 20 or frame[0] >> 4 != 4:
            continue
        total = struct.unpack(">H", frame[2:4])[0]
        yield frame[9], frame[12:16], frame[16:20], frame[(frame[0] & 15) * 4:total]


def streams(path: pathlib.Path) -> dict[tuple, bytes]:
    """The byte stream of each direction of each TCP connection, as far as it has no hole."""
    segments: dict[tuple, list[tuple[int, bytes]]] = {}
    first: dict[tuple, int] = {}
    for protocol, source, target, payload in packets(path):
        if protocol != 6:
            continue
        source_port, target_port, sequence = struct.unpack(">HHI", payload[:8])
        key = (source, source_port, target, target_port)
        if payload[13] & 0x02:
            first[key] = (sequence + 1) & 0xFFFFFFFF
            segments[key] = []
        body = payload[(payload[12] >> 4) * 4:]
        if body:
            start = first.setdefault(key, sequence)
            segments.setdefault(key, []).append(((sequence - start) & 0xFFFFFFFF, body))
    result = {}
    for key, parts in segments.items():
        out = bytearray()
        for offset, body in sorted(parts, key=lambda part: part[0]):
            if offset > len(out):
                break
            out += body[len(out) - offset:]
        result[key] = bytes(out)
    return result


def head_and_body(data: bytes, at: int, bodiless: bool = False) -> tuple[str, dict[str, str], bytes, int] | None:
    """One HTTP message at `at`: first line, headers, body, and where the next one begins."""
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    first, *lines = data[at:end].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = 0 if bodiless else int(headers.get("content-length", "0"))
    body = data[end + 4:end + 4 + length]
    return (first, headers, body, end + 4 + length) if len(body) == length else None


def exchanges(path: pathlib.Path, port: int = 9000) -> Iterator[Exchange]:
    """The HTTP exchanges of a capture, connection by connection."""
    all_streams = streams(path)
    for (source, source_port, target, target_port), asked in all_streams.items():
        answered = all_streams.get((target, target_port, source, source_port))
        if target_port != port or answered is None:
            continue
        ask_at = answer_at = 0
        while (request := head_and_body(asked, ask_at)) is not None:
            method, url, _ = request[0].split(" ", 2)
            reply = head_and_body(answered, answer_at)
            # Nothing after an answer to HEAD can be told apart: the captured grid sends a body there.
            if reply is None or method == "HEAD":
                break
            ask_at, answer_at = request[3], reply[3]
            yield Exchange(method, url, request[1], request[2], int(reply[0].split(" ")[1]), reply[1], reply[2])


def manifest(captures: pathlib.Path = CAPTURES) -> dict[str, dict]:
    """What manifest.json says of each asset, by UUID."""
    return {entry["uuid"]: entry for entry in json.loads((captures / "manifest.json").read_text())}


def assets(captures: pathlib.Path = CAPTURES) -> dict[str, Asset]:
    """Every asset that a capture holds whole over HTTP; raises when one differs from the manifest."""
    known = manifest(captures)
    found: dict[str, Asset] = {}
    for path in sorted(captures.glob("*.pcap")):
        for exchange in exchanges(path):
            match = re.search(r"[?&]([a-z]+_id)=([0-9a-fA-F-]{36})", exchange.target)
            if exchange.status != 200 or not match or match[1] not in QUERY_KIND:
                continue
            uuid = match[2].lower()
            entry = known.get(uuid)
            if entry is None or entry["type"] != QUERY_KIND[match[1]]:
                continue
            digest = hashlib.sha256(exchange.body).hexdigest()
            if digest != entry["sha256"]:
                raise ValueError(f"{path.name}: {uuid} has sha256 {digest}, the manifest says {entry['sha256']}")
            found[uuid] = Asset(uuid, entry["type"], exchange.headers["content-type"], exchange.body)
    return found


def simulator_datagrams(path: pathlib.Path, ports: tuple[int, ...] = (9000, 9001)) -> Iterator[Datagram]:
    """What the simulators of a capture sent, in order, resent copies included."""
    for protocol, _, _, payload in packets(path):
        if protocol != 17:
            continue
        source_port = struct.unpack(">H", payload[:2])[0]
        data = payload[8:]
        if source_port not in ports or len(data) < 7:
            continue
        end = len(data)
        if data[0] & APPENDED_ACKS:
            end -= 1 + 4 * data[-1]
        yield Datagram(source_port, data[0] & (ZERO_CODED | RELIABLE), data[6 + data[5]:end])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captures", type=pathlib.Path, default=CAPTURES)
    parser.add_argument("--write", type=pathlib.Path, help="write each asset to this folder, named by its UUID")
    options = parser.parse_args()
    found = assets(options.captures)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for asset in found.values():
            (options.write / asset.uuid).write_bytes(asset.body)
    kinds: dict[str, int] = {}
    for asset in found.values():
        kinds[asset.kind] = kinds.get(asset.kind, 0) + 1
    json.dump({"assets": len(found), "bytes": sum(len(a.body) for a in found.values()), "kinds": kinds}, sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
