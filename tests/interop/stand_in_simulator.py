"""The LLUDP side of the stand-in grid: one simulator per UDP socket.

Encodes and decodes with hippolyzer's own message templates, so that neither side of the proxy is
of our making. RegionHandshake and the scenery are datagrams a real simulator sent, taken from a
capture and renumbered.
"""
from __future__ import annotations

import asyncio
import collections
import struct
import time
import uuid

from hippolyzer.lib.base.datatypes import UUID, Vector3
from hippolyzer.lib.base.message.message import Block, Message
from hippolyzer.lib.base.message.msgtypes import PacketFlags
from hippolyzer.lib.base.message.udpdeserializer import UDPMessageDeserializer
from hippolyzer.lib.base.message.udpserializer import UDPMessageSerializer

from capture_assets import RELIABLE, ZERO_CODED, Datagram

WINDOW = 32
RESEND_AFTER = 1.0
RESENDS = 10
PING_EVERY = 5.0
FIRST_IMAGE_BYTES, IMAGE_BYTES, TRANSFER_BYTES = 600, 1000, 600
ASSET_TYPES = {0: "texture", 1: "sound", 20: "animation", 49: "mesh"}
LAYER_DATA, PARCEL_OVERLAY, SIM_STATS, VIEWER_TIME, REGION_HANDSHAKE = ("high", 11), ("low", 196), ("low", 140), ("low", 150), ("low", 148)
SCENERY = {LAYER_DATA, PARCEL_OVERLAY, SIM_STATS, VIEWER_TIME}


def number(datagram: Datagram) -> tuple[str, int]:
    """Frequency and number of a captured message; a low number's zero byte may be zero-coded."""
    body = datagram.body
    if body[0] != 0xFF:
        return "high", body[0]
    if body[1] != 0xFF:
        return "medium", body[1]
    if body[2] == 0 and datagram.flags & ZERO_CODED:
        return "low", body[4]
    return "low", body[2] << 8 | body[3]


class Circuit:
    """One viewer at one simulator: numbering, acks, resends, an ack-clocked queue."""

    def __init__(self, simulator: "Simulator", address, session):
        self.simulator, self.address, self.session = simulator, address, session
        self.sequence = 0
        self.queue: collections.deque = collections.deque()
        self.unacked: dict[int, list] = {}
        self.seen: collections.deque = collections.deque(maxlen=1000)
        self.owed: list[int] = []
        self.ping = 0
        self.pinged_at = time.monotonic()

    def send(self, message: Message, flags: PacketFlags = PacketFlags.RELIABLE) -> None:
        message.send_flags |= flags
        message.packet_id = 0
        data = bytes(self.simulator.serializer.serialize(message))
        self.queue.append((data[0], data[6:]))
        self.pump()

    def send_captured(self, datagram: Datagram) -> None:
        self.queue.append((datagram.flags, datagram.body))
        self.pump()

    def pump(self) -> None:
        while self.queue and len(self.unacked) < WINDOW:
            flags, body = self.queue.popleft()
            self.sequence += 1
            data = struct.pack(">BIB", flags, self.sequence, 0) + body
            if flags & RELIABLE:
                self.unacked[self.sequence] = [data, time.monotonic(), RESENDS]
            # Owed acks ride on small packets, as libopenmetaverse and the viewer do it.
            if self.owed and len(data) < 600:
                owed, self.owed = self.owed[:100], self.owed[100:]
                data = bytes([data[0] | PacketFlags.ACK]) + data[1:]
                data += b"".join(struct.pack(">I", ack) for ack in owed) + bytes([len(owed)])
            self.simulator.transport.sendto(data, self.address)

    def owe(self, sequence: int) -> None:
        self.owed.append(sequence)
        if len(self.owed) == 1:
            asyncio.get_running_loop().call_later(0.02, self.pay)

    def pay(self) -> None:
        if self.owed:
            owed, self.owed = self.owed[:200], self.owed[200:]
            self.sequence += 1
            message = Message("PacketAck", *[Block("Packets", ID=ack) for ack in owed])
            message.packet_id = self.sequence
            self.simulator.transport.sendto(bytes(self.simulator.serializer.serialize(message)), self.address)

    def acked(self, sequences) -> None:
        for sequence in sequences:
            self.unacked.pop(sequence, None)
        self.pump()

    def tick(self, now: float) -> None:
        for sequence, entry in list(self.unacked.items()):
            if now - entry[1] < RESEND_AFTER:
                continue
            entry[1], entry[2] = now, entry[2] - 1
            if entry[2] < 0:
                del self.unacked[sequence]
                self.simulator.grid.counts["given_up"] += 1
                continue
            self.simulator.grid.counts["resent"] += 1
            self.simulator.transport.sendto(bytes([entry[0][0] | PacketFlags.RESENT]) + entry[0][1:], self.address)
        if now - self.pinged_at > PING_EVERY:
            self.pinged_at, self.ping = now, (self.ping + 1) & 255
            oldest = min(self.unacked, default=self.sequence)
            self.send(Message("StartPingCheck", Block("PingID", PingID=self.ping, OldestUnacked=oldest)), PacketFlags(0))
        self.pump()


class Simulator(asyncio.DatagramProtocol):
    """One region. `captured` is what the real one sent, in order."""

    def __init__(self, grid, index: int, name: str, handle: int, captured: list[Datagram]):
        self.grid, self.index, self.name, self.handle = grid, index, name, handle
        self.handshake = next(d for d in captured if number(d) == REGION_HANDSHAKE)
        self.scenery = [d for d in captured if number(d) in SCENERY]
        self.serializer, self.deserializer = UDPMessageSerializer(), UDPMessageDeserializer()
        self.circuits: dict[tuple, Circuit] = {}
        self.transport = None
        self.port = 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address) -> None:
        try:
            message = self.deserializer.deserialize(data)
        except Exception as error:  # a bad datagram is counted, not fatal, as in a real simulator
            self.grid.counts["malformed"] += 1
            self.grid.note(f"malformed datagram: {error!r}")
            return
        if message.name == "UseCircuitCode":
            self.use_circuit_code(message, address)
            return
        circuit = self.circuits.get(address)
        if circuit is None:
            self.grid.counts["datagrams_without_circuit"] += 1
            return
        self.grid.counts["datagrams"] += 1
        circuit.acked(message.acks)
        if message.reliable:
            circuit.owe(message.packet_id)
            if message.packet_id in circuit.seen:
                return
            circuit.seen.append(message.packet_id)
        handler = getattr(self, "on_" + message.name, None)
        if handler is not None:
            handler(circuit, message)

    def use_circuit_code(self, message: Message, address) -> None:
        block = message["CircuitCode"]
        session = self.grid.session_of(int(block["Code"]), str(block["SessionID"]), str(block["ID"]))
        if session is None:
            self.grid.counts["circuits_refused"] += 1
            return
        circuit = self.circuits.get(address)
        if circuit is None or circuit.session is not session:
            circuit = self.circuits[address] = Circuit(self, address, session)
            session.circuits.append(circuit)
        # hippolyzer begins to count anew when a child region becomes its own.
        circuit.seen.clear()
        circuit.owe(message.packet_id)
        circuit.pay()
        if not int(message.send_flags) & PacketFlags.RESENT:
            self.grid.counts["circuits"] += 1
            circuit.send_captured(self.handshake)
            if session.root == self.index:
                self.grid.announce_neighbour(session)

    def on_PacketAck(self, circuit: Circuit, message: Message) -> None:
        circuit.acked(block["ID"] for block in message["Packets"])

    def on_StartPingCheck(self, circuit: Circuit, message: Message) -> None:
        circuit.send(Message("CompletePingCheck", Block("PingID", PingID=message["PingID"]["PingID"])), PacketFlags(0))

    def on_CompletePingCheck(self, circuit: Circuit, message: Message) -> None:
        self.grid.counts["pings_answered"] += 1

    def on_CompleteAgentMovement(self, circuit: Circuit, message: Message) -> None:
        session = circuit.session
        old, session.root = session.root, self.index
        circuit.send(Message(
            "AgentMovementComplete",
            Block("AgentData", AgentID=UUID(session.agent_id), SessionID=UUID(session.session_id)),
            Block("Data", Position=Vector3(128, 128, 25), LookAt=Vector3(1, 0, 0), RegionHandle=self.handle, Timestamp=int(time.time())),
            Block("SimData", ChannelVersion="OpenSim 0.9.2.2 stand-in"),
        ))
        for datagram in self.scenery:
            circuit.send_captured(datagram)
        if old != self.index:
            asyncio.get_running_loop().call_later(self.grid.options.disable_after, self.grid.disable, session, old)

    def on_TeleportLocationRequest(self, circuit: Circuit, message: Message) -> None:
        target = self.grid.region_at(int(message["Info"]["RegionHandle"]))
        if target is None or target is self:
            circuit.send(Message("TeleportFailed", Block("Info", AgentID=UUID(circuit.session.agent_id), Reason=b"no such region\0")))
            return
        circuit.send(Message("TeleportStart", Block("Info", TeleportFlags=16)))
        self.grid.teleport_finish(circuit.session, self.index, target)

    def on_LogoutRequest(self, circuit: Circuit, message: Message) -> None:
        session = circuit.session
        circuit.send(Message(
            "LogoutReply",
            Block("AgentData", AgentID=UUID(session.agent_id), SessionID=UUID(session.session_id)),
            Block("InventoryData", ItemID=UUID(int=0)),
        ), PacketFlags.RELIABLE | PacketFlags.ZEROCODED)
        self.grid.logged_out(session)

    def on_CloseCircuit(self, circuit: Circuit, message: Message) -> None:
        self.circuits.pop(circuit.address, None)

    def on_RequestImage(self, circuit: Circuit, message: Message) -> None:
        for block in message["RequestImage"]:
            if block["DiscardLevel"] < 0:
                continue
            asset_id = str(block["Image"])
            self.grid.counts_of("udp", asset_id)["requests"] += 1
            asset = self.grid.assets.get(asset_id)
            if asset is None or asset.kind != "texture":
                circuit.send(Message("ImageNotInDatabase", Block("ImageID", ID=UUID(asset_id))))
                continue
            rest = asset.body[FIRST_IMAGE_BYTES:]
            parts = [rest[at:at + IMAGE_BYTES] for at in range(0, len(rest), IMAGE_BYTES)]
            if block["Packet"] == 0:
                circuit.send(Message(
                    "ImageData",
                    Block("ImageID", ID=UUID(asset_id), Codec=2, Size=len(asset.body), Packets=1 + len(parts)),
                    Block("ImageData", Data=asset.body[:FIRST_IMAGE_BYTES]),
                ))
            for index, part in enumerate(parts, 1):
                if index >= block["Packet"]:
                    circuit.send(Message("ImagePacket", Block("ImageID", ID=UUID(asset_id), Packet=index), Block("ImageData", Data=part)))

    def on_TransferRequest(self, circuit: Circuit, message: Message) -> None:
        block = message["TransferInfo"]
        params, transfer_id = bytes(block["Params"]), block["TransferID"]
        asset, status = None, -2
        if len(params) == 20 and int(block["SourceType"]) == 2:
            asset_id = str(uuid.UUID(bytes=params[:16]))
            self.grid.counts_of("transfer", asset_id)["requests"] += 1
            asset = self.grid.assets.get(asset_id)
            if asset is not None and ASSET_TYPES.get(struct.unpack("<i", params[16:])[0]) != asset.kind:
                asset = None
            status = 0 if asset else -2
        circuit.send(Message("TransferInfo", Block(
            "TransferInfo", TransferID=transfer_id, ChannelType=2, TargetType=0, Status=status,
            Size=len(asset.body) if asset else 0, Params=params,
        )), PacketFlags.RELIABLE | PacketFlags.ZEROCODED)
        if asset is None:
            return
        parts = [asset.body[at:at + TRANSFER_BYTES] for at in range(0, len(asset.body), TRANSFER_BYTES)]
        for index, part in enumerate(parts):
            coded = PacketFlags.ZEROCODED if index % 3 == 2 else PacketFlags(0)
            circuit.send(Message("TransferPacket", Block(
                "TransferData", TransferID=transfer_id, ChannelType=2, Packet=index,
                Status=1 if index == len(parts) - 1 else 0, Data=part,
            )), PacketFlags.RELIABLE | coded)
