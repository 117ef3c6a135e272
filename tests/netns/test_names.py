"""Endpoints that are names, on a machine that moves and with a far end that does (world.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from bench.implementations import eventually
from tests.netns.command import start_tunneld, tunnelctl
from tests.netns.test_policy_resolver import Answer, serving
from tests.netns.world import FAR, PORT, World, make_world
from tools.netlab import Lab

pytestmark = pytest.mark.root

OTHER = "192.0.2.2"


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> World:
    """The usual one; its far end has a second address, and the configuration a name."""
    made = make_world(lab, tmp_path)
    lab.namespaces["server"].ip(f"addr add {OTHER}/32 dev lo")
    for number, router in enumerate(made.routers.values(), start=3):
        router.ip(f"route add {OTHER} via 10.{number}.0.2")
    made.config = made.config.with_suffix(".toml")
    made.config.touch(0o600)
    made.config.write_text(
        f'[interface]\nprivate_key = "{made.private}"\naddresses = "10.9.0.2/24"\n'
        f'[[peer]]\npublic_key = "{made.server_public}"\nendpoint = "vpn.example:{PORT}"\n'
        'allowed_ips = "10.9.0.0/24"\n[binding]\nbind = "wifi, cellular"\n'
        '[interfaces.wlan0]\ndns = ["10.1.0.1"]\n[interfaces.wwan0]\ndns = ["10.2.0.1"]\n'
    )
    return made


def zone(addresses: list[str]) -> Answer:
    def answer(query: dns.message.Message, transport: str) -> list[bytes]:
        reply = dns.message.make_response(query)
        question = query.question[0]
        if question.rdtype == dns.rdatatype.A and addresses:
            reply.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", *addresses))
        return [reply.to_wire()]

    return answer


def peer(world: World) -> dict[str, Any]:
    (found,) = tunnelctl(world.client, "status", world.interface)["peers"]
    return dict(found)


def test_after_a_move_the_new_networks_resolver_is_asked_over_the_new_path(world: World) -> None:
    wifi, cell = world.routers["wlan0"], world.routers["wwan0"]
    with (
        serving(wifi, zone([FAR]), "10.1.0.1") as first,
        serving(cell, zone([OTHER]), "10.2.0.1") as second,
    ):
        tunneld = start_tunneld(world.client, "--config", str(world.config))
        tunneld.expect("connected")
        assert (peer(world)["endpoint"], second.questions) == (f"{FAR}:{PORT}", [])
        first.questions.clear()
        world.client.ip("link set wlan0 down")
        eventually("the other address", lambda: peer(world)["endpoint"] == f"{OTHER}:{PORT}")
        assert world.ping()
        assert second.questions
        assert first.questions == []
        assert tunneld.end() == 0


@pytest.mark.long
def test_a_far_end_that_moves_is_found_by_its_name_again(world: World) -> None:
    addresses = [FAR]
    server = world.routers["wlan0"]
    with serving(server, zone(addresses), "10.1.0.1"):
        tunneld = start_tunneld(world.client, "--config", str(world.config))
        tunneld.expect("connected")
        for router in world.routers.values():
            router.run(["nft", f"add rule netdev tap in ip daddr {FAR} drop"])
        addresses[:] = [OTHER]
        world.ping(count=1, check=False)  # what makes it ask for the peer
        eventually(
            "the other address", lambda: peer(world)["endpoint"] == f"{OTHER}:{PORT}", within=60
        )
        eventually("an answer", lambda: world.ping(count=1, check=False))
        assert tunneld.end() == 0
