#!/usr/bin/env python3
"""Assets from a grid that breaks off, lies about lengths, resets and refuses.

Starts nothing. Logs in at --login-uri, plans one fault per asset on the stand-in grid at --grid,
and asks for each asset three times. The first answer may fail, or be what the grid sent, but is
never a complete answer with wrong bytes made to look right; the second must be right; with --cached
the third must not reach the grid. Prints one JSON object; exit status 1 when anything was wrong.
"""
from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import pathlib
import sys
import xmlrpc.client

import aiohttp
from hippolyzer.lib.base import llsd

import capture_assets

PASSWORD = "$1$" + hashlib.md5(b"secret").hexdigest()
# Fault, kind of asset, the range to ask with, and whether the client must see that the answer is not
# whole. A length that is too short shows only in a format that tells where it ends: grids do hold
# textures whose end is missing, and a cache must take those.
PLAN = (
    ("break", "texture", None, True), ("break", "texture", "bytes=0-16791", True), ("break", "animation", None, True),
    ("long_length", "texture", None, True), ("short_length", "sound", None, False), ("short_length", "animation", None, False),
    ("wrong_range", "texture", "bytes=0-599", False), ("503", "texture", None, True), ("slow", "texture", None, False),
    ("slow", "sound", None, False), ("reset", "texture", None, False),
)
QUERY = {kind: name for name, kind in capture_assets.QUERY_KIND.items()}


async def ask(http, url: str, wanted: str | None) -> tuple[int, bytes]:
    """Status and body; status 0 when the answer broke off or never came."""
    try:
        async with http.get(url, headers={"Range": wanted} if wanted else {}) as reply:
            return reply.status, await reply.read()
    except (aiohttp.ClientError, ConnectionError):
        return 0, b""


async def run(options) -> list[str]:
    errors = []
    assets = sorted(capture_assets.assets().values(), key=lambda asset: asset.uuid)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        given = {"first": "Lab", "last": "Faults", "passwd": PASSWORD, "start": "last", "options": []}
        body = xmlrpc.client.dumps((given,), "login_to_simulator")
        async with http.post(options.login_uri, data=body, headers={"Content-Type": "text/xml"}) as reply:
            seed = xmlrpc.client.loads(await reply.read())[0][0]["seed_capability"]
        headers = {"Content-Type": "application/llsd+xml"}
        async with http.post(seed, data=llsd.format_xml(["ViewerAsset"]), headers=headers) as reply:
            capability = llsd.parse_xml(await reply.read())["ViewerAsset"]

        async def asked(asset_id: str) -> int:
            async with http.get(f"{options.grid}/__counts") as reply:
                return (await reply.json())["assets"].get("http", {}).get(asset_id, {}).get("requests", 0)

        for fault, kind, wanted, must_fail in PLAN:
            asset = next(asset for asset in assets if asset.kind == kind)
            assets.remove(asset)
            what = f"{fault} on {wanted or 'the whole'} of a {kind}"
            async with http.get(f"{options.grid}/__fault", params={"id": asset.uuid, "kind": fault}) as reply:
                assert reply.status == 200
            url = f"{capability}/?{QUERY[kind]}={asset.uuid}"
            status, body = await ask(http, url, wanted)
            # Whoever stands between may ask once more before it has answered anything.
            made_good = options.cached and (status, body) == (200, asset.body)
            if must_fail and 200 <= status < 300 and not made_good:
                errors.append(f"{what}: the client saw {status} with {len(body)} bytes as if all were well")
            if 200 <= status < 300 and not asset.body.startswith(body):
                errors.append(f"{what}: other bytes than the grid sent")
            status, body = await ask(http, url, None)
            if (status, body) != (200, asset.body):
                errors.append(f"{what}: afterwards {status} with {len(body)} bytes, {len(asset.body)} expected")
            before = await asked(asset.uuid)
            status, body = await ask(http, url, None)
            if (status, body) != (200, asset.body):
                errors.append(f"{what}: the third answer is {status} with {len(body)} bytes")
            if options.cached and await asked(asset.uuid) != before:
                errors.append(f"{what}: the third request went to the grid")
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--login-uri", required=True)
    parser.add_argument("--grid", required=True, help="URL of the stand-in grid itself, for its controls")
    parser.add_argument("--cached", action="store_true", help="there is a cache in between")
    errors = asyncio.run(run(parser.parse_args()))
    print(json.dumps({"ok": not errors, "errors": errors}))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
