"""RFC 5961, robustness against blind attacks: guesses inside the window are challenged."""

from __future__ import annotations

import pytest

from tests.netstack.script import OPENED, STATES, play

SYNCHRONIZED = [name for name in STATES if name != "SYN-RECEIVED"]


@pytest.mark.parametrize("name", SYNCHRONIZED)
def test_3_2_a_reset_inside_the_window_is_challenged(name: str) -> None:
    script = play(STATES[name])
    sent = script.connection.sender.nxt - script.connection.iss
    script.run(f"100 < R 1000\n100 > A {sent}\n100 state {name}")


@pytest.mark.parametrize("name", SYNCHRONIZED)
def test_4_2_a_syn_is_challenged_wherever_it_lies(name: str) -> None:
    script = play(STATES[name])
    sent = script.connection.sender.nxt - script.connection.iss
    script.run(f"100 < S 1000 win 5\n100 > A {sent}\n100 < S 90000 win 5\n100 > A {sent}")


def test_4_2_a_peer_that_restarted_answers_the_challenge_with_the_right_reset() -> None:
    play(
        OPENED
        + """
        20    < S 5000 win 60000 mss 1000
        20    > A 1 ack 1
        30    < R 1
        30    state CLOSED
        30    event CLOSED RESET
    """
    )


def test_5_2_an_acknowledgment_of_what_was_never_sent_is_answered_and_dropped() -> None:
    play(
        OPENED
        + """
        20    < A 1:101 ack 2 win 60000
        20    > A 1 ack 1
        20    state ESTABLISHED
    """
    )


def test_5_2_an_acknowledgment_from_long_ago_is_answered_and_dropped() -> None:
    play(
        OPENED.replace("win 60000", "win 1000")
        + """
        20    write 1000
        20    > PA 1:1001 ack 1
        30    < A 1 ack 1001 win 1000
        40    < A 1:101 ack -1 win 1000
        40    > A 1001 ack 1
    """
    )


def test_5_2_an_acknowledgment_within_the_largest_window_is_only_old() -> None:
    play(
        OPENED
        + """
        20    write 1000
        20    > PA 1:1001 ack 1
        30    < A 1 ack 1001 win 60000
        40    < A 1:101 ack 1 win 60000
        40    > A 1001 ack 101
    """
    )


def test_7_challenges_are_limited_to_ten_in_five_seconds() -> None:
    script = play(OPENED)
    for _ in range(10):
        script.run("20 < R 1000\n20 > A 1 ack 1")
    for _ in range(100):
        script.run("30 < R 1000\n30 quiet")
    script.run("5020 < R 1000\n5020 > A 1 ack 1")
