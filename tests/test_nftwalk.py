"""A packet's way through nftables, on listings as `nft --json` writes them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from tunnel.policy.lookup import Packet
from tunnel.policy.nftwalk import Passage, walk

TCP, UDP = 6, 17
WEB = Packet(ip_address("192.0.2.1"), ip_protocol=TCP, port=443)
NAMES = Packet(ip_address("2001:db8::1"), ip_protocol=UDP, port=53, mark=0x7400)


def chain(name: str, hook: str = "", **more: Any) -> dict[str, Any]:
    base = {"family": "inet", "table": "t", "name": name, **more}
    return {"chain": {**base, "hook": hook, "prio": 0} if hook else base}


def rule(where: str, *expressions: Any, **more: Any) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": where, "expr": expressions, **more}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


OUT = chain("out", "output", policy="accept")
NETWORK = {"prefix": {"addr": "192.0.2.0", "len": 24}}
DROP, ACCEPT = {"drop": None}, {"accept": None}


@pytest.mark.parametrize(
    ("items", "packet", "verdict", "by"),
    [
        ([], WEB, "accept", "no rule is against it"),
        ([chain("out", "output", policy="drop")], WEB, "drop", "the policy of inet t out"),
        ([chain("in", "input", policy="drop")], WEB, "accept", "no rule is against it"),
        ([OUT, rule("out", DROP, comment="shut")], WEB, "drop", "inet t out: shut"),
        (
            [OUT, rule("out", match(field("tcp", "dport"), 443), {"reject": {}})],
            WEB, "reject", "inet t out: tcp dport 443 reject",
        ),
        ([OUT, rule("out", match(field("tcp", "dport"), 443), DROP)], NAMES, "accept", "no rule"),
        (
            [OUT, rule("out", match(meta("l4proto"), {"set": ["tcp", "udp"]}),
                       match(field("th", "dport"), {"set": [53, {"range": [850, 860]}]}), DROP)],
            NAMES, "drop", "inet t out: meta l4proto {tcp, udp} th dport {53, 850-860} drop",
        ),
        (  # accept ends a chain, and the next one still has its say
            [OUT, rule("out", ACCEPT), chain("late", "postrouting"), rule("late", DROP)],
            WEB, "drop", "inet t late: drop",
        ),
        (
            [OUT, chain("sub"), rule("out", {"jump": {"target": "sub"}}), rule("out", DROP),
             rule("sub", match(meta("mark"), 0x7400), ACCEPT), rule("sub", {"return": None})],
            NAMES, "accept", "inet t sub: meta mark 29696 accept",
        ),
        (
            [OUT, chain("sub"), rule("out", {"jump": {"target": "sub"}}), rule("out", DROP),
             rule("sub", match(meta("mark"), 0x7400), ACCEPT), rule("sub", {"return": None})],
            WEB, "drop", "inet t out: drop",
        ),
        (
            [OUT, rule("out", match(field("ip", "daddr"), NETWORK), DROP)],
            WEB, "drop", "inet t out: ip daddr 192.0.2.0/24 drop",
        ),
        (
            [OUT, rule("out", match(meta("oifname"), "lo", "!="),
                       match(meta("oifname"), "wl*"), DROP)],
            WEB, "drop", "inet t out: meta oifname != lo meta oifname wl* drop",
        ),
        (
            [OUT, rule("out", {"vmap": {"key": field("tcp", "dport"), "data": {"set": [
                [22, {"accept": None}], [443, {"drop": None}]]}}})],
            WEB, "drop", "inet t out: vmap",
        ),
        (
            [{"chain": {"family": "netdev", "table": "n", "name": "e", "hook": "egress", "prio": 0,
                        "dev": ["wlan0"], "policy": "drop"}}],
            WEB, "drop", "the policy of netdev n e",
        ),
        (
            [{"chain": {"family": "netdev", "table": "n", "name": "e", "hook": "egress", "prio": 0,
                        "dev": "eth0", "policy": "drop"}}],
            WEB, "accept", "no rule is against it",
        ),
        ([OUT, rule("out", match({"ct": {"key": "state"}}, ["established"], "in"), ACCEPT),
          rule("out", DROP)], WEB, "drop", "inet t out: drop"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_packet(
    items: list[dict[str, Any]], packet: Packet, verdict: str, by: str
) -> None:
    passage = walk(items, packet, "wlan0")
    assert (passage.verdict, passage.unsure) == (verdict, ())
    assert passage.by.startswith(by)


def test_what_is_not_known_does_not_match_and_is_said() -> None:
    unknown = match({"socket": {"key": "cgroupv2"}}, "vpn.slice")
    items = [OUT, rule("out", unknown, DROP), rule("out", {"quota": {}}, DROP, comment="enough")]
    assert walk(items, WEB, "wlan0") == Passage(
        "accept", "no rule is against it", ("something == vpn.slice", "enough")
    )
