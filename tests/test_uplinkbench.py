"""python -m bench.uplink: what it reads, its options, its bounds, and one short run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import uplink
from bench.bounds import reached
from bench.report import BEST, Result
from tests.bench_programs import refusal, short_round

PING = """PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.
64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=4.81 ms
64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=1045 ms

--- 10.77.0.2 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 101ms
rtt min/avg/max/mdev = 4.810/524.905/1045.000/520.095 ms
"""


def test_figures_of_pings() -> None:
    found = uplink.pinged(uplink.times(PING), 3)
    assert found == {"average": 524.905, "p99": 1045.0, "lost": pytest.approx(100 / 3)}


def test_pings_that_nobody_answered() -> None:
    with pytest.raises(RuntimeError, match="none of 3 answered"):
        uplink.pinged(uplink.times("PING 10.77.0.2\n"), 3)


def test_an_answer_that_came_twice_is_no_gain() -> None:
    assert uplink.pinged([1.0, 1.0, 2.0], 2)["lost"] == 0


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ('[{"kind":"tbf","handle":"8001:","root":true,"backlog":6056,"qlen":4}]', 6056),
        ('[{"kind":"tbf","backlog":12},{"kind":"bfifo","backlog":10}]', 12),
        ('[{"kind":"noqueue"}]', 0),
        ("[]", 0),
    ],
)
def test_what_waits(text: str, waits: int) -> None:
    assert uplink.backlog(text) == waits


def test_every_bound_is_about_a_figure() -> None:
    keys = [figure.key for figure in uplink.FIGURES]
    assert len(set(keys)) == len(keys)
    assert {bound.key for bound in uplink.BOUNDS} <= set(keys)


def test_queues_are_deep() -> None:
    for line in uplink.LINES.values():
        assert line.queue * 8 / line.rate / 1e6 >= (1 if line.rate <= 100 else 0.2)


@pytest.mark.parametrize(
    ("share", "verdict"), [(45, "aim reached"), (35, "reached"), (20, "NOT REACHED")]
)
def test_the_bound_of_a_share(share: float, verdict: str) -> None:
    made = Result(BEST, {}, {}, figures=uplink.FIGURES)
    made.add("tunneld", {"second_10": share})
    (row,) = reached(made, uplink.BOUNDS)[1:]
    assert row[1] == f"{share} %"
    assert row[-1] == verdict


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--lines", "10,nosuch"], "nosuch"),
        (["--implementations", "nosuch"], "nosuch"),
        (["--add", "nosuch"], "nosuch"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_options(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in refusal(uplink.main, words, capsys)


@pytest.mark.root
@pytest.mark.alone
def test_one_short_round(tmp_path: Path) -> None:
    words = f"--rounds 1 --seconds 0.5 --lines 10 --implementations {uplink.WITHOUT}"
    found = short_round(uplink.main, words, tmp_path)
    ours = found[uplink.WITHOUT]
    assert 0 < ours["rate_10"] < 10
    assert ours["average_10"] > 0
    assert ours["queue_10"] > 0
