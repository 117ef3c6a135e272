"""Looking up which peer an address belongs to, among few and many prefixes."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from tunnel import Engine

COUNTS = (10, 1_000, 100_000)
LOOKUPS = 4096


def prefixes(count: int) -> list[tuple[bytes, int]]:
    """Return random distinct IPv4 prefixes of /8 to /32, as (address, length)."""
    numbers = random.Random(count)
    found: dict[tuple[bytes, int], None] = {}
    while len(found) < count:
        length = numbers.choice((8, 12, 16, 20, 22, 24, 24, 24, 28, 32))
        address = numbers.getrandbits(32) >> (32 - length) << (32 - length)
        found[address.to_bytes(4), length] = None
    return list(found)


def addresses(table: list[tuple[bytes, int]]) -> list[bytes]:
    """Return addresses of which half lie in a prefix of the table, at random."""
    numbers = random.Random(1)
    inside = [numbers.choice(table)[0] for _ in range(LOOKUPS // 2)]
    outside = [numbers.randbytes(4) for _ in range(LOOKUPS // 2)]
    mixed = inside + outside
    numbers.shuffle(mixed)
    return mixed


@pytest.fixture(params=COUNTS)
def networks(request: pytest.FixtureRequest) -> list[tuple[bytes, int]]:
    return prefixes(request.param)


@pytest.mark.benchmark(group="allowed-IP lookup")
def test_find_in_core(
    loops: ctypes.CDLL, measured: Callable[..., Any], networks: list[tuple[bytes, int]]
) -> None:
    packed = b"".join(address + bytes([length]) for address, length in networks)
    table = ctypes.c_void_p(loops.bench_table(packed, len(networks)))
    assert table.value
    try:
        wanted = b"".join(addresses(networks))
        assert measured(LOOKUPS, loops.bench_find, table, wanted, LOOKUPS) >= LOOKUPS // 2
    finally:
        loops.bench_table_free(table)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as made:
        yield made


@pytest.mark.benchmark(group="allowed-IP lookup")
def test_find_from_python(
    engine: Engine, measured: Callable[..., Any], networks: list[tuple[bytes, int]]
) -> None:
    peer = engine.add_peer()
    for address, length in networks:
        engine.allow(peer, IPv4Network((address, length)))
    wanted = IPv4Address(networks[0][0])
    assert measured(1, engine.find_allowed, wanted) == peer
