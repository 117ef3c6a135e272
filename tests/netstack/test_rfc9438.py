"""RFC 9438, CUBIC, with RFC 9406, HyStart++; RFC 9937, PRR; and RFC 5681's restart window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.netstack.script import OPENED, PLAIN, play
from tests.netstack.test_rfc2018 import SELECTIVE, SENT
from tunnel.netstack.congestion import Cubic, NewReno
from tunnel.netstack.congestion.control import AckSample, CongestionControl
from tunnel.netstack.congestion.hystart import CSS_ROUNDS, RTT_SAMPLES, HyStart, Phase

MS = 1_000_000
SECOND = 1_000 * MS
RTT = 100 * MS


def avoid(cubic: Cubic, start: int, seconds: float) -> None:
    """Let a window's worth be acknowledged each round trip."""
    sample = AckSample()
    sample.smoothed_rtt = sample.rtt = RTT
    for now in range(start, start + int(seconds * SECOND), RTT):
        sample.now = now
        sample.acked = sample.prior_in_flight = cubic.window
        sample.in_flight = 1
        cubic.on_ack(sample)


def reduced() -> Cubic:
    """CUBIC after a loss at 100 segments."""
    cubic = Cubic(1000)
    cubic.window = 100_000
    cubic.on_congestion(0, 100_000, 0)
    return cubic


def test_9438_4_6_the_window_falls_to_seven_tenths() -> None:
    assert reduced().window == reduced().threshold == 70_000


def test_9438_4_2_it_is_back_at_the_old_window_after_k() -> None:
    """K is the cube root of (100 - 70) / 0.4, so 4.2 s."""
    cubic = reduced()
    avoid(cubic, SECOND, 4.2)
    assert 95_000 <= cubic.window <= 101_000
    avoid(cubic, SECOND + int(4.2 * SECOND), 4.2)
    assert cubic.window >= 125_000


def test_9438_4_7_a_second_loss_below_the_first_leaves_room() -> None:
    cubic = reduced()
    cubic.on_congestion(SECOND, 70_000, 0)
    assert cubic._w_max == pytest.approx(70 * 1.7 / 2)


def test_9438_4_8_after_a_timeout_the_curve_begins_where_slow_start_ends() -> None:
    """K is 0 and W_max the window then: it grows at once, and knows of no plateau at 100."""
    cubic = Cubic(1000)
    cubic.window = 100_000
    cubic.on_timeout(0, 100_000, 0)
    assert (cubic.window, cubic.threshold) == (1000, 70_000)
    cubic.window = cubic.threshold
    avoid(cubic, SECOND, 0.2)
    assert cubic._k == 0
    assert cubic._w_max == 70


def test_9438_4_9_a_false_loss_changes_nothing() -> None:
    cubic = reduced()
    avoid(cubic, SECOND, 2)
    window, epoch, k, w_max = cubic.window, cubic._epoch, cubic._k, cubic._w_max
    cubic.on_congestion(3 * SECOND, window, 0)
    cubic.on_spurious()
    assert (cubic.window, cubic._epoch, cubic._k, cubic._w_max) == (window, epoch, k, w_max)


def test_9438_4_9_2_a_window_that_is_larger_by_then_stays() -> None:
    cubic = reduced()
    cubic.window = 120_000
    cubic.on_spurious()
    assert (cubic.window, cubic.threshold) == (120_000, 70_000)


def test_9406_4_2_conservative_slow_start_lasts_five_rounds_with_the_one_it_began_in() -> None:
    hystart = HyStart()
    sent = 0

    def acknowledge(rtt: int, *, last: bool) -> Phase:
        return hystart.on_ack(rtt, sent if last else sent - 1, sent + 100)

    for rtt in (50, 50, 70):
        for i in range(RTT_SAMPLES):
            phase = acknowledge(rtt * MS, last=i == RTT_SAMPLES - 1 and rtt != 70)
        sent += 100
    sent -= 100
    assert phase is Phase.CONSERVATIVE  # in the middle of a round
    for _ in range(CSS_ROUNDS):
        assert hystart.phase is Phase.CONSERVATIVE
        acknowledge(70 * MS, last=True)
        sent += 100
    assert hystart.phase is Phase.DONE


@pytest.mark.parametrize("control", [Cubic(1000), NewReno(1000)])
def test_5681_4_1_a_pause_ends_what_the_window_knew(control: CongestionControl) -> None:
    control.window = 100_000
    control.on_idle()
    assert control.window == 10_000


def test_5681_4_1_a_pause_is_longer_than_the_timeout() -> None:
    """A window of 20 after a round trip; 10 again after 201 ms, 200 ms being the least timeout."""
    for pause, end in ((150, 34001), (260, 24001)):
        script = play(OPENED + f"""
            20    write 14000
            20    > A 1:10001 ack 1
            30    < A 1 ack 10001 win 60000
            30    > PA 10001:14001 ack 1
            40    < A 1 ack 14001 win 60000
            {pause} write 30000
            {pause} > A 14001:{end} ack 1
        """, replace(PLAIN, congestion="cubic"))  # fmt: skip
        assert script.connection.sender.recovery.control.threshold > 1 << 40


def test_9937_the_first_retransmission_waits_for_nothing() -> None:
    """Half of one selected segment would be half a segment; the hole is repaired all the same."""
    play(SENT + """
        31    < A 1 ack 1 win 60000 sack 1001-2001
        31    < A 1 ack 1 win 60000 sack 1001-3001
        31    < A 1 ack 1 win 60000 sack 1001-4001
        31    > A 1:1001 ack 1
        42    < A 1 ack 10001 win 60000
    """, replace(SELECTIVE, congestion="newreno"))  # fmt: skip


def test_9937_what_leaves_is_spread_over_the_round() -> None:
    """Ten in flight, half of them is the aim: one leaves for each two that arrive."""
    play(SENT + """
        32    write 20000
        32    < A 1 ack 1 win 60000 sack 1001-4001
        32    > A 1:1001 ack 1
        33    < A 1 ack 1 win 60000 sack 1001-5001
        33    > A 10001:11001 ack 1
        34    < A 1 ack 1 win 60000 sack 1001-6001
        35    < A 1 ack 1 win 60000 sack 1001-7001
        36    < A 1 ack 1 win 60000 sack 1001-8001
        36    > A 11001:12001 ack 1
    """, replace(SELECTIVE, congestion="newreno"))  # fmt: skip
