#!/usr/bin/env python3
"""A grid with two regions that serves what the captures hold, for clients others wrote.

One HTTP port (login, grid information, seeds, event queues, asset capabilities) and two UDP ports
(stand_in_simulator.py). It behaves as the captures and protocol.md 17 show OpenSimulator 0.9.2.2:
the seed's odd content type, connections closed after 20 requests, the range forms, 502 from an
empty event queue. Faults come on demand: `&fault=KIND` on an asset request, or
`GET /__fault?id=UUID&kind=KIND&times=N`, with KIND one of break, long_length, short_length,
wrong_range, 503, slow, reset. `GET /__counts` says what the grid was asked for, as JSON.

Accounts: any first name, password `secret`; last name `Mfa` needs the token 123456, last name
`Elsewhere` is sent on to another URL first. When it listens it prints one line of JSON:
{"http": PORT, "simulators": [PORT, PORT]}.
"""
from __future__ import annotations

import argparse
import asyncio
import collections
import hashlib
import json
import pathlib
import re
import socket
import struct
import sys
import time
import urllib.parse
import uuid
import xmlrpc.client
from email.utils import formatdate

from hippolyzer.lib.base import llsd

import capture_assets
from stand_in_simulator import Simulator

PASSWORD = "$1$" + hashlib.md5(b"secret").hexdigest()
TOKEN = "123456"
LLSD_TYPES = ("application/llsd+xml", "application/xml+llsd")
ASSET_CAPS = {"GetTexture", "GetMesh", "GetMesh2", "ViewerAsset"}
KINDS = capture_assets.QUERY_KIND
REQUESTS_PER_CONNECTION = 20
BIGGEST_REQUEST = 4 << 20
FAULTS = {"break", "long_length", "short_length", "wrong_range", "503", "slow", "reset"}


class Session:
    """One login: ids, the region it is in, and per region its capabilities and event queue."""

    def __init__(self, first: str, last: str, agent_id: str, circuit_code: int):
        self.first, self.last, self.agent_id, self.circuit_code = first, last, agent_id, circuit_code
        self.session_id, self.secure_session_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.root = 0
        self.alive = True
        self.announced = False
        self.seeds = [f"/CAPS/{uuid.uuid4()}0000/" for _ in range(2)]
        self.caps: list[dict[str, str]] = [{}, {}]
        self.events = [EventQueue(), EventQueue()]
        self.circuits: list = []


class EventQueue:
    def __init__(self):
        self.waiting: list[dict] = []
        self.changed = asyncio.Event()
        self.id = 8094625

    def put(self, message: str, body: dict) -> None:
        self.waiting.append({"message": message, "body": body})
        self.changed.set()


class Reply:
    """An HTTP answer. `extra` are header lines in the order the real grid sends them."""

    def __init__(self, status: str, body: bytes = b"", content_type: str = "text/plain", extra: str = "", close: bool = False):
        self.status, self.body, self.content_type, self.extra, self.close = status, body, content_type, extra, close
        self.fault: str | None = None


class Grid:
    def __init__(self, options):
        self.options = options
        self.assets = capture_assets.assets(options.captures)
        exchanges = list(capture_assets.exchanges(options.captures / "hippo-teleport.pcap"))
        self.login_reply = next(e.body for e in exchanges if b"<methodResponse>" in e.body)
        seed = next(e.body for e in exchanges if e.target.startswith("/CAPS/"))
        self.granted = sorted(set(llsd.parse_xml(seed)) | ASSET_CAPS | {"EventQueueGet", "SimulatorFeatures", "RenderMaterials"})
        datagrams = list(capture_assets.simulator_datagrams(options.captures / "hippo-teleport.pcap"))
        self.simulators = [
            Simulator(self, index, name, handle, [d for d in datagrams if d.port == port])
            for index, (name, handle, port) in enumerate((
                ("Lab East", 256000 << 32 | 256000, 9000), ("Lab West", 256256 << 32 | 256000, 9001)))
        ]
        self.sessions: list[Session] = []
        self.paths: dict[str, tuple[str, Session | None, int]] = {}
        self.counts: collections.Counter = collections.Counter()
        self.asset_counts: dict[str, dict[str, collections.Counter]] = {}
        self.faults: dict[str, list] = {}
        self.http_port = 0

    def note(self, text: str) -> None:
        print(f"stand-in grid: {text}", file=sys.stderr, flush=True)

    def counts_of(self, way: str, asset_id: str) -> collections.Counter:
        return self.asset_counts.setdefault(way, {}).setdefault(asset_id, collections.Counter())

    def url(self, path: str) -> str:
        return f"http://{self.options.host}:{self.http_port}{path}"

    # -- what the simulators ask ---------------------------------------------------------------------

    def session_of(self, code: int, session_id: str, agent_id: str) -> Session | None:
        for session in self.sessions:
            if session.alive and (session.circuit_code, session.session_id, session.agent_id) == (code, session_id, agent_id):
                return session
        return None

    def region_at(self, handle: int) -> Simulator | None:
        return next((s for s in self.simulators if s.handle == handle), None)

    def announce_neighbour(self, session: Session) -> None:
        if session.announced:
            return
        session.announced = True
        neighbour = self.simulators[1 - session.root]
        queue = session.events[session.root]
        queue.put("EnableSimulator", {"SimulatorInfo": [{
            "Handle": llsd.binary(struct.pack(">Q", neighbour.handle)), "IP": llsd.binary(socket.inet_aton(self.options.host)),
            "Port": neighbour.port, "RegionSizeX": llsd.binary(struct.pack(">I", 256)), "RegionSizeY": llsd.binary(struct.pack(">I", 256)),
        }]})
        queue.put("EstablishAgentCommunication", {
            "agent-id": uuid.UUID(session.agent_id), "sim-ip-and-port": f"{self.options.host}:{neighbour.port}",
            "seed-capability": self.url(session.seeds[neighbour.index]),
        })

    def teleport_finish(self, session: Session, root: int, target: Simulator) -> None:
        session.events[root].put("TeleportFinish", {"Info": [{
            "AgentID": uuid.UUID(session.agent_id), "LocationID": llsd.binary(struct.pack(">I", 4)),
            "SimIP": llsd.binary(socket.inet_aton(self.options.host)), "SimPort": target.port,
            "RegionHandle": llsd.binary(struct.pack(">Q", target.handle)), "SeedCapability": self.url(session.seeds[target.index]),
            "SimAccess": 13, "TeleportFlags": llsd.binary(struct.pack(">I", 16)),
            "RegionSizeX": llsd.binary(struct.pack(">I", 256)), "RegionSizeY": llsd.binary(struct.pack(">I", 256)),
        }]})

    def disable(self, session: Session, index: int) -> None:
        from hippolyzer.lib.base.message.message import Message

        for circuit in session.circuits:
            if circuit.simulator.index == index and session.alive and session.root != index:
                circuit.send(Message("DisableSimulator"))

    def logged_out(self, session: Session) -> None:
        if session.alive:
            self.counts["logouts"] += 1
        session.alive = False
        for queue in session.events:
            queue.changed.set()

    # -- HTTP ------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        left = REQUESTS_PER_CONNECTION
        try:
            while left > 0:
                request = await self.read_request(reader)
                if request is None:
                    break
                left -= 1
                reply = await self.answer(*request)
                if request[2].get("connection", "").lower() == "close":
                    reply.close = True
                await self.write(writer, reply, left)
                if reply.close or reply.fault in ("break", "long_length", "short_length", "reset"):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    async def read_request(self, reader):
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 62)
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while (size := int((await reader.readline()).split(b";")[0], 16)) > 0:
                if len(body) + size > BIGGEST_REQUEST:
                    return None
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        elif (length := int(headers.get("content-length", "0"))) > 0:
            if length > BIGGEST_REQUEST:
                return None
            body = await reader.readexactly(length)
        return method, target, headers, body

    async def write(self, writer, reply: Reply, left: int) -> None:
        length = len(reply.body) + {"long_length": 100, "short_length": -min(100, len(reply.body))}.get(reply.fault, 0)
        close = reply.close or left <= 0
        keep = "Connection: close\r\n" if close else f"Keep-Alive:timeout=60, max={left - 1}\r\nConnection: Keep-Alive\r\n"
        head = (f"HTTP/1.1 {reply.status}\r\nDate: {formatdate(usegmt=True)}\r\nContent-Length: {length}\r\n"
                f"Content-Type: {reply.content_type}\r\n{keep}{reply.extra}Server: OSWebServer\r\n\r\n").encode("latin-1")
        if reply.fault == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if reply.fault == "break":
            writer.write(head + reply.body[:len(reply.body) // 2])
        elif reply.fault == "slow":
            writer.write(head)
            step = max(1, len(reply.body) // 8)
            for at in range(0, len(reply.body), step):
                writer.write(reply.body[at:at + step])
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            writer.write(head + reply.body)
        await writer.drain()

    async def answer(self, method: str, target: str, headers: dict, body: bytes) -> Reply:
        path, _, query = target.partition("?")
        fields = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        content_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if path.startswith("/__"):
            return self.control(path, fields)
        if path in ("/", "/login-elsewhere") and method == "POST":
            return self.login_llsd(body) if content_type in LLSD_TYPES else self.login(path, body)
        if path == "/get_grid_info":
            return self.grid_info()
        if path == "/json_grid_info":
            info = {"login": self.url("/"), "gridname": "the stand-in", "gridnick": "standin", "platform": "OpenSim"}
            return Reply("200 OK", json.dumps(info).encode(), "application/json")
        if path == "/welcome":
            return Reply("200 OK", b"<html><body>Welcome to the stand-in</body></html>", "text/html")
        if path == "/" and any(name in fields for name in KINDS):
            return await self.asset(method, fields, headers)
        if path.startswith("/CAPS/"):
            return self.seed(method, path, headers, body)
        name, session, index = self.paths.get(path.rstrip("/"), ("", None, 0))
        if session is None:
            return Reply("404 NotFound", close=True)
        if name == "EventQueueGet":
            return await self.poll(session, index)
        if name in ASSET_CAPS:
            return await self.asset(method, fields, headers)
        self.counts[f"cap {name}"] += 1
        if name == "RenderMaterials":
            return Reply("200 OK", b"<llsd><map><key>Zipped</key><binary>eNqLZgCCWAAChQC5</binary></map></llsd>", "text/html;charset=UTF-8")
        if name == "SimulatorFeatures":
            features = b"<llsd><map><key>MeshRezEnabled</key><boolean>1</boolean><key>region</key><integer>%d</integer></map></llsd>" % index
            return Reply("200 OK", features, "application/llsd+xml")
        return Reply("404 NotFound", close=True)

    def control(self, path: str, fields: dict) -> Reply:
        if path == "/__counts":
            answer = {**self.counts, "assets": self.asset_counts}
            if fields.get("reset"):
                answer = json.loads(json.dumps(answer))
                self.counts.clear()
                self.asset_counts.clear()
        elif path == "/__fault" and fields.get("kind") in FAULTS:
            answer = self.faults[fields["id"]] = [fields["kind"], int(fields.get("times", "1"))]
        else:
            return Reply("400 BadRequest", close=True)
        return Reply("200 OK", json.dumps(answer).encode(), "application/json", close=True)

    def grid_info(self) -> Reply:
        rows = {"platform": "OpenSim", "login": self.url("/"), "gridname": "the stand-in", "gridnick": "standin",
                "welcome": self.url("/welcome"), "economy": self.url("/"), "gatekeeper": self.url("/")}
        text = "".join(f"<{key}>{value}</{key}>" for key, value in rows.items())
        return Reply("200 OK", f"<gridinfo>{text}</gridinfo>".encode(), "application/xml")

    # -- login -----------------------------------------------------------------------------------------

    def judge(self, path: str, given: dict) -> dict | Session:
        """A new session, or the members of a reply that is not a success."""
        self.counts["logins"] += 1
        first, last = str(given.get("first", "")), str(given.get("last", ""))
        if given.get("passwd") != PASSWORD:
            return {"login": "false", "reason": "key", "message": "Could not authenticate your avatar. Please check your username and password."}
        if last == "Mfa" and given.get("token") != TOKEN:
            return {"login": "false", "reason": "mfa_challenge", "message": "Enter your token", "mfa_hash": "d34db33f"}
        if last == "Elsewhere" and path == "/":
            return {"login": "indeterminate", "next_url": self.url("/login-elsewhere?a=1&b=2"), "next_method": "login_to_simulator",
                    "next_duration": "0", "message": "Please wait"}
        agent_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"stand-in/{first}/{last}"))
        session = Session(first, last, agent_id, 2_000_000_000 + len(self.sessions))
        self.sessions.append(session)
        for index, seed in enumerate(session.seeds):
            self.paths[seed.rstrip("/")] = ("Seed", session, index)
        self.counts["logins_accepted"] += 1
        return session

    def members(self, session: Session) -> dict:
        return {
            "agent_id": session.agent_id, "session_id": session.session_id, "secure_session_id": session.secure_session_id,
            "circuit_code": session.circuit_code, "first_name": session.first, "last_name": session.last,
            "sim_ip": self.options.host, "sim_port": self.simulators[0].port, "seed_capability": self.url(session.seeds[0]),
            "region_x": 256000, "region_y": 256000,
        }

    def login(self, path: str, body: bytes) -> Reply:
        given = xmlrpc.client.loads(body)[0][0]
        verdict = self.judge(path, given)
        if isinstance(verdict, dict):
            text = xmlrpc.client.dumps((verdict,), methodresponse=True, encoding="utf-8")
            return Reply("200 OK", text.encode(), "text/xml", "Access-Control-Allow-Origin: *\r\n", close=True)
        reply = self.login_reply
        for name, value in self.members(verdict).items():
            # Nested structs have members of these names too, but always as their first.
            pattern = rb"(?<=</member>)(<member><name>%b</name><value><(string|i4)>)[^<]*(</\2></value></member>)" % name.encode()
            reply, found = re.subn(pattern, lambda m: m[1] + str(value).encode() + m[3], reply)
            if found != 1:
                raise ValueError(f"the captured login reply holds {found} members {name}")
        return Reply("200 OK", reply, "text/xml", "Access-Control-Allow-Origin: *\r\n", close=True)

    def login_llsd(self, body: bytes) -> Reply:
        verdict = self.judge("/", llsd.parse_xml(body))
        if isinstance(verdict, dict):
            answer = verdict
        else:
            answer = {"login": "true", **self.members(verdict)}
            for name in ("agent_id", "session_id", "secure_session_id"):
                answer[name] = uuid.UUID(answer[name])
        return Reply("200 OK", llsd.format_xml(answer), "application/llsd+xml", close=True)

    # -- capabilities ----------------------------------------------------------------------------------

    def seed(self, method: str, path: str, headers: dict, body: bytes) -> Reply:
        name, session, index = self.paths.get(path.rstrip("/"), ("", None, 0))
        # OpenSimulator finds no handler for any other content type, parameters included.
        if method != "POST" or headers.get("content-type") != "application/llsd+xml" or session is None or not session.alive:
            return Reply("404 NotFound", close=True)
        self.counts["seeds"] += 1
        caps = session.caps[index]
        for cap in self.granted:
            if cap not in caps:
                caps[cap] = ("/CE/" if cap == "EventQueueGet" else "/") + str(uuid.uuid4())
                self.paths[caps[cap]] = (cap, session, index)
        wanted = set(llsd.parse_xml(body))
        rows = "".join(f"<key>{cap}</key><string>{self.url(caps[cap])}</string>" for cap in caps if cap in wanted)
        return Reply("200 OK", f"<llsd><map>{rows}</map></llsd>".encode(), "text/html;charset=UTF-8")

    async def poll(self, session: Session, index: int) -> Reply:
        self.counts["polls"] += 1
        queue, deadline = session.events[index], time.monotonic() + self.options.hold
        while session.alive:
            if not any(c.simulator.index == index for c in session.circuits):
                break
            if queue.waiting:
                events, queue.waiting = queue.waiting, []
                queue.id += 1
                text = llsd.format_xml({"events": events, "id": queue.id})
                # Without a declaration, as the real grid sends it.
                return Reply("200 OK", re.sub(rb"^<\?xml[^>]*\?>", b"", text), "application/xml")
            queue.changed.clear()
            try:
                await asyncio.wait_for(queue.changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        if not session.alive:
            return Reply("404 NotFound", close=True)
        self.counts["empty_polls"] += 1
        return Reply("502 BadGateway", content_type="text/html", close=True)

    async def asset(self, method: str, fields: dict, headers: dict) -> Reply:
        asset_id = next((fields[name] for name in KINDS if name in fields), "").lower()
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", asset_id):
            return Reply("400 BadRequest", close=True)
        counts = self.counts_of("http", asset_id)
        counts["requests"] += 1
        counts["ranged" if "range" in headers else "whole"] += 1
        if self.options.latency:
            await asyncio.sleep(self.options.latency)
        asset = self.assets.get(asset_id)
        if asset is None:
            return Reply("404 NotFound", close=True)
        reply = self.slice_of(asset, headers.get("range", ""))
        reply.fault = fields.get("fault") if fields.get("fault") in FAULTS else None
        planned = self.faults.get(asset_id)
        if planned and planned[1] > 0:
            planned[1] -= 1
            reply.fault = planned[0]
        if reply.fault == "503":
            return Reply("503 ServiceUnavailable", extra="Retry-After: 1\r\n", close=True)
        if reply.fault == "wrong_range" and "Content-Range" in reply.extra:
            reply.extra = reply.extra.replace(f"/{len(asset.body)}", f"/{len(asset.body) + 1000}")
        counts["bytes"] += len(reply.body)
        return reply

    @staticmethod
    def slice_of(asset: capture_assets.Asset, wanted: str) -> Reply:
        """The range forms as observed on OpenSimulator 0.9.2.2 (fixtures/sessions/hippo-ranges.pcap)."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        whole = Reply("200 OK", asset.body, asset.content_type)
        length = len(asset.body)
        if not match or match[0] == "bytes=-":
            return whole
        start, end = int(match[1] or 0), int(match[2]) if match[2] else length - 1
        if end <= 0 or start >= length:
            return whole
        end = min(end, length - 1)
        start = min(start, end)
        return Reply("206 PartialContent", asset.body[start:end + 1], asset.content_type, f"Content-Range: bytes {start}-{end}/{length}\r\n")

    @staticmethod
    def read_stdin(running: asyncio.Task) -> None:
        if not sys.stdin.buffer.raw.read(4096):
            running.cancel()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for simulator in self.simulators:
            await loop.create_datagram_endpoint(lambda s=simulator: s, local_addr=(self.options.host, 0))
        server = await asyncio.start_server(self.serve, self.options.host, self.options.port, limit=1 << 20)
        self.http_port = server.sockets[0].getsockname()[1]
        if self.options.until_stdin_closes:
            loop.add_reader(sys.stdin.fileno(), self.read_stdin, asyncio.current_task())
        print(json.dumps({"http": self.http_port, "simulators": [s.port for s in self.simulators]}), flush=True)
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for simulator in self.simulators:
                for circuit in list(simulator.circuits.values()):
                    circuit.tick(now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on")
    parser.add_argument("--port", type=int, default=0, help="HTTP port, 0 for any")
    parser.add_argument("--captures", type=pathlib.Path, default=capture_assets.CAPTURES)
    parser.add_argument("--hold", type=float, default=58.0, help="seconds an empty event queue holds a poll")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each asset answer; the real grid takes 0.1")
    parser.add_argument("--disable-after", type=float, default=2.0, help="seconds until a left region says DisableSimulator")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when whoever started it has gone")
    try:
        asyncio.run(Grid(parser.parse_args()).run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass


if __name__ == "__main__":
    main()
