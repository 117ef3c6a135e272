"""Messages there and back: what was sent is found, and each difference is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from tunnel.policy.killswitch import encode, found, nfnl
from tunnel.policy.killswitch.nfnl import Attribute, Message
from tunnel.policy.killswitch.render import TABLE, render
from tunnel.policy.killswitch.ruleset import Ruleset
from tunnel.policy.killswitch.state import Desired, Endpoint, Phase, Resolver
from tunnel.settings import Inbound, Portal

WANTED = Desired(
    phase=Phase.CONNECTED,
    tunnel="td0",
    mark=7,
    interfaces=("wwan0",),
    endpoints=(Endpoint(ip_address("192.0.2.1"), 51820),),
    resolvers=(Resolver("wwan0", ip_address("10.2.0.1")),),
    addresses=(ip_interface("10.9.0.2/24"),),
    local_networks=True,
    inbound=(Inbound("tcp", 22, "eth0"), Inbound("udp", 5, "eth0")),
    portal=Portal("wlan0", 1000),
    portal_until=9.0,
    confirm=5.0,
)
RULESET = render(WANTED, 0.0, ("eth0", "wwan0"))
FLAGS = nfnl.TABLE_OWNER | nfnl.TABLE_PERSIST


def dumped(ruleset: Ruleset, flags: int = FLAGS, **options: object) -> list[Message]:
    """What a kernel would answer after the transaction that makes this ruleset."""
    steps = encode.transaction(ruleset, flags=flags, remove=(), **options)  # type: ignore[arg-type]
    return [
        Message(nfnl.SUBSYSTEM << 8 | kind, 0, 0, 0, family, nfnl.attributes(items))
        for kind, family, items, _ in steps
        if kind in (nfnl.NEWTABLE, nfnl.NEWCHAIN, nfnl.NEWRULE)
    ]


def test_what_was_sent_is_found() -> None:
    there = found.tables(dumped(RULESET), TABLE)
    assert found.differences(RULESET, there, FLAGS) == []
    assert {table.comment for table in there} == {RULESET.comment}
    labels = [r.label for t in RULESET.tables for c in t.chains for r in c.rules]
    assert [label for _, _, label in found.counts(there)] == labels
    assert found.tables(dumped(RULESET), "another") == []


def changes() -> Iterator[tuple[str, Ruleset]]:
    first = RULESET.tables[0]
    chain = next(c for c in first.chains if c.name == "output")
    place = first.chains.index(chain)

    def with_chain(other: object) -> Ruleset:
        chains = (*first.chains[:place], *([other] if other else []), *first.chains[place + 1 :])
        return replace(RULESET, tables=(replace(first, chains=chains), *RULESET.tables[1:]))

    assert chain.hook is not None
    yield "is gone", replace(RULESET, tables=RULESET.tables[1:])
    yield "chain output of table inet tunneld is gone", with_chain(None)
    yield "another hook", with_chain(replace(chain, hook=replace(chain.hook, drops=False)))
    yield "rules, not", with_chain(replace(chain, rules=chain.rules[1:]))
    swapped = (chain.rules[1], chain.rules[0], *chain.rules[2:])
    yield "rule 'not confirmed in time'", with_chain(replace(chain, rules=swapped))
    other = render(replace(WANTED, mark=8), 0.0, ("eth0", "wwan0"))
    yield "rule 'our mark is kept'", other
    yield "list of devices", render(WANTED, 0.0, ("eth0",))
    more = render(WANTED, 0.0, tuple(f"if{n}" for n in range(300)))
    yield "has a chain egress1", more


@pytest.mark.parametrize(("said", "there"), list(changes()), ids=[said for said, _ in changes()])
def test_each_difference_is_told(said: str, there: Ruleset) -> None:
    problems = found.differences(RULESET, found.tables(dumped(there), TABLE), FLAGS)
    assert any(said in problem for problem in problems), problems


def test_other_flags_are_a_difference() -> None:
    there = found.tables(dumped(RULESET, 0), TABLE)
    assert "flags" in found.differences(RULESET, there, FLAGS)[0]


def test_counters_go_on_where_they_were() -> None:
    counts = {(nfnl.INET, "output", "loopback"): (3, 99)}
    there = found.tables(dumped(RULESET, counts=counts), TABLE)
    assert found.counts(there)[nfnl.INET, "output", "loopback"] == (3, 99)
    assert found.differences(RULESET, there, FLAGS) == []


def test_a_transaction_is_one_batch_that_removes_before_it_makes() -> None:
    steps = encode.transaction(RULESET, flags=0, remove=[(nfnl.INET, TABLE)])
    assert steps[0][0] == nfnl.DELTABLE
    data = nfnl.batch(steps, 5)
    messages = list(nfnl.received(data))
    assert (messages[0].kind, messages[-1].kind) == (nfnl.BATCH_BEGIN, nfnl.BATCH_END)
    assert [message.sequence for message in messages] == list(range(5, 5 + len(steps) + 2))
    acknowledged = [message for message in messages if message.flags & nfnl.ACK]
    assert acknowledged == [messages[-2]]


NESTS: list[Attribute] = [(1, b"abc"), (2, ((1, b"\0" * 4), (3, ())))]


def test_attributes_come_back() -> None:
    data = nfnl.attributes(NESTS)
    assert len(data) % 4 == 0
    first, second = nfnl.parsed(data)
    assert first == (1, b"abc")
    assert list(nfnl.parsed(second[1])) == [(1, b"\0" * 4), (3, b"")]


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_what_is_cut_short_raises_nothing(cut: int) -> None:
    data = nfnl.message(nfnl.NEWTABLE, 1, nfnl.INET, [(1, nfnl.text(TABLE)), (2, nfnl.be32(6))])
    for message in nfnl.received(data[:cut]):
        list(nfnl.parsed(message.body))
    list(nfnl.parsed(data[cut:]))


@pytest.mark.parametrize("comment", ["", "loopback", "x" * 300])
def test_comments_come_back_as_far_as_there_is_room(comment: str) -> None:
    assert encode.commented(encode.userdata(comment)) == comment[: encode.LABEL_MAX]
    assert encode.commented(b"\x07\x02ab") == ""
