"""Bulk data through outer links of 1500, 1428 and 1280 bytes: all of it arrives as it was sent.

The tunnel's MTU stays 1420, so that below 1500 outer packets are fragmented (they carry no DF),
and a UDP_SEGMENT send of segments larger than the link must be repeated without it.
"""

from __future__ import annotations

import pytest

from tests.interop import transfer
from tests.interop.hosts import (
    CRYPTO,
    NO_OFFLOADS,
    REFERENCE,
    SUBJECT,
    WITHOUT,
    WORKERS,
    connect,
    star,
)

pytestmark = [pytest.mark.root, pytest.mark.datapath]

OTHERS = (*CRYPTO, *WITHOUT, *WORKERS)
SIZE = 24 << 20
DATAGRAMS = [0, 1, 64, 1000, 1372, 1392, 1393, 5000, 9000, 30_000, 65_000]


@pytest.mark.parametrize("family", [4, 6], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("mtu", [1500, 1428, 1280])
def test_bulk(mtu: int, family: int) -> None:
    with star(SUBJECT, REFERENCE, mtu=mtu) as (ours, theirs):
        connect(ours, theirs, family=family)
        ours.reaches(theirs)
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            for address in (receiver.inner, receiver.inner6):
                moved = transfer.tcp(sender.space, receiver.space, address, SIZE)
                assert moved.size == SIZE
                assert moved.received == moved.sent
                echoed = transfer.udp(sender.space, receiver.space, address, DATAGRAMS)
                assert echoed == (len(DATAGRAMS), len(DATAGRAMS))


@pytest.mark.parametrize("mtu", [1500, 1428])
@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT,
        *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS),
        pytest.param(NO_OFFLOADS, marks=pytest.mark.long, id="tunneld without any"),
    ],
)
def test_bulk_between_two_of_ours(mtu: int, subject: str) -> None:
    """Super-segments leave and arrive whole at both ends only here."""
    with star(subject, subject, mtu=mtu) as (one, other):
        connect(one, other)
        one.reaches(other)
        for address in (other.inner, other.inner6):
            moved = transfer.tcp(one.space, other.space, address, 4 * SIZE)
            assert moved.size == 4 * SIZE
            assert moved.received == moved.sent
            echoed = transfer.udp(one.space, other.space, address, DATAGRAMS)
            assert echoed == (len(DATAGRAMS), len(DATAGRAMS))
