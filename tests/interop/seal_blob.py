#!/usr/bin/env python3
"""The formats at rest, written a second time from their descriptions in src/store/sealed.rs and records.rs.

    seal_blob.py seal SECRET KEY SALT < content > blob     all three in hexadecimal; raw codec, key id 1
    seal_blob.py open SECRET KEY NAME < blob > content     checks everything that can be checked
    seal_blob.py record KEY ASSET NONCE < record > sealed  a record of the catalog, key id 1

AES comes from the package `cryptography`; HKDF from the standard library; BLAKE3 is below.
"""

import hashlib
import hmac
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

GROUP = 64 << 10
HEADER = struct.Struct(">4sBBHII32s32sQQ")

# --- BLAKE3, after the reference in its paper

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
MASK = 0xFFFFFFFF


def compress(cv, block, counter, length, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = list(cv) + [*IV[:4], counter & MASK, counter >> 32, length, flags]

    def g(a, b, c, d, x, y):
        v[a] = (v[a] + v[b] + x) & MASK
        t = v[d] ^ v[a]
        v[d] = (t >> 16 | t << 16) & MASK
        v[c] = (v[c] + v[d]) & MASK
        t = v[b] ^ v[c]
        v[b] = (t >> 12 | t << 20) & MASK
        v[a] = (v[a] + v[b] + y) & MASK
        t = v[d] ^ v[a]
        v[d] = (t >> 8 | t << 24) & MASK
        v[c] = (v[c] + v[d]) & MASK
        t = v[b] ^ v[c]
        v[b] = (t >> 7 | t << 25) & MASK

    for _ in range(7):
        g(0, 4, 8, 12, m[0], m[1])
        g(1, 5, 9, 13, m[2], m[3])
        g(2, 6, 10, 14, m[4], m[5])
        g(3, 7, 11, 15, m[6], m[7])
        g(0, 5, 10, 15, m[8], m[9])
        g(1, 6, 11, 12, m[10], m[11])
        g(2, 7, 8, 13, m[12], m[13])
        g(3, 4, 9, 14, m[14], m[15])
        m = [m[i] for i in ORDER]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def value(data, counter, key, flags, root):
    """The chaining value of the subtree over `data`, whose first chunk is number `counter`."""
    if len(data) <= 1024:
        cv = key
        blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
        for number, block in enumerate(blocks):
            more = CHUNK_START * (number == 0) | CHUNK_END * (number == len(blocks) - 1)
            more |= ROOT * (root and number == len(blocks) - 1)
            cv = compress(cv, block, counter, len(block), flags | more)
        return cv
    left = 1024
    while left * 2 < len(data):
        left *= 2
    sides = value(data[:left], counter, key, flags, False)
    sides += value(data[left:], counter + left // 1024, key, flags, False)
    return compress(key, struct.pack("<16I", *sides), 0, 64, flags | PARENT | ROOT * root)


def packed(words):
    return struct.pack("<8I", *words)


def blake3(data):
    return packed(value(data, 0, IV, 0, True))


def derive_key(context, material):
    key = value(context.encode(), 0, IV, CONTEXT, True)
    return packed(value(material, 0, key, MATERIAL, True))


def group_values(data):
    chunks = GROUP // 1024
    groups = range(0, len(data), GROUP)
    return [packed(value(data[at : at + GROUP], at // GROUP * chunks, IV, 0, False)) for at in groups]


# --- the format


def name_of(secret, digest):
    key = derive_key("rezcache service secret v1", secret + b"blob name")
    return packed(value(struct.pack(">Q", 32) + digest, 0, struct.unpack("<8I", key), KEYED, True))


def derived(master, salt, name):
    pseudorandom = hmac.digest(salt, master, hashlib.sha256)
    info = b"rezcache seal v1" + name
    one = hmac.digest(pseudorandom, info + b"\x01", hashlib.sha256)
    return one, hmac.digest(pseudorandom, one + info + b"\x02", hashlib.sha256)


def nonce(index, last):
    return struct.pack(">QI", index, last)


def first_chunk(content):
    digest = blake3(content)
    if len(content) <= GROUP:
        return [digest + content]
    body = [content[at : at + GROUP] for at in range(0, len(content), GROUP)]
    return [digest + b"".join(group_values(content)), *body]


def seal(secret, master, salt, content):
    name = name_of(secret, blake3(content))
    key, commitment = derived(master, salt, name)
    header = HEADER.pack(b"RZB1", 1, 0, 0, 1, GROUP, salt, commitment, len(content), len(content))
    chunks = first_chunk(content)
    sealed = [
        AESGCM(key).encrypt(nonce(index, index == len(chunks) - 1), chunk, header)
        for index, chunk in enumerate(chunks)
    ]
    return header + b"".join(sealed)


def open_blob(secret, master, name, blob):
    header, rest = blob[: HEADER.size], blob[HEADER.size :]
    magic, algorithm, codec, zero, key_id, group, salt, commitment, plain, body = HEADER.unpack(header)
    assert (magic, algorithm, codec, zero, key_id, group) == (b"RZB1", 1, 0, 0, 1, GROUP), "header"
    assert plain == body, "a raw body is not packed"
    key, expected = derived(master, salt, name)
    assert commitment == expected, "commitment"
    if plain <= GROUP:
        lengths = [32 + plain]
    else:
        groups = -(-plain // GROUP)
        lengths = [32 + 32 * groups] + [GROUP] * (groups - 1) + [plain - GROUP * (groups - 1)]
    chunks = []
    for index, length in enumerate(lengths):
        sealed, rest = rest[: length + 16], rest[length + 16 :]
        chunks.append(AESGCM(key).decrypt(nonce(index, index == len(lengths) - 1), sealed, header))
    assert not rest, "more than the header says"
    content = chunks[0][32:] if len(chunks) == 1 else b"".join(chunks[1:])
    assert chunks[:1] == first_chunk(content)[:1], "digest and groups"
    assert name_of(secret, chunks[0][:32]) == name, "name"
    return content


def seal_record(master, asset, nonce, record):
    head = b"\x01" + struct.pack(">I", 1)
    key = derive_key("rezcache record v1", master + asset)
    return head + nonce + AESGCM(key).encrypt(nonce, record, head + asset)


def main():
    what, *parameters = sys.argv[1:]
    made = {"seal": seal, "open": open_blob, "record": seal_record}[what](*map(bytes.fromhex, parameters), sys.stdin.buffer.read())
    sys.stdout.buffer.write(made)


assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
if __name__ == "__main__":
    main()
