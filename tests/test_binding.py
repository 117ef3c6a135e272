from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path as FilePath

import pytest

from tunnel.errors import ConfigError, UsageError, Where
from tunnel.policy.binding import (
    Attribute,
    BindingPolicy,
    Combined,
    PathPolicy,
    Term,
    parse_spec,
)
from tunnel.policy.interface import Classification, Confidence, Interface, InterfaceType
from tunnel.policy.path import Path, PathStatus

PRESENT = ("lo", "wlan0", "wwan0", "eth0", "tun3")


def interface(name: str, index: int, type_: InterfaceType, **other: object) -> Interface:
    made = Interface(
        index=index,
        name=name,
        classification=Classification(type_, f"name {name}", Confidence.GUESS),
        up=True,
        carrier=True,
        addresses=(ip_interface(f"10.0.{index}.2/24"),),
        gateways=(ip_address(f"10.0.{index}.1"),),
        metric=100 * index,
        routed=frozenset({4}),
    )
    return replace(made, **other)  # type: ignore[arg-type]


LO = interface("lo", 1, InterfaceType.LOOPBACK)
WLAN = interface("wlan0", 2, InterfaceType.WIFI)
WWAN = interface("wwan0", 7, InterfaceType.CELLULAR, expensive=True)
ETH = interface("eth0", 4, InterfaceType.WIRED)
TUN = interface("tun3", 5, InterfaceType.TUNNEL, metric=1)
SAT = interface("sat0", 6, InterfaceType.OTHER, ultra_constrained=True)
ALL = (LO, WLAN, WWAN, ETH, TUN, SAT)


def policy(bind: str = "", prohibit: str = "", avoid: str = "") -> BindingPolicy:
    def terms(text: str, option: str) -> tuple[Term, ...]:
        return parse_spec(text, (*PRESENT, "sat0"), option=option) if text else ()

    return BindingPolicy(
        terms(bind, "--bind") or None, terms(prohibit, "--prohibit"), terms(avoid, "--avoid")
    )


def test_spec_words() -> None:
    assert parse_spec("cellular, wlan0,if:wwan9", PRESENT) == (
        Term(InterfaceType.CELLULAR),
        Term("wlan0"),
        Term("wwan9"),
    )
    assert parse_spec("expensive,ultra-constrained", PRESENT, option="--prohibit") == (
        Term(Attribute.EXPENSIVE),
        Term(Attribute.ULTRA_CONSTRAINED),
    )
    assert parse_spec(("wifi", "wifi"), ()) == (Term(InterfaceType.WIFI),)


@pytest.mark.parametrize(
    ("text", "option", "said"),
    [
        ("celular", "--bind", "cellular, wifi, wired"),
        ("wwan9", "--bind", "if:NAME"),
        ("expensive", "--bind", "--prohibit or --avoid"),
        ("wifi,,wired", "--bind", "empty term"),
        ("", "--avoid", "empty term"),
        ("if:", "--bind", "if:wwan0"),
        ("if:name-of-16-bytes", "--prohibit", "names no possible interface"),
        ("if:a/b", "--bind", "names no possible interface"),
    ],
)
def test_wrong_specs_say_the_mend(text: str, option: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_spec(text, PRESENT, option=option)
    assert said in str(refused.value)
    assert option in str(refused.value)


def test_wrong_words_of_a_file_name_it() -> None:
    where = Where(FilePath("a.toml"), 3)
    with pytest.raises(ConfigError, match=r"a\.toml:3: bind: 'x' is neither"):
        parse_spec(("x",), PRESENT, option="bind", where=where)


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (policy(), ["tun3", "wlan0", "eth0", "wwan0"]),
        (policy("cellular"), ["wwan0"]),
        (policy("cellular,wifi"), ["wwan0", "wlan0"]),
        (policy("wifi,cellular"), ["wlan0", "wwan0"]),
        (policy("if:wwan0,wired"), ["wwan0", "eth0"]),
        (policy("cellular,wifi", prohibit="if:wwan0"), ["wlan0"]),
        (policy("cellular", prohibit="expensive"), []),
        (policy(prohibit="wifi"), ["eth0", "wwan0"]),
        (policy(avoid="wifi,wired"), ["wwan0", "wlan0", "eth0"]),
        (policy(avoid="expensive"), ["wlan0", "eth0", "wwan0"]),
        (policy("wifi", avoid="wifi"), ["wlan0"]),
        (policy("wifi,cellular", avoid="wifi"), ["wwan0", "wlan0"]),
        (policy("tunnel"), ["tun3"]),
        (policy("if:tun3,wifi"), ["tun3", "wlan0"]),
        (policy("loopback"), ["lo"]),
        (policy("other"), []),
        (policy("if:sat0"), ["sat0"]),
        (policy("other,if:sat0"), ["sat0"]),
    ],
)
def test_decisions(rules: BindingPolicy, names: list[str]) -> None:
    path = rules.decide(ALL)
    assert [i.name for i in path.interfaces] == names
    assert path.status is (PathStatus.SATISFIED if names else PathStatus.UNSATISFIED)
    assert path.bound == (rules != BindingPolicy())
    assert path.reason


def test_metric_then_index_break_ties() -> None:
    twin = interface("wlan1", 9, InterfaceType.WIFI, metric=WLAN.metric)
    better = interface("wlan2", 10, InterfaceType.WIFI, metric=1)
    path = policy("wifi").decide((twin, better, WLAN))
    assert [i.name for i in path.interfaces] == ["wlan2", "wlan0", "wlan1"]


def test_the_reason_names_every_interface_that_might_have_been() -> None:
    path = policy("cellular").decide((LO, WLAN, replace(WWAN, carrier=False), TUN))
    assert path.reason == (
        "no permitted interface: wwan0 (cellular) has no carrier; wlan0 (wifi) is not permitted"
    )
    assert path.interface is None


@pytest.mark.parametrize(
    ("rules", "present", "reason"),
    [
        (policy("cellular"), (WLAN,), "none is cellular; wlan0 (wifi) is not permitted"),
        (policy("if:wwan9"), (), "no permitted interface: wwan9 is absent"),
        (policy("wifi", prohibit="wifi"), (WLAN,), "wlan0 (wifi) is prohibited"),
        (policy("other"), (SAT,), "sat0 (other) is ultra-constrained and not permitted by name"),
        (policy("wifi"), (replace(WLAN, up=False),), "wlan0 (wifi) is down"),
        (policy("wifi"), (replace(WLAN, addresses=()),), "wlan0 (wifi) has no address yet"),
        (policy("wifi"), (replace(WLAN, routed=frozenset()),), "wlan0 (wifi) has no default route"),
        (policy(), (), "no interface with a default route"),
    ],
)
def test_reasons(rules: BindingPolicy, present: tuple[Interface, ...], reason: str) -> None:
    assert reason in rules.decide(present).reason


def test_ipv6_is_supported_only_where_it_is_routed() -> None:
    path = policy("cellular").decide((WWAN,))
    assert path.supports(4)
    assert not path.supports(6)


def test_a_present_one_that_is_prohibited_is_not_said_to_be_missing() -> None:
    path = policy("cellular", "expensive").decide(ALL)
    assert "none is" not in path.reason
    assert "wwan0 (cellular) is prohibited" in path.reason
    assert "none is cellular" in policy("cellular").decide((LO, WLAN)).reason


class Cheapest:
    """Somebody's own policy: never what is expensive, the newest interface first."""

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        good = [i for i in interfaces if i.usable and not self.refusal(i)]
        if not good:
            return Path(PathStatus.UNSATISFIED, "nothing cheap", (), True)
        good.sort(key=lambda i: -i.index)
        return Path(PathStatus.SATISFIED, "cheap", tuple(good), True)

    def refusal(self, interface: Interface) -> str:
        return "is expensive" if interface.expensive else ""


def test_policies_combine_all_must_agree_and_the_last_one_orders() -> None:
    cheapest = Cheapest()
    assert isinstance(cheapest, PathPolicy)
    combined = Combined((policy("wifi,cellular,wired"), cheapest))
    path = combined.decide(ALL)
    assert [i.name for i in path.interfaces] == ["eth0", "wlan0"]
    assert path.bound
    assert combined.refusal(WWAN) == "is expensive"
    assert combined.refusal(SAT) == "is not permitted"
    assert combined.refusal(ETH) == ""
    assert combined.decide((WWAN,)).reason == "nothing cheap"
    assert combined.decide((SAT,)).status is PathStatus.UNSATISFIED
    assert Combined((policy(), cheapest)).decide(ALL).bound


class Firm(Cheapest):
    """Chooses the same ones whatever it is given, and binds nothing."""

    def __init__(self, *chosen: Interface) -> None:
        self.chosen = chosen

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        return Path(PathStatus.SATISFIED, "trust me", self.chosen, False)

    def __str__(self) -> str:
        return "mine"


def test_one_that_binds_is_enough() -> None:
    for both in ((policy("wifi"), Firm(WLAN)), (Firm(WLAN), policy("wifi"))):
        path = Combined(both).decide(ALL)
        assert (path.interfaces, path.bound) == ((WLAN,), True)


@pytest.mark.parametrize("chosen", [interface("wlan9", 99, InterfaceType.WIFI), ETH])
def test_what_was_not_given_to_a_policy_is_not_used(chosen: Interface) -> None:
    path = Combined((policy("wifi"), Firm(WLAN, chosen))).decide(ALL)
    assert (path.status, path.interfaces, path.bound) == (PathStatus.UNSATISFIED, (), True)
    assert path.reason == "no permitted interface: mine chose one that was not given to it"
    made_up = Firm(interface("wlan9", 99, InterfaceType.WIFI))
    assert Combined((made_up, policy("wifi"))).decide(ALL).interfaces == ()


def test_where_one_has_nothing_the_next_has_no_say() -> None:
    path = Combined((policy("other"), Firm())).decide(ALL)
    assert path.status is PathStatus.UNSATISFIED
    assert path.reason.startswith("no permitted interface")
