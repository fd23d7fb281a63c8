#!/usr/bin/env python3
"""Writes the load of the HTTP benches: the captured assets and a list of requests.

    mix.py DIR [--paths]

DIR/assets/UUID are the bodies; DIR/requests.tsv has one request a line, "TARGET<tab>RANGE" with an
empty range for a whole GET. Targets are as a viewer asks, "/?texture_id=UUID"; with --paths they are
"/texture/UUID", and the bodies lie in DIR/assets/texture/. Of ten requests seven are whole, the others ask as viewers refine
textures (an early part, then the rest from one byte before) and as they read meshes (header, then
a level of detail).

The captures hold rather small assets over HTTP. The grid's other textures, of which manifest.json
has only the size, are made from captured ones with comment segments in their main header, which
keeps them valid codestreams; larger assets come somewhat more often, until the mean answer is
about 88 kB.
"""
import pathlib
import random
import struct
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "interop"))
import capture_assets  # noqa: E402

GOAL = 88_000
QUERY = {kind: name for name, kind in capture_assets.QUERY_KIND.items()}
TEXTURE_STEPS = (600, 16_792, 49_560, 180_632)


def first_tile(body: bytes) -> int:
    """Where the main header of a JPEG 2000 codestream ends: its first SOT marker."""
    at = 2
    while body[at:at + 2] != b"\xff\x90":
        at += 2 + struct.unpack(">H", body[at + 2:at + 4])[0]
    return at


def padded(body: bytes, size: int) -> bytes | None:
    """The codestream with comment segments before its first tile, `size` bytes long."""
    missing, comments = size - len(body), b""
    if missing < 7:
        return body if missing == 0 else None
    while missing > 0:
        segment = min(missing, 60_000)
        if 0 < missing - segment < 7:
            segment -= 7
        comments += b"\xff\x64" + struct.pack(">HH", segment - 2, 0) + b"\x01" * (segment - 6)
        missing -= segment
    at = first_tile(body)
    return body[:at] + comments + body[at:]


def all_assets() -> list:
    found = capture_assets.assets()
    textures = sorted((asset for asset in found.values() if asset.kind == "texture"), key=lambda asset: len(asset.body))
    for entry in capture_assets.manifest().values():
        if entry["uuid"] in found or entry["type"] != "texture":
            continue
        shorter = [asset for asset in textures if len(asset.body) <= entry["size"]]
        body = padded(shorter[-1].body, entry["size"]) if shorter else None
        if body:
            name = str(uuid.uuid5(uuid.NAMESPACE_OID, entry["uuid"]))
            found[name] = capture_assets.Asset(name, "texture", "image/x-j2c", body)
    return sorted(found.values(), key=lambda asset: asset.uuid)


def ranges(asset) -> list[tuple[str, int]]:
    """(Range value, answer length) as a viewer would ask for a part of this asset."""
    size = len(asset.body)
    if asset.kind == "texture":
        held = [step for step in TEXTURE_STEPS if step < size]
        return [(f"bytes=0-{step - 1}", step) for step in held[:2]] + [(f"bytes={held[-1] - 1}-{max(size, 180_632) - 1}", size - held[-1] + 1)]
    if asset.kind == "mesh":
        return [("bytes=0-4095", min(4096, size)), (f"bytes=4096-{size - 1}", size - 4096)]
    return [("", size)]


def plan(assets, weight: float, draw: random.Random, queries: bool) -> tuple[list[tuple[str, str]], float]:
    chances = [len(asset.body) ** weight for asset in assets]
    lines, total = [], 0
    for index, asset in enumerate(draw.choices(assets, chances, k=5000)):
        wanted, length = ("", len(asset.body)) if index % 10 < 7 else draw.choice(ranges(asset))
        target = f"/?{QUERY[asset.kind]}={asset.uuid}" if queries else f"/{asset.kind}/{asset.uuid}"
        lines.append((target, wanted))
        total += length
    return lines, total / len(lines)


def main() -> None:
    folder, queries = pathlib.Path(sys.argv[1]), "--paths" not in sys.argv[2:]
    assets = all_assets()
    for asset in assets:
        file = folder / "assets" / ("" if queries else asset.kind) / asset.uuid
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(asset.body)
    for tenths in range(0, 60):
        lines, mean = plan(assets, tenths / 10, random.Random(1), queries)
        if mean >= GOAL:
            break
    (folder / "requests.tsv").write_text("".join(f"{target}\t{wanted}\n" for target, wanted in lines))
    print(f"{len(assets)} assets, {len(lines)} requests, mean answer {mean / 1000:.1f} kB")


if __name__ == "__main__":
    main()
