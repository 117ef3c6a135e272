"""Fixtures of the tests that make network namespaces. They need root and skip without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.world import World, address, everything_through_the_tunnel, make_world
from tools.netlab import Lab, Namespace


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    with Lab() as made:
        yield made


@dataclass(frozen=True)
class TwoNetworks:
    """A client with two ways out, and what is behind them.

        client wlan0 10.1.0.2 -- 10.1.0.1 wifi \\
               wwan0 10.2.0.2 -- 10.2.0.1 cell -+- 192.0.2.1, 2001:db8::1 (on each router's lo)

    IPv6 is the same with fd00:1:: and fd00:2::. The routes prefer wlan0. Both routers own the
    far addresses, so that what a packet reached tells which way it took.
    """

    client: Namespace
    wifi: Namespace
    cell: Namespace


FAR = "192.0.2.1"
FAR6 = "2001:db8::1"


@pytest.fixture
def networks(lab: Lab) -> TwoNetworks:
    client, wifi, cell = (lab.namespace(label) for label in ("client", "wifi", "cell"))
    for number, (name, router, metric) in enumerate(
        (("wlan0", wifi, 100), ("wwan0", cell, 700)), start=1
    ):
        lab.link(client, name, router, "down0")
        router.ip(f"addr add 10.{number}.0.1/24 dev down0")
        router.ip(f"-6 addr add fd00:{number}::1/64 dev down0 nodad")
        router.ip(f"addr add {FAR}/32 dev lo")
        router.ip(f"-6 addr add {FAR6}/128 dev lo nodad")
        address(client, name, number, metric)
    return TwoNetworks(client, wifi, cell)


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> World:
    return make_world(lab, tmp_path)


@pytest.fixture
def default_routes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kill switch close it: everything goes by the tunnel, and nobody is here over SSH."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    everything_through_the_tunnel(world)
