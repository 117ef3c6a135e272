"""Two stacks back to back on a seqpacket link, for tests of the asyncio shell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.loops import until
from tunnel.netstack.aio import NetStack
from tunnel.stacklink import link_pair

ALICE, BOB = ("10.7.0.1", "fd07::1"), ("10.7.0.2", "fd07::2")


@asynccontextmanager
async def two_stacks(*, flags: int | None = None, **options: Any) -> AsyncIterator[Any]:
    """Yield (alice, bob); `flags` 0 is a link without virtio_net_hdr."""
    ends = link_pair()
    chosen = ends[2] if flags is None else flags
    with ends[0], ends[1]:
        async with (
            NetStack(ends[0].fileno(), chosen, addresses=ALICE, **options) as alice,
            NetStack(ends[1].fileno(), chosen, addresses=BOB, **options) as bob,
        ):
            yield alice, bob


async def settled(*nets: NetStack) -> None:
    """Wait until nothing of any connection is left but TIME-WAIT."""
    await until(lambda: not any(net.stack.tcp.sockets or net.transports for net in nets))
