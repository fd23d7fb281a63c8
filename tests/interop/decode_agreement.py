"""Decodes the LLUDP datagrams of captures with hippolyzer's own message decoder.

    python decode_agreement.py CAPTURE.pcap

Prints one JSON object for each datagram to or from UDP port 9000 or 9001, in the order of the
capture; tests/it/decode_agreement.rs decodes the same datagrams and compares line by line. Nothing
of ours is used here, the pcap reader included, so that agreement means something.

Values are written so that two languages agree on them: floats as the hexadecimal digits of their
32 bits, variable fields as hexadecimal without trailing NULs, everything else as text.
"""

import json
import logging
import struct
import sys

from hippolyzer.lib.base.message.msgtypes import MsgType
from hippolyzer.lib.base.message.template_dict import DEFAULT_TEMPLATE_DICT
from hippolyzer.lib.base.message.udpdeserializer import UDPMessageDeserializer
from hippolyzer.lib.base.settings import Settings

PORTS = (9000, 9001)
LINKTYPE_ETHERNET = 1
LINKTYPES_RAW = (12, 14, 101, 228)
FREQUENCY_BASE = {"HIGH": 0, "MEDIUM": 0xFF00, "LOW": 0xFFFF0000, "FIXED": 0xFFFFFF00}


def frames(path):
    with open(path, "rb") as capture:
        data = capture.read()
    magic = data[:4]
    order = "<" if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    (link_type,) = struct.unpack_from(order + "I", data, 20)
    at = 24
    while at + 16 <= len(data):
        _, _, captured, _ = struct.unpack_from(order + "IIII", data, at)
        yield link_type, data[at + 16 : at + 16 + captured]
        at += 16 + captured


def datagrams(path):
    for link_type, frame in frames(path):
        if link_type == LINKTYPE_ETHERNET:
            if frame[12:14] != b"\x08\x00":
                continue
            frame = frame[14:]
        elif link_type not in LINKTYPES_RAW:
            raise SystemExit(f"link type {link_type} is not known here")
        if frame[0] >> 4 != 4 or frame[9] != 17:
            continue
        udp = frame[(frame[0] & 15) * 4 :]
        source, target, length = struct.unpack_from(">HHH", udp)
        if source in PORTS or target in PORTS:
            yield udp[8:length]


def float_bits(value):
    return struct.pack(">f", value).hex()


def canonical(value, kind):
    if kind in (MsgType.MVT_VARIABLE, MsgType.MVT_FIXED):
        raw = value.encode("utf8") if isinstance(value, str) else bytes(value)
        return raw.rstrip(b"\0").hex()
    if kind == MsgType.MVT_F32:
        return float_bits(value)
    if kind in (MsgType.MVT_LLVector3, MsgType.MVT_LLQuaternion):
        return ",".join(float_bits(component) for component in tuple(value)[:3])
    if kind == MsgType.MVT_BOOL:
        return str(int(value))
    return str(value)


def fields(message, template):
    found = {}
    for block in template.blocks:
        for values in message.blocks.get(block.name, ()):
            for variable in block.variables:
                text = canonical(values[variable.name], variable.type)
                found.setdefault(f"{block.name}.{variable.name}", []).append(text)
    return found


def decoder():
    settings = Settings()
    settings.ENABLE_DEFERRED_PACKET_PARSING = True
    return UDPMessageDeserializer(settings)


def describe(deserializer, datagram):
    message = deserializer.deserialize(datagram)
    template = DEFAULT_TEMPLATE_DICT.get_template_by_name(message.name)
    raw = bytes(message.raw_body)
    plain = bytes(deserializer.zero_code_expand(raw)) if message.zerocoded else raw
    start = template.get_msg_freq_num_len() + message.offset
    deserializer.parse_message_body(message)
    return {
        "flags": int(message.send_flags),
        "sequence": message.packet_id,
        "extra": message.offset,
        "number": FREQUENCY_BASE[template.frequency.name] | template.num,
        "name": message.name,
        "acks": sorted(message.acks or ()),
        "body": plain[start:].hex(),
        "fields": fields(message, template),
    }


def main():
    logging.disable(logging.CRITICAL)
    deserializer = decoder()
    out = sys.stdout
    for datagram in datagrams(sys.argv[1]):
        try:
            line = describe(deserializer, datagram)
        except Exception as error:  # The comparison decides whether a refusal is agreement.
            line = {"refused": type(error).__name__}
        out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
