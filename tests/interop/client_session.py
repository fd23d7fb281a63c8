#!/usr/bin/env python3
"""One session of a client others wrote (hippolyzer's HippoClient), from login to logout.

Starts nothing. Logs in at --login-uri, connects the region and its neighbour, fetches textures,
sounds, animations and meshes over HTTP and over LLUDP, teleports, fetches there with the new
capabilities, logs out. Every asset must have the sha256 of manifest.json. With --behind-proxy
naming the grid's own addresses, none of them may appear where a proxy must stand. With --only-udp no
asset is asked for over HTTP, and more of them over LLUDP.

Every datagram that arrived is kept, and at the end decoded once more, field by field.

Prints one JSON object; exit status 1 when anything was wrong.
"""
from __future__ import annotations

import argparse
import asyncio
import collections
import hashlib
import ipaddress
import json
import logging
import pathlib
import struct
import sys
import time
import traceback
import urllib.parse
import uuid
import xmlrpc.client

import aiohttp
from hippolyzer.lib.base import llsd
from hippolyzer.lib.base.datatypes import UUID
from hippolyzer.lib.base.message.message import Block, Message
from hippolyzer.lib.base.message.msgtypes import PacketFlags
from hippolyzer.lib.client import hippo_client
from hippolyzer.lib.client.hippo_client import HippoClient

import capture_assets
import decode_agreement

# Capabilities that a proxy must take to itself; all others may name the grid.
WRAPPED = ("Seed", "EventQueueGet", "GetTexture", "GetMesh", "GetMesh2", "ViewerAsset")
CAPABILITY = {"texture": "GetTexture", "mesh": "GetMesh2", "sound": "ViewerAsset", "animation": "ViewerAsset"}
QUERY = {kind: name for name, kind in capture_assets.QUERY_KIND.items()}
ACCEPT = {"texture": "image/x-j2c", "mesh": "application/vnd.ll.mesh"}
ASSET_TYPE = {"sound": 1, "animation": 20}
PASSWORD = "$1$" + hashlib.md5(b"secret").hexdigest()
WAIT = 20.0
# Largest datagram that may carry a part of an asset.
BIGGEST = 1200
ASSET_MESSAGES = ("ImageData", "ImagePacket", "TransferInfo", "TransferPacket")


class Failure(Exception):
    """Something the session was promised did not come true."""


class Run:
    def __init__(self, options):
        self.options = options
        self.manifest = capture_assets.manifest(options.captures)
        # Only what the captures hold over HTTP is on the stand-in grid.
        self.assets = sorted(capture_assets.assets(options.captures).values(), key=lambda asset: asset.uuid)
        self.forbidden = set(options.behind_proxy)
        self.report: dict = {"ok": False, "errors": [], "events": [], "answers": collections.Counter(), "http": 0, "udp": 0, "transfer": 0,
                             "addresses": [], "datagrams": {}}
        self.heard: list[tuple[tuple, bytes]] = []

    def of_kind(self, kind: str) -> list[capture_assets.Asset]:
        return [asset for asset in self.assets if asset.kind == kind]

    def check(self, asset_id: str, body: bytes, how: str) -> None:
        entry = self.manifest[asset_id]
        if len(body) != entry["size"] or hashlib.sha256(body).hexdigest() != entry["sha256"]:
            raise Failure(f"{how}: {asset_id} came as {len(body)} other bytes, {entry['size']} expected")

    # -- addresses ---------------------------------------------------------------------------------------

    def given(self, what: str, address: str) -> None:
        """An address the client was led to: loopback, and not the grid's own."""
        host, _, port = address.rpartition(":")
        self.report["addresses"].append(f"{what} {address}")
        if not ipaddress.ip_address(host).is_loopback or not port.isdigit():
            raise Failure(f"{what} leads to {address}, which is not a loopback port")
        if address in self.forbidden:
            raise Failure(f"{what} leads to {address}, the grid's own address")

    def given_url(self, what: str, url: str) -> None:
        self.given(what, urllib.parse.urlsplit(url).netloc)

    def check_region(self, region) -> None:
        self.given(f"circuit of {region.name}", "%s:%d" % region.circuit_addr)
        for name in WRAPPED:
            self.given_url(f"{name} of {region.name}", region.cap_urls[name])

    # -- login -------------------------------------------------------------------------------------------

    async def post_login(self, http, uri: str, last: str, password: str = PASSWORD, token: str = "") -> dict:
        given = {"first": "Lab", "last": last, "passwd": password, "token": token, "start": "last", "channel": "interop", "options": []}
        body = xmlrpc.client.dumps((given,), "login_to_simulator")
        async with http.post(uri, data=body, headers={"Content-Type": "text/xml"}) as reply:
            if reply.status != 200:
                raise Failure(f"login answered {reply.status}")
            return xmlrpc.client.loads(await reply.read())[0][0]

    def check_login(self, what: str, reply: dict) -> None:
        if str(reply.get("login")) != "true":
            raise Failure(f"{what}: login is {reply.get('login')!r}, reason {reply.get('reason')!r}")
        self.given(f"{what} simulator", f"{reply['sim_ip']}:{int(reply['sim_port'])}")
        self.given_url(f"{what} seed", str(reply["seed_capability"]))

    async def login_replies(self) -> None:
        """Refusals, MFA, a login sent elsewhere, LLSD login, grid information."""
        uri = self.options.login_uri
        async with aiohttp.ClientSession() as http:
            reply = await self.post_login(http, uri, "Wrong", password="$1$" + "0" * 32)
            if (reply["login"], reply["reason"]) != ("false", "key"):
                raise Failure(f"a wrong password is answered {reply['login']!r} {reply.get('reason')!r}")
            reply = await self.post_login(http, uri, "Mfa")
            if (reply["login"], reply["reason"], reply["mfa_hash"]) != ("false", "mfa_challenge", "d34db33f"):
                raise Failure("the MFA challenge did not arrive as the grid sent it")
            self.check_login("MFA", await self.post_login(http, uri, "Mfa", token="123456"))
            reply = await self.post_login(http, uri, "Elsewhere")
            if reply["login"] != "indeterminate":
                raise Failure(f"a login to be sent on is answered {reply['login']!r}")
            self.given_url("next_url", reply["next_url"])
            self.check_login("sent-on", await self.post_login(http, reply["next_url"], "Elsewhere"))

            body = llsd.format_xml({"first": "Lab", "last": "Llsd", "passwd": PASSWORD, "start": "last"})
            async with http.post(uri, data=body, headers={"Content-Type": "application/llsd+xml"}) as answer:
                reply = llsd.parse_xml(await answer.read())
            if not isinstance(reply["sim_port"], int):
                raise Failure("sim_port of an LLSD login is no integer")
            self.check_login("LLSD", reply)

            async with http.get(urllib.parse.urljoin(uri, "get_grid_info")) as answer:
                text = await answer.text()
            self.given_url("get_grid_info", text.split("<login>")[1].split("</login>")[0])
            if "<gridnick>standin</gridnick>" not in text:
                raise Failure("get_grid_info lost gridnick")
            async with http.get(urllib.parse.urljoin(uri, "json_grid_info")) as answer:
                self.given_url("json_grid_info", json.loads(await answer.read())["login"])
            async with http.get(urllib.parse.urljoin(uri, "welcome")) as answer:
                if "Welcome to the stand-in" not in await answer.text():
                    raise Failure("a page of the grid does not come through")

    # -- assets ------------------------------------------------------------------------------------------

    async def get(self, region, asset: capture_assets.Asset, wanted: str | None = None) -> bytes:
        headers = {"Accept": ACCEPT.get(asset.kind, "application/llsd+xml")}
        if wanted:
            headers["Range"] = wanted
        async with region.caps_client.get(CAPABILITY[asset.kind], params={QUERY[asset.kind]: asset.uuid}, headers=headers) as reply:
            body = await reply.read()
            status, content_range = reply.status, reply.headers.get("Content-Range")
            self.report["answers"][reply.headers.get("Rezcache", "no header")] += 1
        if wanted is None and status != 200 or status not in (200, 206):
            raise Failure(f"{asset.kind} {asset.uuid} is answered {status} to range {wanted}")
        if status == 206:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            expected = f"bytes {first}-{first + len(body) - 1}/{self.manifest[asset.uuid]['size']}"
            if content_range != expected:
                raise Failure(f"{asset.uuid}: Content-Range {content_range!r}, {expected!r} expected")
        return body

    async def fetch_whole(self, region, asset) -> None:
        self.check(asset.uuid, await self.get(region, asset), "HTTP")
        self.report["http"] += 1

    async def fetch_progressive(self, region, asset, *steps: int) -> None:
        """As a viewer refines: each request overlaps what is held by one byte, the last is open-ended."""
        held = b""
        for end in (*steps, None):
            first = max(0, len(held) - 1)
            body = await self.get(region, asset, f"bytes={first}-{'' if end is None else end - 1}")
            held = held[:first] + body
        self.check(asset.uuid, held, "HTTP ranges")
        self.report["http"] += 1

    async def fetch_all(self, region, assets) -> None:
        gate = asyncio.Semaphore(8)

        async def one(index: int, asset) -> None:
            async with gate:
                if asset.kind == "texture" and index % 4 == 0:
                    await self.fetch_progressive(region, asset, 600, 16792)
                elif asset.kind == "mesh" and index % 2 == 0:
                    await self.fetch_progressive(region, asset, 4096, 20000)
                else:
                    await self.fetch_whole(region, asset)

        await asyncio.gather(*(one(index, asset) for index, asset in enumerate(assets)))

    async def udp_texture(self, region, asset) -> None:
        session = region.session()
        with region.message_handler.subscribe_async(("ImageData", "ImagePacket", "ImageNotInDatabase")) as next_message:
            await region.circuit.send_reliable(Message(
                "RequestImage",
                Block("AgentData", AgentID=session.agent_id, SessionID=session.id),
                Block("RequestImage", Image=UUID(asset.uuid), DiscardLevel=0, DownloadPriority=100000.0, Packet=0, Type=0),
            ))
            parts: dict[int, bytes] = {}
            expected = None
            while expected is None or len(parts) < expected:
                message = await asyncio.wait_for(next_message(), WAIT)
                if str(message["ImageID"]["ID"]) != asset.uuid:
                    continue
                if message.name == "ImageNotInDatabase":
                    raise Failure(f"LLUDP: {asset.uuid} is not in the database")
                if message.name == "ImageData":
                    expected = message["ImageID"]["Packets"]
                parts[0 if message.name == "ImageData" else message["ImageID"]["Packet"]] = bytes(message["ImageData"]["Data"])
        self.check(asset.uuid, b"".join(parts[index] for index in sorted(parts)), "RequestImage")
        self.report["udp"] += 1

    async def transfer(self, region, asset) -> None:
        transfer_id = UUID.random()
        with region.message_handler.subscribe_async(("TransferInfo", "TransferPacket", "TransferAbort")) as next_message:
            # hippolyzer's own request packs a file name after the ids, which OpenSimulator refuses.
            await region.circuit.send_reliable(Message("TransferRequest", Block(
                "TransferInfo", TransferID=transfer_id, ChannelType=2, SourceType=2, Priority=101.0,
                Params=uuid.UUID(asset.uuid).bytes + struct.pack("<i", ASSET_TYPE[asset.kind]),
            )))
            parts: dict[int, bytes] = {}
            size = None
            while size is None or sum(map(len, parts.values())) < size:
                message = await asyncio.wait_for(next_message(), WAIT)
                block = message["TransferInfo" if message.name == "TransferInfo" else "TransferData"]
                if block["TransferID"] != transfer_id:
                    continue
                if message.name == "TransferInfo":
                    size = block["Size"]
                    if block["Status"] != 0:
                        raise Failure(f"transfer of {asset.uuid} has status {block['Status']}")
                else:
                    parts[block["Packet"]] = bytes(block["Data"])
        self.check(asset.uuid, b"".join(parts[index] for index in sorted(parts)), "TransferRequest")
        self.report["transfer"] += 1

    async def over_udp(self, region, textures, others) -> None:
        """Several at once, as a viewer that rezzes a scene asks."""
        await asyncio.gather(*(self.udp_texture(region, asset) for asset in textures), *(self.transfer(region, asset) for asset in others))

    # -- datagrams ---------------------------------------------------------------------------------------

    def keep_datagrams(self) -> None:
        """Has the client hand over each datagram before it reads it."""
        read = hippo_client.HippoClientProtocol.datagram_received

        def keep(protocol, data, source) -> None:
            self.heard.append((source, bytes(data)))
            read(protocol, data, source)

        hippo_client.HippoClientProtocol.datagram_received = keep

    def check_datagrams(self) -> None:
        """Each is a whole message by the template, and no two new ones of a circuit share a number."""
        counts: collections.Counter = collections.Counter()
        bodies: dict[tuple, str] = {}
        deserializer = decode_agreement.decoder()
        for source, datagram in self.heard:
            try:
                message = decode_agreement.describe(deserializer, datagram)
            except Exception as error:
                raise Failure(f"{datagram.hex()} cannot be decoded: {error!r}") from error
            counts[message["name"]] += 1
            if message["name"] in ASSET_MESSAGES and len(datagram) > BIGGEST:
                raise Failure(f"{message['name']} has {len(datagram)} bytes")
            if message["flags"] & PacketFlags.RESENT:
                counts["resent"] += 1
            # A copy says the same; another message under the number would be taken for a copy.
            if message["flags"] & PacketFlags.RELIABLE:
                key = (source, message["sequence"])
                said = message["name"] + message["body"]
                if bodies.setdefault(key, said) != said:
                    raise Failure(f"number {message['sequence']} of {source} is {message['name']} and something else")
        self.report["datagrams"] = dict(counts)

    # -- the session -------------------------------------------------------------------------------------

    async def ping(self, region) -> None:
        answer = region.message_handler.wait_for(("CompletePingCheck",), predicate=lambda m: m["PingID"]["PingID"] == 77, timeout=WAIT)
        region.circuit.send(Message("StartPingCheck", Block("PingID", PingID=77, OldestUnacked=region.circuit.packet_id_base)))
        await answer

    async def features(self, region, index: int) -> None:
        """A capability that no proxy takes; it must lead to the same region."""
        async with region.caps_client.get("SimulatorFeatures") as reply:
            if (await reply.read_llsd()).get("region") != index:
                raise Failure(f"SimulatorFeatures of {region.name} lead to another region")

    async def session(self, client: HippoClient) -> None:
        event_names = ("EnableSimulator", "EstablishAgentCommunication", "TeleportStart", "TeleportFinish", "AgentMovementComplete", "DisableSimulator")
        events: dict[str, asyncio.Event] = {name: asyncio.Event() for name in event_names}
        scenery: collections.Counter = collections.Counter()

        def heard(message) -> None:
            if message.name in events:
                self.report["events"].append(message.name)
                events[message.name].set()
            scenery[message.name] += 1

        # The login call connects at once, so the listening must begin in between.
        await client.login(self.options.user, "secret", login_uri=self.options.login_uri, connect=False)
        self.check_login("session", {**client.session.login_data})
        client.session.message_handler.subscribe("*", heard)
        home = client.session.regions[0]
        await asyncio.wait_for(home.connect(main_region=True), WAIT)
        self.check_region(home)

        await asyncio.wait_for(events["EstablishAgentCommunication"].wait(), WAIT)
        if self.report["events"].index("EnableSimulator") > self.report["events"].index("EstablishAgentCommunication"):
            raise Failure("EstablishAgentCommunication came before EnableSimulator")
        neighbour = next(region for region in client.session.regions if region is not home)
        if neighbour.circuit_addr == home.circuit_addr:
            raise Failure("two simulators share one address")
        await asyncio.wait_for(neighbour.connect(), WAIT)
        self.check_region(neighbour)
        await self.features(home, 0)
        await self.features(neighbour, 1)
        await self.ping(home)

        half = len(self.assets) * 2 // 3
        if self.options.only_udp:
            await self.over_udp(home, self.of_kind("texture")[3:9], self.of_kind("sound")[4:6] + self.of_kind("animation")[2:4])
        else:
            await self.fetch_all(home, self.assets[:half])
        await self.udp_texture(home, self.of_kind("texture")[0])
        await self.udp_texture(neighbour, self.of_kind("texture")[1])
        await asyncio.gather(
            *(self.transfer(home, asset) for asset in self.of_kind("sound")[:2] + self.of_kind("animation")[:2]))

        if self.options.only_udp:
            # Long enough that the neighbour's second UseCircuitCode cannot be a copy of the first.
            await asyncio.sleep(1.5)
        handle = (256256 << 32) | 256000
        await asyncio.wait_for(client.teleport(handle), WAIT)
        await asyncio.wait_for(neighbour.connected, WAIT)
        if client.main_region is not neighbour or neighbour.name != "Lab West":
            raise Failure(f"the teleport ended in {client.main_region!r}")
        self.check_region(neighbour)
        if self.options.only_udp:
            # What the other region already gave, asked through this one.
            await self.over_udp(neighbour, self.of_kind("texture")[3:6], self.of_kind("animation")[2:4])
        else:
            await self.fetch_all(neighbour, self.assets[half:])
            for kind in CAPABILITY:
                await self.fetch_whole(neighbour, self.of_kind(kind)[0])
        await self.udp_texture(neighbour, self.of_kind("texture")[2])
        await self.transfer(neighbour, self.of_kind("sound")[3])
        await self.ping(neighbour)
        await asyncio.wait_for(events["DisableSimulator"].wait(), WAIT)
        if scenery["LayerData"] < 24:
            raise Failure(f"{scenery['LayerData']} LayerData messages of two regions arrived, 24 were sent")

        session, circuit = client.session, client.main_circuit
        answer = neighbour.message_handler.wait_for(("LogoutReply",), timeout=WAIT)
        circuit.send(Message("LogoutRequest", Block("AgentData", AgentID=session.agent_id, SessionID=session.id), flags=PacketFlags.RELIABLE))
        await answer
        self.report["messages"] = sum(scenery.values())

    async def run(self) -> dict:
        start = time.monotonic()
        try:
            if self.options.login_replies:
                await self.login_replies()
            self.keep_datagrams()
            client = HippoClient()
            try:
                await self.session(client)
            finally:
                await client.aclose()
            self.check_datagrams()
            self.report["ok"] = True
        except Exception as error:
            self.report["errors"].append(f"{type(error).__name__}: {error}")
            traceback.print_exc()
        self.report["ms"] = round((time.monotonic() - start) * 1000)
        return self.report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--login-uri", required=True)
    parser.add_argument("--user", default="Lab Alpha", help="first and last name")
    parser.add_argument("--captures", type=pathlib.Path, default=capture_assets.CAPTURES)
    parser.add_argument("--behind-proxy", nargs="*", default=[], metavar="HOST:PORT", help="the grid's own addresses, which must not appear")
    parser.add_argument("--login-replies", action="store_true", help="also try refusals, MFA, a login sent elsewhere, LLSD login")
    parser.add_argument("--only-udp", action="store_true", help="ask for no asset over HTTP")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    report = asyncio.run(Run(parser.parse_args()).run())
    print(json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
