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
from tests.netns.world import FAR, PORT, World

pytestmark = pytest.mark.root

OTHER = "192.0.2.2"


@pytest.fixture
def world(world: World) -> World:
    """The usual one; its far end has a second address, and the configuration a name."""
    world.server.ip(f"addr add {OTHER}/32 dev lo")
    for number, router in enumerate(world.routers.values(), start=3):
        router.ip(f"route add {OTHER} via 10.{number}.0.2")
    world.config = world.config.with_suffix(".toml")
    world.config.touch(0o600)
    world.config.write_text(
        f'[interface]\nprivate_key = "{world.private}"\naddresses = "10.9.0.2/24"\n'
        f'[[peer]]\npublic_key = "{world.server_public}"\nendpoint = "vpn.example:{PORT}"\n'
        'allowed_ips = "10.9.0.0/24"\n[binding]\nbind = "wifi, cellular"\n'
        '[interfaces.wlan0]\ndns = ["10.1.0.1"]\n[interfaces.wwan0]\ndns = ["10.2.0.1"]\n'
    )
    return world


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


def test_a_failed_proof_changes_no_order_of_resolvers(world: World) -> None:
    """Neither the machine's resolvers (the tunnel's) nor whom tunneld asks for endpoint names."""
    client, wifi, cell = world.client, world.routers["wlan0"], world.routers["wwan0"]
    folder = Path("/etc/netns") / client.name
    folder.mkdir(parents=True)
    resolvers = folder / "resolv.conf"
    resolvers.write_text("nameserver 10.2.0.1\n")
    world.config.write_text(
        world.config.read_text().replace("[binding]", "[binding]\ndwell = 0.2\nhold_down = 0")
        + '[dns]\nservers = ["10.9.0.53", "fd09::53"]\nmethod = "file"\n'
    )
    client.ip("link set wlan0 down")
    try:
        with (
            serving(wifi, zone([FAR]), "10.1.0.1") as other,
            serving(cell, zone([FAR]), "10.2.0.1"),
        ):
            tunneld = start_tunneld(client, "--config", str(world.config))
            tunneld.expect("connected")

            def asked() -> tuple[str, int, object, object]:
                shown = tunnelctl(client, "path", world.interface)
                first = shown["interfaces"][0]
                return (
                    resolvers.read_text(), resolvers.stat().st_mtime_ns, shown["dns"],
                    (first["name"], first["dns"]),
                )  # fmt: skip

            before = asked()
            assert "nameserver 10.9.0.53\nnameserver fd09::53\n" in before[0]
            assert before[3] == ("wwan0", ["10.2.0.1"])
            wifi.run(["nft", f"add rule netdev tap in udp dport {PORT} drop"])
            client.ip("link set wlan0 up")
            client.ip("route add default via 10.1.0.1 dev wlan0 metric 100")
            tunneld.expect("not moving to wlan0")
            assert asked() == before
            assert other.questions == []
            tunnelctl(client, "set", "--bind", "wifi,cellular", world.interface)  # once more
            # The control: a proof that succeeds changes whom tunneld asks, and only that.
            wifi.run("nft flush chain netdev tap in")
            tunneld.expect("moved to wlan0")
            after = asked()
            assert after[:3] == before[:3]
            assert after[3] == ("wlan0", ["10.1.0.1"])
            resolvers.write_text("nameserver 10.1.0.1\n")
            eventually("ours again", lambda: "10.9.0.53" in resolvers.read_text())
            assert asked()[1] != before[1]
            assert tunneld.end() == 0
    finally:
        resolvers.unlink()
