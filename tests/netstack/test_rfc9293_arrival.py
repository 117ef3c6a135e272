"""RFC 9293, section 3.10.7: the arrival of segments; windows and Nagle with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.netstack.script import ACCEPTED, OPENED, PLAIN, STATES, Script, play
from tunnel.netstack.states import SYNCHRONIZED, TRANSITIONS, State

# ---- section 3.10.7.1: CLOSED ----


def test_3_10_7_1_without_an_ack_the_reset_acknowledges() -> None:
    """Its own sequence number is 0, which is 1024 from the script's initial one."""
    play(
        """
        0     < S 500 win 100
        0     > RA 1024 ack 501
    """
    )


def test_3_10_7_1_with_an_ack_the_reset_takes_its_place() -> None:
    play("""
        0     < A 500 ack 77 win 100
        0     > R 77
    """)


def test_3_10_7_1_a_reset_is_not_answered() -> None:
    play("0 < R 500\n0 quiet")


# ---- section 3.10.7.2 and .3: LISTEN, SYN-SENT ----


def test_3_10_7_2_listen_answers_an_ack_with_a_reset() -> None:
    play("0 listen\n0 < A 5 ack 77 win 1\n0 > R 77\n0 state LISTEN")


def test_3_10_7_2_listen_ignores_resets_and_nothing_at_all() -> None:
    play("0 listen\n0 < R 5\n0 < F 5\n0 < P 5:10\n0 state LISTEN")


@pytest.mark.parametrize("ack", [0, 2, 1000])
def test_3_10_7_3_syn_sent_resets_an_ack_of_something_else(ack: int) -> None:
    play(f"0 connect\n0 > S 0\n5 < SA 0 ack {ack} win 1\n5 > R {ack}\n5 state SYN-SENT")


def test_3_10_7_3_refused() -> None:
    play("0 connect\n0 > S 0\n5 < RA 0 ack 1\n5 state CLOSED\n5 event CLOSED REFUSED")


def test_3_10_7_3_a_reset_without_ack_is_dropped() -> None:
    play("0 connect\n0 > S 0\n5 < R 0\n5 state SYN-SENT")


def test_3_10_7_3_an_ack_alone_is_dropped() -> None:
    play("0 connect\n0 > S 0\n5 < A 0 ack 1 win 5\n5 state SYN-SENT")


# ---- section 3.10.7.4 ----


@pytest.mark.parametrize("name", STATES)
def test_every_state_is_reached(name: str) -> None:
    play(STATES[name] + f"\n100 state {name}")


@pytest.mark.parametrize("name", STATES)
def test_3_10_7_4_a_reset_at_the_next_position_closes_every_state(name: str) -> None:
    script = Script()
    script.run(STATES[name])
    following = script.connection._receiver.nxt - 0xFFFFFE00
    after = "LISTEN" if name == "SYN-RECEIVED" else "CLOSED"
    script.run(f"100 < R {following}\n100 quiet\n100 state {after}")


@pytest.mark.parametrize("name", STATES)
def test_3_10_7_4_a_reset_outside_the_window_is_dropped(name: str) -> None:
    play(STATES[name] + f"\n100 < R 70000\n100 quiet\n100 state {name}")


@pytest.mark.parametrize("name", STATES)
def test_3_10_7_4_a_segment_without_ack_is_dropped(name: str) -> None:
    play(STATES[name] + f"\n100 < P 3:10 win 60000\n100 quiet\n100 state {name}")


def test_3_10_7_4_syn_received_resets_a_wrong_acknowledgment() -> None:
    play(STATES["SYN-RECEIVED"] + "\n5 < A 1 ack 500 win 9\n5 > R 500\n5 state SYN-RECEIVED")


def test_3_10_7_4_data_outside_the_window_is_answered_and_dropped() -> None:
    play(
        OPENED
        + """
        20    < PA 60001:60101 ack 1 win 60000
        20    > A 1 ack 1
    """
    )


def test_3_10_7_4_data_across_the_right_edge_is_cut() -> None:
    settings = replace(PLAIN, receive_buffer=300)
    play(
        """
        0     connect
        0     > S 0 win 300
        10    < SA 0 ack 1 win 60000 mss 1000
        10    > A 1 ack 1 win 300
        20    < PA 1:501 ack 1 win 60000
        20    > A 1 ack 301 win 0
        30    read 300
        30    > A 1 ack 301 win 300
    """,
        settings,
    )


def test_3_10_7_4_old_and_new_data_in_one_segment() -> None:
    play(
        OPENED
        + """
        20    < PA 1:101 ack 1 win 60000
        20    > A 1 ack 101
        30    < PA 51:201 ack 1 win 60000
        30    > A 1 ack 201
        30    read 200
    """
    )


def test_abort_resets() -> None:
    play(OPENED + "20 abort\n20 > RA 1 ack 1\n20 state CLOSED\n20 event CLOSED ABORTED")


def test_3_10_3_write_after_close_is_an_error() -> None:
    script = play(OPENED + "20 close\n20 > FA 1 ack 1")
    with pytest.raises(BrokenPipeError, match="FIN-WAIT-1"):
        script.connection.write(b"x")


def test_3_10_4_close_in_syn_sent_forgets() -> None:
    play("0 connect\n0 > S 0\n5 close\n5 state CLOSED\n5 event CLOSED ABORTED\n2000 quiet")


def test_3_10_4_close_in_syn_received_waits_until_established() -> None:
    play(
        STATES["SYN-RECEIVED"]
        + """
        5     close
        10    < A 1 ack 1 win 60000
        10    > FA 1 ack 1
        10    state FIN-WAIT-1
    """
    )


def test_the_table_knows_every_state_and_leads_out_of_it() -> None:
    reached = {State.CLOSED, *TRANSITIONS.values()}
    assert reached == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.TIME_WAIT}
    assert len(SYNCHRONIZED) == 7


# ---- section 3.8.6: windows ----


def test_3_8_6_1_a_zero_window_is_probed_with_a_byte_at_growing_intervals() -> None:
    play(
        ACCEPTED.replace("ack 1 win 60000", "ack 1 win 0")
        + """
        20    write 500
        220   > A 1:2 ack 1
        230   < A 1 ack 1 win 0
        620   > A 1:2 ack 1
        1420  > A 1:2 ack 1
        1430  < A 1 ack 2 win 60000
        1430  > PA 2:501 ack 1
    """
    )


def test_3_8_6_2_1_no_silly_segments_are_sent() -> None:
    """A window that opens by little is left alone until the rest of it comes."""
    play(
        OPENED.replace("win 60000", "win 2000")
        + """
        20    write 5000
        20    > A 1:2001 ack 1
        30    < A 1 ack 2001 win 100
        40    < A 1 ack 2001 win 2000
        40    > A 2001:4001 ack 1
    """
    )


def test_3_8_6_2_2_the_window_opens_in_steps_worth_a_segment() -> None:
    settings = replace(PLAIN, receive_buffer=4000)
    play(
        OPENED
        + """
        20    < A 1:4001 ack 1 win 60000
        20    > A 1 ack 4001 win 0
        30    read 500
        30    quiet
        40    read 400
        40    quiet
        50    read 100
        50    > A 1 ack 4001 win 1000
    """,
        settings,
    )


def test_3_8_6_what_we_acknowledge_is_heard_by_a_closed_window() -> None:
    """It stands at its edge, not behind the byte that probed it and was refused."""
    play(
        ACCEPTED.replace("ack 1 win 60000", "ack 1 win 0")
        + """
        20    write 500
        220   > A 1:2 ack 1
        230   < PA 1:101 ack 1 win 0
        230   > A 1 ack 101
    """
    )


def test_3_10_7_4_what_comes_behind_a_probe_of_our_closed_window_is_heard() -> None:
    """An allowance for valid acknowledgments: of peers that count the byte that we refused."""
    script = play(
        OPENED
        + """
        20    write 1000
        20    > PA 1:1001 ack 1
        20    < PA 1:101 ack 1 win 60000
        20    > A 1001 ack 101 win 0
        30    < PA 101:102 ack 1 win 60000
        30    > A 1001 ack 101 win 0
        40    < A 102 ack 1001 win 60000
        40    quiet
        50    < A 103 ack 1001 win 60000
        50    > A 1001 ack 101 win 0
    """,
        replace(PLAIN, receive_buffer=100, receive_most=100),
    )
    assert not len(script.connection.sender.recovery.flight)


def test_must_34_a_window_may_shrink() -> None:
    """Nothing new leaves then, and old data only as far as the window now takes it."""
    play(
        OPENED
        + """
        20    write 5000
        20    > PA 1:5001 ack 1
        30    < A 1 ack 1001 win 1500
        30    write 5000
        30    quiet
        230   > A 1001:2001 ack 1
        240   < A 1 ack 2001 win 500
        240   > A 2001:2501 ack 1
        250   < A 1 ack 2501 win 60000
        250   > A 2501:4501 ack 1
        260   < A 1 ack 4501 win 60000
        260   > A 4501:5001 ack 1
        260   > A 5001:7001 ack 1
        270   < A 1 ack 7001 win 60000
        270   > PA 7001:10001 ack 1
        280   < A 1 ack 10001 win 60000
    """
    )


def test_must_34_a_window_may_shrink_to_nothing() -> None:
    """Then it is probed, for as long as the peer answers (MUST-36)."""
    script = play(
        OPENED
        + """
        20    write 5000
        20    > PA 1:5001 ack 1
        30    < A 1 ack 1001 win 0
        230   > A 1001:1002 ack 1
        240   < A 1 ack 1001 win 0
        630   > A 1001:1002 ack 1
        640   < A 1 ack 1001 win 0
        1430  > A 1001:1002 ack 1
        1440  < A 1 ack 1001 win 0
    """,
        replace(PLAIN, user_timeout=10**9),
    )
    assert script.connection.state is State.ESTABLISHED


# ---- section 3.7.4: Nagle ----


def test_3_7_4_a_short_segment_waits_while_another_is_in_flight() -> None:
    play(
        OPENED
        + """
        20    write 10
        20    > PA 1:11 ack 1
        21    write 10
        22    write 10
        30    < A 1 ack 11 win 60000
        30    > PA 11:31 ack 1
    """
    )


def test_3_7_4_a_full_segment_does_not_wait() -> None:
    play(
        OPENED
        + """
        20    write 10
        20    > PA 1:11 ack 1
        21    write 1005
        21    > A 11:1011 ack 1
        30    < A 1 ack 1011 win 60000
        30    > PA 1011:1016 ack 1
    """
    )
