"""What the kill switch's firewall says, as text, and that each rule is where it must be."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from itertools import product

import pytest

from tunnel.policy.killswitch.common import LOCAL
from tunnel.policy.killswitch.render import DEVICES_MAX, render
from tunnel.policy.killswitch.ruleset import Chain, Rule, Ruleset, lines
from tunnel.policy.killswitch.state import Desired, Endpoint, Phase, Resolver
from tunnel.settings import ControlGroup, Inbound, Portal

CONNECTED = Desired(
    phase=Phase.CONNECTED,
    tunnel="td0",
    mark=0x7400,
    interfaces=("wwan0", "wwan1"),
    endpoints=(Endpoint(ip_address("192.0.2.1"), 51820), Endpoint(ip_address("2001:db8::1"), 7)),
    resolvers=(Resolver("wwan0", ip_address("10.2.0.1")),),
    addresses=(ip_interface("10.9.0.2/24"), ip_interface("fd09::2/64")),
)
EVERYTHING = replace(
    CONNECTED,
    local_networks=True,
    inbound=(Inbound("tcp", 22, "eth0"), Inbound("udp", 60001, "eth0")),
    portal=Portal("wlan0", 1000, None, (ip_address("10.1.0.1"),), 0x74FF),
    portal_until=60.0,
    confirm=30.0,
)


def chains(ruleset: Ruleset) -> dict[str, Chain]:
    return {chain.name: chain for table in ruleset.tables for chain in table.chains}


def rules(wanted: Desired, chain: str) -> list[Rule]:
    return list(chains(render(wanted, 0.0, ("eth0",)))[chain].rules)


def texts(wanted: Desired, chain: str) -> list[str]:
    return [str(rule) for rule in rules(wanted, chain)]


def test_the_exemption_for_the_server_is_mark_udp_address_port_and_interface() -> None:
    found = [text for text in texts(CONNECTED, "output") if "server" in text]
    assert found == [
        f'oifname "{name}" meta mark 0x00007400 {version} meta l4proto udp {daddr} '
        f'udp dport {port} counter accept comment "server {label} on {name}"'
        for (version, daddr, port, label), name in product(
            (
                ("meta nfproto ipv4", "ip daddr 192.0.2.1", 51820, "192.0.2.1:51820"),
                ("meta nfproto ipv6", "ip6 daddr 2001:db8::1", 7, "[2001:db8::1]:7"),
            ),
            ("wwan0", "wwan1"),
        )
    ]
    inwards = [text for text in texts(CONNECTED, "input") if "server" in text]
    assert len(inwards) == 4
    assert all("iifname" in text and "udp sport" in text for text in inwards)


def test_frames_of_ours_are_marked() -> None:
    found = [text for text in texts(CONNECTED, "frames") if "server" in text]
    assert len(found) == 2
    assert all("meta mark 0x00007400 meta protocol" in text for text in found)
    assert all("meta l4proto udp counter accept" in text for text in found)


@pytest.mark.parametrize("chain", ["output", "frames"])
def test_endpoint_names_are_asked_for_by_us_where_the_resolver_is(chain: str) -> None:
    found = [text for text in texts(CONNECTED, chain) if "endpoint names" in text]
    assert len(found) == 2
    on = 'oifname "wwan0" ' if chain == "output" else ""
    assert all(text.startswith(f"{on}meta mark 0x00007400 ") for text in found)
    assert all("ip daddr 10.2.0.1 " in text and " dport 53 counter" in text for text in found)


@pytest.mark.parametrize("phase", [Phase.BLOCKED, Phase.CONNECTING, Phase.CONNECTED])
def test_what_each_state_lets_out(phase: Phase) -> None:
    output = " ".join(texts(replace(CONNECTED, phase=phase), "output"))
    opened = phase is not Phase.BLOCKED
    assert ('oifname "td0"' in output) is opened
    assert ("192.0.2.1" in output) is opened
    assert ("udp dport 53 counter accept" in output) is opened
    assert "udp sport 68 udp dport 67" in output
    assert "icmpv6 type 135" in output


@pytest.mark.parametrize("chain", ["input", "output", "forward", "frames"])
def test_what_is_named_nowhere_is_refused_at_the_end(chain: str) -> None:
    for wanted in (Desired(), CONNECTED, EVERYTHING):
        last = rules(wanted, chain)[-1]
        assert last.matches == ()
        assert last.verdict.text == (
            "reject with icmpx admin-prohibited" if chain == "output" else "drop"
        )
        hooked = [c for c in chains(render(wanted, 0.0, ("eth0",))).values() if c.hook]
        assert {c.name for c in hooked if c.hook and c.hook.drops} == {
            "input", "output", "forward", "egress0",
        }  # fmt: skip


def test_without_a_mark_nobody_is_exempt() -> None:
    for chain in ("input", "output", "frames"):
        text = " ".join(texts(replace(CONNECTED, mark=0), chain))
        assert "server" not in text
        assert "endpoint names" not in text


def test_unbound_the_server_is_reached_by_any_interface_but_the_tunnel() -> None:
    found = [t for t in texts(replace(CONNECTED, interfaces=None), "output") if "server" in t]
    assert len(found) == 2
    assert all(text.startswith('oifname != "td0" meta mark') for text in found)


@pytest.mark.parametrize("chain", ["output", "forward", "frames"])
def test_dns_comes_before_the_local_networks(chain: str) -> None:
    labels = [rule.label for rule in rules(EVERYTHING, chain)]
    dns = max(i for i, label in enumerate(labels) if label.startswith("DNS past"))
    local = min(i for i, label in enumerate(labels) if "local network" in label)
    assert dns < local
    assert not any("local network" in rule.label for rule in rules(CONNECTED, chain))


@pytest.mark.parametrize("chain", ["output", "forward", "frames"])
def test_encrypted_lookups_end_as_well(chain: str) -> None:
    found = " ".join(text for text in texts(EVERYTHING, chain) if "DNS past" in text)
    for kind, port in product(("udp", "tcp"), (53, 853)):
        assert f"meta l4proto {kind} {kind} dport {port} counter " in found
    assert "accept" not in found


def test_local_networks_are_private_ones_only() -> None:
    assert all(not n.is_global or n.is_multicast for n in LOCAL)
    public = [ip_address(text) for text in ("198.51.100.7", "100.64.0.1", "8.8.8.8", "2001:db8::1")]
    assert not [a for a in public if any(a.version == n.version and a in n for n in LOCAL)]


def test_answers_of_a_service_are_not_beginnings() -> None:
    tcp, udp = (t for t in texts(EVERYTHING, "output") if "answers of" in t)
    assert "tcp flags & (syn | ack) != syn" in tcp
    assert "ct state established" in udp


def test_an_opening_is_for_a_user_or_a_control_group() -> None:
    group = ControlGroup("/sys/fs/cgroup/user.slice/some", "user.slice/some", 4711, 2)
    portal = Portal("wlan0", None, group, mark=0x74FF)
    (out,) = (t for t in texts(replace(EVERYTHING, portal=portal), "output") if "portal" in t)
    assert 'meta mark 0x000074ff socket cgroupv2 level 2 "user.slice/some" counter accept' in out
    (frame,) = (t for t in texts(replace(EVERYTHING, portal=portal), "frames") if "portal" in t)
    assert "meta mark 0x000074ff counter accept" in frame
    assert "meta skuid 1000 counter accept" in " ".join(texts(EVERYTHING, "output"))


def test_an_opening_is_on_one_interface_and_ends() -> None:
    for chain in ("output", "frames"):
        found = [text for text in texts(EVERYTHING, chain) if "portal" in text]
        assert len(found) == 3  # the user's, and both ways to ask the resolver
        assert all(text.startswith('oifname "wlan0" timer 2 @timers ') for text in found)
    (back,) = (text for text in texts(EVERYTHING, "input") if "portal" in text)
    assert back.startswith('iifname "wlan0" timer 2 @timers ct state established,related counter')


@pytest.mark.parametrize("chain", ["input", "output", "forward", "frames"])
def test_it_opens_unconfirmed_and_only_then(chain: str) -> None:
    first = texts(EVERYTHING, chain)[0]
    assert first.startswith("timer 1 != @timers counter accept")
    assert not any("timer" in text for text in texts(CONNECTED, chain))


def test_what_is_for_the_tunnels_address_comes_through_it() -> None:
    assert [text.partition(" comment")[0] for text in texts(CONNECTED, "raw")] == [
        f'iifname != "td0" meta nfproto {version} {daddr} fib saddr type != local counter drop'
        for version, daddr in (("ipv4", "ip daddr 10.9.0.2"), ("ipv6", "ip6 daddr fd09::2"))
    ]


@pytest.mark.parametrize("chain", ["input", "output", "frames"])
def test_neighbours_are_no_further_than_the_link(chain: str) -> None:
    found = [text for text in texts(CONNECTED, chain) if "icmpv6 type 13" in text]
    discovery = [text for text in found if "listener" not in text]
    assert len(discovery) == 3
    assert all("ip6 hoplimit 255 " in text for text in discovery)


def test_excluded_routes_go_past_but_not_their_resolvers() -> None:
    excluded = (ip_network("203.0.113.0/24"), ip_network("2001:db8:9::/48"))
    for chain in ("output", "forward", "frames"):
        labels = [rule.label for rule in rules(replace(CONNECTED, excluded=excluded), chain)]
        dns = max(i for i, label in enumerate(labels) if label.startswith("DNS past"))
        assert all(labels.index(f"excluded route {network}") > dns for network in excluded)
    for chain in ("input", "forward"):
        back = [t for t in texts(replace(CONNECTED, excluded=excluded), chain) if "answers" in t]
        assert len(back) == 2
        assert all("ct state established,related" in text for text in back)


def test_timers_are_those_that_still_run() -> None:
    assert dict(render(EVERYTHING, 0.0).timers) == {1: 30.0, 2: 60.0}
    assert dict(render(EVERYTHING, 29.0).timers) == {1: 1.0, 2: 31.0}
    assert dict(render(EVERYTHING, 31.0).timers) == {2: 29.0}
    first = rules(EVERYTHING, "output")[0]
    assert first.label == "not confirmed in time"
    assert first.verdict.text == "accept"


def test_each_rule_has_a_name_of_its_own() -> None:
    for chain in chains(render(EVERYTHING, 0.0, ("eth0",))).values():
        labels = [rule.label for rule in chain.rules]
        assert len(labels) == len(set(labels)), chain.name
        assert all(len(label) < 127 for label in labels)
    deep = "/".join(f"user{number}.slice" for number in range(40))
    portal = Portal("wlan0", None, ControlGroup("/" + deep, deep, 1, 40), mark=1)
    assert all(len(rule.label) < 127 for rule in rules(replace(EVERYTHING, portal=portal), "save"))


def test_many_devices_take_several_chains() -> None:
    names = tuple(f"if{number}" for number in range(DEVICES_MAX + 1))
    hooks = [c.hook for c in chains(render(Desired(), 0.0, names)).values() if c.hook]
    devices = [hook.devices for hook in hooks if hook.devices]
    assert [len(some) for some in devices] == [DEVICES_MAX, 1]


def test_the_text_is_nfts_language() -> None:
    text = list(lines(render(CONNECTED, 0.0, ("eth0",))))
    assert text[:2] == [
        "table inet tunneld {",
        '  comment "tunneld kill switch: connected tunnel td0"',
    ]
    assert '    type filter hook egress devices = { "eth0" } priority 0; policy drop;' in text
    assert text.count("}") == 3
