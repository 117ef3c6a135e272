"""The native primitives against published vectors, independent dissectors and naive models."""

from __future__ import annotations

import ctypes
import hashlib
import random
import secrets
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography_vectors import open_vector_file
from hypothesis import given, settings, strategies as st
from scapy.utils import checksum as scapy_checksum

from tests.native_library import Endpoint, Replay, native_library
from tests.vectors import load_vectors
from tunnel.engine import Engine
from tunnel.primitives import AuthenticationError, hchacha20, open_, seal, wipe
from tunnel.settings import Address, Network

WINDOW = 8128
MAC_BYTES = 16


def nonce_of(counter: int) -> bytes:
    return struct.pack("<4xQ", counter)


# ---- AEAD ----


def wycheproof(name: str, nonce_bits: int) -> list[dict[str, Any]]:
    groups = load_vectors(f"wycheproof/{name}.json")["testGroups"]
    return [case for group in groups if group["ivSize"] == nonce_bits for case in group["tests"]]


def unhex(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def test_wycheproof_vouches_for_the_oracle_and_the_oracle_for_us() -> None:
    """No published case has a data message's nonce, so each key and text is used with ours."""
    cases = wycheproof("chacha20_poly1305_test", 96)
    assert len(cases) > 300
    for case in cases:
        key, nonce, aad, text, ct, tag = unhex(case, "key", "iv", "aad", "msg", "ct", "tag")
        oracle = ChaCha20Poly1305(key)
        if case["result"] == "valid":
            assert oracle.encrypt(nonce, text, aad) == ct + tag
        else:
            with pytest.raises(InvalidTag):
                oracle.decrypt(nonce, ct + tag, aad)
        (counter,) = struct.unpack("<Q", nonce[4:])
        sealed = seal(key, counter, text)
        assert sealed == oracle.encrypt(nonce_of(counter), text, None), case["tcId"]
        assert open_(key, counter, sealed) == text
        for bad in {sealed[:-16] + tag, ct + sealed[-16:]} - {sealed}:
            with pytest.raises(AuthenticationError):
                open_(key, counter, bad)


def aead_records(name: str) -> Iterator[dict[str, bytes]]:
    """Yield the records of a file of `NAME = hex or "text"` lines."""
    record: dict[str, bytes] = {}
    with open_vector_file(f"ciphers/ChaCha20Poly1305/{name}", "r") as lines:
        for line in [*lines, "COUNT = end"]:
            field, _, value = (part.strip() for part in line.partition("="))
            if field.upper() == "COUNT":
                if record:
                    yield record
                record = {}
            elif value and not field.startswith(("#", "Result")):
                quoted = value.startswith('"')
                record[field.upper()] = value[1:-1].encode() if quoted else bytes.fromhex(value)


@pytest.mark.parametrize("name", ["boringssl.txt", "openssl.txt"])
def test_texts_of_the_rfc_and_boringssl(name: str) -> None:
    count = 0
    for record in aead_records(name):
        key, text = record["KEY"], record.get("IN", record.get("PLAINTEXT", b""))
        sealed = seal(key, count, text)
        assert sealed == ChaCha20Poly1305(key).encrypt(nonce_of(count), text, None)
        count += 1
    assert count >= 5


@settings(max_examples=300, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    counter=st.integers(0, 2**64 - 1),
    text=st.binary(max_size=1500),
)
def test_seal_equals_the_oracle(key: bytes, counter: int, text: bytes) -> None:
    sealed = seal(key, counter, text)
    assert sealed == ChaCha20Poly1305(key).encrypt(nonce_of(counter), text, None)
    assert open_(key, counter, sealed) == text
    with pytest.raises(AuthenticationError):
        open_(key, counter ^ 1, sealed)


def test_short_ciphertexts_and_wrong_key_sizes_are_refused() -> None:
    for size in range(16):
        with pytest.raises(AuthenticationError):
            open_(bytes(32), 0, bytes(size))
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32"):
            seal(bytes(size), 0, b"")


def test_xchacha20_by_our_subkey() -> None:
    cases = wycheproof("xchacha20_poly1305_test", 192)
    assert len(cases) > 300
    for case in cases:
        key, nonce, aad, text, ct, tag = unhex(case, "key", "iv", "aad", "msg", "ct", "tag")
        oracle = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
        if case["result"] == "valid":
            assert oracle.encrypt(bytes(4) + nonce[16:], text, aad) == ct + tag, case["tcId"]
        else:
            with pytest.raises(InvalidTag):
                oracle.decrypt(bytes(4) + nonce[16:], ct + tag, aad)


def test_wipe() -> None:
    secret = bytearray(secrets.token_bytes(100))
    wipe(memoryview(secret)[10:90])
    assert secret[10:90] == bytes(80)
    wipe(secret)
    assert secret == bytes(100)


# ---- MACs ----


def test_hashlib_passes_the_published_blake2s_answers() -> None:
    """It is the oracle below: the answers are for 32 bytes of output, ours are of 16."""
    answers = [one for one in load_vectors("blake2/blake2s-kat.json") if one["hash"] == "blake2s"]
    assert len(answers) >= 256
    for one in answers:
        data, key = bytes.fromhex(one["in"]), bytes.fromhex(one["key"])
        assert hashlib.blake2s(data, key=key).hexdigest() == one["out"]


@pytest.fixture
def mac() -> Iterator[Any]:
    library = native_library()
    handle = library.tc_mac_new()
    assert handle
    yield handle
    library.tc_mac_free(handle)


def keyed(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=MAC_BYTES).digest()


@pytest.mark.parametrize("label", [b"mac1----", b"cookie--"])
def test_mac_keys(mac: Any, label: bytes) -> None:
    public, out = secrets.token_bytes(32), ctypes.create_string_buffer(32)
    assert native_library().tc_mac_key(mac, label, public, out) == 0
    assert out.raw == hashlib.blake2s(label + public).digest()


@pytest.mark.parametrize("size", [148, 92])
@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_mac1_mac2_and_cookie(mac: Any, size: int, source: str) -> None:
    library, rng = native_library(), random.Random(size)
    place = ip_address(source)
    for port in (1, 0x1234, 65535):
        key, secret, body = (rng.randbytes(n) for n in (32, 32, size - 32))
        endpoint = Endpoint(family=place.version, port=port)
        endpoint.address[: len(place.packed)] = list(place.packed)
        cookie = keyed(secret, place.packed + port.to_bytes(2, "big"))
        out = ctypes.create_string_buffer(MAC_BYTES)
        assert library.tc_cookie(mac, secret, ctypes.byref(endpoint), out) == 0
        assert out.raw == cookie
        mac1 = keyed(key, body)
        message = body + mac1 + keyed(cookie, body + mac1)
        unsigned = body + mac1 + bytes(MAC_BYTES)
        assert library.tc_mac1_valid(mac, key, message, size)
        assert library.tc_mac1_valid(mac, key, unsigned, size)
        assert library.tc_mac2_valid(mac, secret, ctypes.byref(endpoint), message, size)
        assert not library.tc_mac2_valid(mac, secret, ctypes.byref(endpoint), unsigned, size)
        endpoint.port ^= 0x100
        assert not library.tc_mac2_valid(mac, secret, ctypes.byref(endpoint), message, size)


# ---- limiter, replay window, checksum ----


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_limiter_sequence(source: str) -> None:
    library, place = native_library(), ip_address(source)
    endpoint = Endpoint(family=place.version)
    endpoint.address[: len(place.packed)] = list(place.packed)
    limiter = library.tc_limiter_new(1)
    now = 10**9
    for pause, allowed in load_vectors("ratelimiter.json")["sequence_sleep_ms_then_allowed"]:
        now += pause * 10**6
        assert library.tc_limiter_allow(limiter, ctypes.byref(endpoint), now) is allowed
    library.tc_limiter_free(limiter)


@pytest.mark.parametrize("start", [0, 2**32 - 5000, 2**63, 2**64 - 2**13 - 1 - 30000])
def test_replay_window_against_a_set(start: int) -> None:
    library, rng, window = native_library(), random.Random(start), Replay()
    taken: set[int] = set()
    front, newest = start, -1
    for _ in range(30000):
        front += rng.choice((0, 0, 0, 1, 1, 2, 64, 500))
        counter = max(0, front - rng.choice((0, 1, 2, rng.randrange(9000), WINDOW, WINDOW + 1)))
        expected = (
            counter < 2**64 - 2**13 - 1 and counter not in taken and newest - counter <= WINDOW
        )
        assert library.tc_replay_accept(ctypes.byref(window), counter) is expected, counter
        if expected:
            newest = max(newest, counter)
            taken.add(counter)


def folded(sum_: int) -> int:
    as_it_lies = struct.pack("=H", native_library().tc_checksum_fold(sum_))
    return int.from_bytes(as_it_lies, "big")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=3000), cut=st.integers(0, 3000))
def test_checksum_equals_scapys(data: bytes, cut: int) -> None:
    library = native_library()
    assert folded(library.tc_checksum_add(0, data, len(data))) ^ 0xFFFF == scapy_checksum(data)
    head, tail = data[: cut // 2 * 2], data[cut // 2 * 2 :]  # pieces but the last are even
    copy = ctypes.create_string_buffer(len(tail) + 1)
    sum_ = library.tc_checksum_copy(
        library.tc_checksum_add(0, head, len(head)), copy, tail, len(tail)
    )
    assert folded(sum_) ^ 0xFFFF == scapy_checksum(data)
    assert copy.raw[: len(tail)] == tail


# ---- allowed IPs ----


class Peers:
    """Peers by the names that the vectors give them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self._engine.add_peer()
        return self._ids[name]

    def insert(self, rows: list[dict[str, str]]) -> None:
        for row in rows:
            self._engine.allow(self[row["peer"]], ip_network(row["prefix"], strict=False))


def test_allowed_ips_table() -> None:
    vectors = load_vectors("allowedips.json")
    with Engine() as engine:
        peers = Peers(engine)
        peers.insert(vectors["insert"])
        for row in vectors["lookup"]:
            assert engine.find_allowed(ip_address(row["addr"])) == peers[row["peer"]], row
        for step in vectors["then"]:
            if "fresh_table_insert" in step:
                for name in "abcdefgh":
                    engine.clear_allowed(peers[name])
            peers.insert(step.get("insert", step.get("fresh_table_insert")))
            removed = peers[step["remove_peer"]]
            engine.clear_allowed(removed)
            for address in step.get("lookup_not_a", ()):
                assert engine.find_allowed(ip_address(address)) != removed
            for address in step.get("lookup_none", ()):
                assert engine.find_allowed(ip_address(address)) is None


def random_address(rng: random.Random, version: int) -> Address:
    """Few values for each byte, so that prefixes nest."""
    raw = bytes(rng.choice((0, 1, 128, 255)) for _ in range(4 if version == 4 else 16))
    return ip_address(raw)


def naive_find(table: dict[Network, int], address: Address) -> int | None:
    holding = [net for net in table if net.version == address.version and address in net]
    return table[max(holding, key=lambda net: net.prefixlen)] if holding else None


def test_allowed_ips_against_a_dictionary() -> None:
    rng = random.Random(4)
    table: dict[Network, int] = {}
    with Engine() as engine:
        peers = [engine.add_peer() for _ in range(6)]
        for round_ in range(3000):
            version = rng.choice((4, 6))
            prefix = rng.randint(0, 32 if version == 4 else 128)
            network = ip_network((random_address(rng, version), prefix), strict=False)
            peer, act = rng.choice(peers), rng.random()
            if act < 0.6:
                engine.allow(peer, network)
                table[network] = peer
            elif act < 0.98:
                if table and rng.random() < 0.7:
                    network, peer = rng.choice(list(table.items()))
                if table.get(network) == peer:
                    engine.disallow(peer, network)
                    del table[network]
            else:
                engine.clear_allowed(peer)
                table = {net: owner for net, owner in table.items() if owner != peer}
            address = random_address(rng, version)
            assert engine.find_allowed(address) == naive_find(table, address), round_
