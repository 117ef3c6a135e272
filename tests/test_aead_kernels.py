"""The AEAD's vector kernels against published vectors.

Data messages have one form of nonce and no associated data, so the kernels' two halves are put
together here the way RFC 8439 does it, for any nonce and associated data, with many cases at once.
Whole packets are in native/tests/test_aead.c.
"""

from __future__ import annotations

import ctypes
import random
import struct
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography_vectors import open_vector_file

from tests.native_library import (
    KERNELS,
    ChachaRun,
    Kernel,
    PolyMessage,
    PolyPair,
    native_library,
)
from tests.vectors import load_vectors

BLOCK, TAG = 64, 16


@dataclass(frozen=True, slots=True)
class Case:
    """One sealing by RFC 8439: what goes in, and ciphertext and tag."""

    key: bytes
    nonce: bytes
    aad: bytes
    text: bytes
    sealed: bytes


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    found = getattr(native_library(), f"tc_kernel_{request.param}")()
    if not found:
        pytest.skip(f"this processor has no {request.param}")
    made: Kernel = found.contents
    return made


@dataclass(frozen=True, slots=True)
class Message:
    """What Poly1305 authenticates: data and a last block of two words, by a key of r and s."""

    key: bytes
    data: bytes
    end: tuple[int, int]


def work(
    kernel: Kernel, pieces: list[tuple[Case, int, bytes]], messages: list[Message]
) -> tuple[list[bytes], list[bytes]]:
    """Encrypt texts from a block on, each call of the kernel as full as their order allows.

    The messages' tags are made meanwhile, where the kernel works that way.
    """
    tags = ctypes.create_string_buffer(TAG * max(len(messages), 1))
    first = ctypes.addressof(tags)
    table = (PolyMessage * max(len(messages), 1))(
        *(
            PolyMessage(m.key, m.data, len(m.data), (ctypes.c_uint64 * 2)(*m.end), first + TAG * i)
            for i, m in enumerate(messages)
        )
    )
    pair = PolyPair()
    native_library().tc_poly_pair_init(ctypes.byref(pair), table)
    if not kernel.authenticate:
        pair.limit = len(messages)
    buffers = [ctypes.create_string_buffer(text, max(len(text), 1)) for _, _, text in pieces]
    runs: list[ChachaRun] = []
    free = kernel.lanes

    def flush() -> None:
        nonlocal free
        if runs:
            kernel.crypt((ChachaRun * len(runs))(*runs), len(runs), ctypes.pointer(pair))
        runs.clear()
        free = kernel.lanes

    for (case, block, text), buffer in zip(pieces, buffers, strict=True):
        nonce = struct.unpack("<3L", case.nonce)
        at = 0
        while at < len(text):
            size = min(len(text) - at, free * BLOCK)
            place = ctypes.addressof(buffer) + at
            counters = (ctypes.c_uint32 * 4)(block + at // BLOCK, *nonce)
            runs.append(ChachaRun(case.key, counters, place, place, size))
            free -= -(-size // BLOCK)
            at += size
            if not free:
                flush()
    flush()
    if kernel.authenticate:
        for at in range(0, len(messages), kernel.width):
            part = table[at : at + kernel.width]
            kernel.authenticate((PolyMessage * len(part))(*part), len(part))
    while native_library().tc_poly_pair_advance(ctypes.byref(pair)):
        pass
    return (
        [buffer.raw[: len(text)] for buffer, (_, _, text) in zip(buffers, pieces, strict=True)],
        [tags.raw[TAG * i : TAG * (i + 1)] for i in range(len(messages))],
    )


def seal_all(kernel: Kernel, cases: list[Case]) -> list[bytes]:
    keys, _ = work(kernel, [(case, 0, bytes(BLOCK)) for case in cases], [])
    pieces = [(case, 1, case.text) for case in cases]
    texts, _ = work(kernel, pieces, [])
    messages = [
        Message(key, case.aad + bytes(-len(case.aad) % TAG) + text, (len(case.aad), len(text)))
        for case, key, text in zip(cases, keys, texts, strict=True)
    ]
    again, tags = work(kernel, pieces, messages)
    assert again == texts
    return [text + tag for text, tag in zip(texts, tags, strict=True)]


def check(kernel: Kernel, cases: list[Case]) -> None:
    for case, sealed in zip(cases, seal_all(kernel, cases), strict=True):
        assert sealed == case.sealed, case


def wycheproof() -> list[tuple[Case, str]]:
    groups = load_vectors("wycheproof/chacha20_poly1305_test.json")["testGroups"]
    tests = [test for group in groups if group["ivSize"] == 96 for test in group["tests"]]
    return [
        (
            Case(
                key=bytes.fromhex(test["key"]),
                nonce=bytes.fromhex(test["iv"]),
                aad=bytes.fromhex(test["aad"]),
                text=bytes.fromhex(test["msg"]),
                sealed=bytes.fromhex(test["ct"] + test["tag"]),
            ),
            test["result"],
        )
        for test in tests
    ]


def test_wycheproof(kernel: Kernel) -> None:
    cases = wycheproof()
    assert len(cases) > 300
    valid = [case for case, result in cases if result == "valid"]
    check(kernel, valid)
    check(kernel, sorted(valid, key=lambda case: len(case.text)))
    for case in valid:
        check(kernel, [case])
    invalid = [case for case, result in cases if result != "valid"]
    assert len(invalid) > 50
    for case, sealed in zip(invalid, seal_all(kernel, invalid), strict=True):
        assert sealed != case.sealed, case


def boringssl() -> list[Case]:
    """Read records of `NAME: hex` or `NAME = "text"` lines; the first ones are RFC 8439's."""
    records: list[dict[str, bytes]] = []
    with open_vector_file("ciphers/ChaCha20Poly1305/boringssl.txt", "r") as lines:
        for line in lines:
            field, _, value = (part.strip() for part in line.partition("="))
            if field == "COUNT":
                records.append({})
            elif value and not field.startswith("#"):
                text = value[1:-1].encode() if value[0] == '"' else bytes.fromhex(value)
                records[-1][field] = text
    return [
        Case(r["KEY"], r["NONCE"], r.get("AD", b""), r.get("IN", b""), r.get("CT", b"") + r["TAG"])
        for r in records
    ]


def test_rfc_8439_and_boringssl(kernel: Kernel) -> None:
    cases = boringssl()
    assert len(cases) > 60
    check(kernel, cases)


def test_random_cases(kernel: Kernel) -> None:
    """Against `cryptography`: lengths of every residue, with associated data, in odd batches."""
    rng = random.Random(7)
    for _ in range(40):
        cases = []
        shared = rng.randbytes(32)
        for _ in range(rng.randrange(1, 20)):
            key = shared if rng.random() < 0.7 else rng.randbytes(32)
            nonce, aad = rng.randbytes(12), rng.randbytes(rng.choice((0, 0, 1, 16, 33)))
            text = rng.randbytes(rng.choice((0, 1, 63, 64, 65, rng.randrange(2000))))
            sealed = ChaCha20Poly1305(key).encrypt(nonce, text, aad)
            cases.append(Case(key, nonce, aad, text, sealed))
        check(kernel, cases)


def test_poly1305_at_its_edges(kernel: Kernel) -> None:
    """Sums next to 2^130 - 5 and 2^128, where a final reduction or carry goes wrong."""
    prime = 2**130 - 5
    clamp = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    rng = random.Random(8)
    messages, expected = [], []
    for _ in range(4000):
        filler = rng.choice((b"\xff", b"\x00", b"\xfb", rng.randbytes(1)))
        data = bytearray(filler * (16 * rng.randrange(1, 9)))
        if rng.random() < 0.5:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFA, 0xFB, 0xFE, 0xFF))
        r = rng.choice((0, 1, 2, clamp, 1 << 124, rng.getrandbits(128))) & clamp
        s = rng.choice((0, 1, 2**128 - 1, 2**128 - 6, rng.getrandbits(128)))
        end = (rng.choice((0, 2**64 - 1, 2**64 - 5)), rng.choice((0, 1, 2**64 - 1)))
        total = 0
        for i in range(0, len(data), 16):
            total = (total + int.from_bytes(data[i : i + 16] + b"\x01", "little")) * r % prime
        total = (total + (end[0] | end[1] << 64 | 1 << 128)) * r % prime
        expected.append(((total + s) % 2**128).to_bytes(16, "little"))
        key = r.to_bytes(16, "little") + s.to_bytes(16, "little")
        messages.append(Message(key, bytes(data), end))
    other = Case(bytes(32), bytes(12), b"", b"", b"")
    assert work(kernel, [(other, 0, bytes(100_000))], messages)[1] == expected
