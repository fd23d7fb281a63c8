"""How fast hippolyzer's decoder takes a capture's datagrams apart.

    python benches/peers/decode_hippolyzer.py [CAPTURE.pcap] [--seconds 5]

Needs a Python with hippolyzer. Prints MB/s twice: header only (bodies deferred, as its proxy works)
and with bodies; `cargo bench --bench decode` reads the same datagrams.
"""

import argparse
import logging
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "interop"))

import decode_agreement  # noqa: E402


def megabytes_per_second(datagrams, read, seconds):
    start = time.perf_counter()
    done = 0
    while time.perf_counter() - start < seconds:
        for datagram in datagrams:
            read(datagram)
            done += len(datagram)
    return done / (time.perf_counter() - start) / 1e6


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("capture", nargs="?", default=ROOT / "fixtures/sessions/libomv-udp.pcap")
    arguments.add_argument("--seconds", type=float, default=5)
    options = arguments.parse_args()
    logging.disable(logging.CRITICAL)

    datagrams = list(decode_agreement.datagrams(options.capture))
    deserializer = decode_agreement.decoder()

    def whole(datagram):
        deserializer.parse_message_body(deserializer.deserialize(datagram))

    size = sum(map(len, datagrams))
    print(f"{options.capture}: {len(datagrams)} datagrams, {size} bytes")
    header = megabytes_per_second(datagrams, deserializer.deserialize, options.seconds)
    print(f"hippolyzer, headers      {header:8.2f} MB/s")
    body = megabytes_per_second(datagrams, whole, options.seconds)
    print(f"hippolyzer, with bodies  {body:8.2f} MB/s")


if __name__ == "__main__":
    main()
