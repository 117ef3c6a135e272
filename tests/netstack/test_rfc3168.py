"""RFC 3168, explicit congestion notification, RFC 5482, user timeout, and keepalives."""

from __future__ import annotations

from dataclasses import replace

from tests.netstack.script import OPENED, PLAIN, play
from tunnel.netstack.congestion import NewReno
from tunnel.netstack.rtt import SECOND

ECN = replace(PLAIN, ecn=True)
ECN_OPEN = """
0   connect
0   > SEC 0
10  < SAE 0 ack 1 win 60000 mss 1000
10  > A 1 ack 1
"""


def test_6_1_1_active_open_asks_with_both_bits() -> None:
    script = play(ECN_OPEN, ECN)
    assert script.connection._ecn


def test_6_1_1_passive_open_agrees_with_one() -> None:
    play("0 listen\n0 < SEC 0 win 60000 mss 1000\n0 > SAE 0 ack 1", ECN)


def test_6_1_1_a_syn_without_them_gets_a_plain_answer() -> None:
    play("0 listen\n0 < S 0 win 60000 mss 1000\n0 > SA 0 ack 1", ECN)


def test_6_1_1_a_peer_that_mirrors_both_bits_has_not_agreed() -> None:
    script = play("0 connect\n0 > SEC 0\n10 < SAEC 0 ack 1 win 9\n10 > A 1 ack 1", ECN)
    assert not script.connection._ecn


def test_6_1_2_the_echo_reduces_once_a_round_and_is_confirmed() -> None:
    script = play(ECN_OPEN + """
        20    write 5000
        20    > PA 1:5001 ack 1 ect
        30    < AE 1 ack 2001 win 60000
        31    < AE 1 ack 5001 win 60000
        40    write 1000
        40    > PAC 5001:6001 ack 1 ect
    """, ECN)  # fmt: skip
    control = script.connection.sender.recovery.control
    assert isinstance(control, NewReno)
    assert control.threshold == 2500  # half of 5000, not a quarter


def test_6_1_3_a_mark_is_echoed_until_the_sender_confirms() -> None:
    play(ECN_OPEN + """
        20    < PA 1:11 ack 1 win 60000 ce
        20    > AE 1 ack 11
        30    < PA 11:21 ack 1 win 60000
        30    > AE 1 ack 21
        40    < PAC 21:31 ack 1 win 60000
        40    > A 1 ack 31
    """, ECN)  # fmt: skip


def test_6_1_5_retransmissions_are_not_marked_capable() -> None:
    script = play(ECN_OPEN + "20 write 1000\n20 > PA 1:1001 ack 1 ect", ECN)
    script.now += 200_000_000
    script.connection.handle_timeout(script.now)
    again = script.connection.segments_to_send(script.now)
    assert [one.capable for one in again] == [False]


def test_6_1_6_probes_of_a_closed_window_are_not_capable() -> None:
    script = play(ECN_OPEN.replace("win 60000", "win 0") + "20 write 1000\n20 quiet", ECN)
    script.now += 300_000_000
    script.connection.handle_timeout(script.now)
    probes = script.connection.segments_to_send(script.now)
    assert [(len(one.payload), one.capable) for one in probes] == [(1, False)]


def test_5482_3_the_option_is_sent_and_adopted_within_limits() -> None:
    settings = replace(PLAIN, announce_user_timeout=True, user_timeout=300 * SECOND)
    for theirs, adopted in ((1, 300), (900, 900), (30_000, 3600)):
        script = play(f"""
            0   connect
            0   > S 0 uto 300
            10  < SA 0 ack 1 win 60000 uto {theirs}
            10  > A 1 ack 1
        """, settings)  # fmt: skip
        assert script.connection.user_timeout == adopted * SECOND


def test_5482_unacknowledged_data_ends_the_connection_after_the_timeout() -> None:
    script = play(OPENED, replace(PLAIN, user_timeout=SECOND))
    script.run("""
        20    write 10
        20    > PA 1:11 ack 1
        220   > PA 1:11 ack 1
        620   > PA 1:11 ack 1
        1020  > RA 11 ack 1
        1020  state CLOSED
        1020  event CLOSED TIMED_OUT
    """)


def test_9293_3_8_4_keepalive_probes_are_just_below_the_window() -> None:
    settings = replace(PLAIN, keepalive=10 * SECOND, keepalive_interval=SECOND, keepalive_count=3)
    play(OPENED + """
        10010 > A 0 ack 1
        10020 < A 1 ack 1 win 60000
        20020 > A 0 ack 1
        21020 > A 0 ack 1
        22020 > A 0 ack 1
        23020 > RA 1 ack 1
        23020 event CLOSED TIMED_OUT
    """, settings)  # fmt: skip


def test_9293_3_8_4_the_peers_keepalive_is_answered() -> None:
    play(OPENED + "9000 < A 0 ack 1 win 60000\n9000 > A 1 ack 1")
