"""RFC 7323: window scale, timestamps, and protection against wrapped sequence numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.netstack.script import PLAIN, play

SCALED = replace(PLAIN, scaling=True, receive_most=1 << 20)
STAMPED = replace(PLAIN, timestamps=True)
# The connection's timestamps: virtual time begins at 1000 ms.
STAMPED_OPEN = """
0   connect
0   > S 0 ts 1000:0
10  < SA 0 ack 1 win 60000 mss 1000 ts 500:1000
10  > A 1 ack 1 ts 1010:500
"""
STAMPED_SELECTIVE_OPEN = """
0   connect
0   > S 0 ts 1000:0 sackok
10  < SA 0 ack 1 win 60000 mss 1000 ts 500:1000 sackok
10  > A 1 ack 1 ts 1010:500
"""


def test_2_2_a_syn_offers_a_shift_and_its_window_is_not_scaled() -> None:
    play("0 connect\n0 > S 0 win 60000 ws 5", SCALED)


def test_2_2_both_directions_are_scaled_after_the_handshake() -> None:
    play("""
        0     connect
        0     > S 0 win 60000 ws 5
        10    < SA 0 ack 1 win 1000 ws 2 mss 1000
        10    > A 1 ack 1 win 1875
        20    < A 1 ack 1 win 1000
        20    write 5000
        20    > A 1:4001 ack 1 win 1875
    """, SCALED)  # fmt: skip


def test_2_2_the_window_of_a_syn_is_never_scaled() -> None:
    play("""
        0     connect
        0     > S 0
        10    < SA 0 ack 1 win 1000 ws 2 mss 1000
        10    > A 1 ack 1
        20    write 5000
        20    > A 1:1001 ack 1
    """, SCALED)  # fmt: skip


def test_2_2_without_the_peers_offer_nothing_is_scaled() -> None:
    play("""
        0     connect
        0     > S 0 ws 5
        10    < SA 0 ack 1 win 1000 mss 1000
        10    > A 1 ack 1 win 60000
    """, SCALED)  # fmt: skip


def test_2_2_a_passive_open_answers_only_what_was_offered() -> None:
    script = play("0 listen\n0 < S 0 win 1000\n0 > SA 0 ack 1", SCALED)
    assert not script.connection._scaling


def test_3_2_timestamps_need_both_sides() -> None:
    play("""
        0     connect
        0     > S 0 ts 1000:0
        10    < SA 0 ack 1 win 60000 mss 1000
        10    > A 1 ack 1
        20    write 1000
        20    > PA 1:1001 ack 1
    """, STAMPED)  # fmt: skip


def test_3_2_options_make_the_segments_smaller() -> None:
    play(STAMPED_OPEN + """
        20    write 5000
        20    > A 1:4941 ack 1 ts 1020:500
    """.replace("4941", str(1 + 5 * 988)), STAMPED)  # fmt: skip


def test_3_2_a_segment_without_the_timestamp_is_dropped() -> None:
    play(STAMPED_OPEN + "20 < PA 1:101 ack 1 win 60000\n20 quiet", STAMPED)


def test_3_2_but_a_reset_without_it_is_taken() -> None:
    play(STAMPED_OPEN + "20 < R 1\n20 state CLOSED", STAMPED)


def test_3_2_and_a_syn_without_it_is_challenged() -> None:
    """RFC 5961, section 4.2: of a peer that restarted with timestamps off, say."""
    play(STAMPED_OPEN + "20 < S 5000 win 60000\n20 > A 1 ack 1 ts 1020:500", STAMPED)


@pytest.mark.parametrize("refused", ["A -99:1 ack 1", "A 1:101 ack 5000", "S 1", "A -1 ack 1"])
def test_5_3_r3_what_is_refused_sets_no_timestamp(refused: str) -> None:
    """Else one blind segment far ahead in time would make PAWS drop all that the peer sends."""
    play(STAMPED_OPEN + f"""
        20    < {refused} win 60000 ts 2000000500:1010
        20    > A 1 ack 1 ts 1020:500
        30    < PA 1:101 ack 1 win 60000 ts 510:1010
        30    > A 1 ack 101 ts 1030:510
    """, STAMPED)  # fmt: skip


def test_5_3_r1_an_old_acknowledgment_leaves_what_is_owed() -> None:
    """Even when challenges have run out."""
    script = play(STAMPED_OPEN, STAMPED)
    connection = script.connection
    while connection._limit.allows(script.now):
        pass
    script._advance(script.now + 1_000_000, "later")
    script.arrive("A 1:1001 ack 1 win 60000 ts 510:1010")
    script.arrive("A 1001 ack 1 win 60000 ts 400:1010")
    assert connection.segments_to_send(script.now)


def test_4_3_the_newest_timestamp_is_echoed() -> None:
    play(STAMPED_OPEN + """
        20    < PA 1:101 ack 1 win 60000 ts 510:1010
        20    > A 1 ack 101 ts 1020:510
    """, STAMPED)  # fmt: skip


def test_4_3_a_segment_beyond_a_gap_is_not_echoed() -> None:
    """The acknowledgment speaks of what is in order, so that the peer's RTT counts the repair."""
    play(STAMPED_OPEN + """
        20    < PA 101:201 ack 1 win 60000 ts 520:1010
        20    > A 1 ack 1 ts 1020:500
        30    < PA 1:101 ack 1 win 60000 ts 530:1010
        30    > A 1 ack 201 ts 1030:530
    """, STAMPED)  # fmt: skip


def test_5_3_r1_an_old_timestamp_is_answered_and_dropped() -> None:
    play(STAMPED_OPEN + """
        20    < PA 1:101 ack 1 win 60000 ts 499:1010
        20    > A 1 ack 1 ts 1020:500
        30    < PA 1:101 ack 1 win 60000 ts 500:1010
        30    > A 1 ack 101
    """, STAMPED)  # fmt: skip


def test_5_3_r1_a_reset_is_not_subject_to_it() -> None:
    play(STAMPED_OPEN + "20 < R 1 ts 3:0\n20 state CLOSED", STAMPED)


@pytest.mark.parametrize("ahead", [1, 1000, (1 << 31) - 1])
def test_5_2_timestamps_compare_modulo_their_space(ahead: int) -> None:
    value = (0xFFFFFFF0 + ahead) & 0xFFFFFFFF
    play(f"""
        0     connect
        0     > S 0
        10    < SA 0 ack 1 win 60000 mss 1000 ts {0xFFFFFFF0}:1000
        10    > A 1 ack 1
        20    < PA 1:101 ack 1 win 60000 ts {value}:1010
        20    > A 1 ack 101 ts 1020:{value}
    """, STAMPED)  # fmt: skip


def test_5_5_after_24_idle_days_an_old_timestamp_is_believed() -> None:
    days = 25 * 24 * 3600 * 1000
    play(STAMPED_OPEN + f"{days} < PA 1:101 ack 1 win 60000 ts 3:1010\n{days} > A 1 ack 101",
         STAMPED)  # fmt: skip


def test_5_4_the_clock_has_a_random_offset() -> None:
    play("0 connect\n0 > S 0 ts 4242:0", STAMPED, clock_offset=3242)


def test_4_1_an_echo_gives_the_round_trip_of_a_retransmission() -> None:
    script = play(STAMPED_OPEN + """
        20    write 988
        20    > PA 1:989 ack 1 ts 1020:500
        220   > PA 1:989 ack 1 ts 1220:500
        250   < A 1 ack 989 win 60000 ts 700:1220
    """, STAMPED)  # fmt: skip
    assert script.connection.sender.recovery.trip.latest == 30_000_000


def test_4_1_an_echo_that_is_too_old_does_not_lengthen_the_timeout() -> None:
    """The acknowledgment at 30 is lost. What answers the repetition echoes the first sending."""
    script = play(STAMPED_SELECTIVE_OPEN + """
        20    write 988
        20    > PA 1:989 ack 1 ts 1020:500
        220   > PA 1:989 ack 1 ts 1220:500
        240   < A 1 ack 989 win 60000 ts 700:1020 sack 1-989
        300   write 988
        300   > PA 989:1977 ack 1 ts 1300:700
        500   > PA 989:1977 ack 1 ts 1500:700
        510   < A 1 ack 1977 win 60000 ts 700:1500
    """, replace(STAMPED, selective=True))  # fmt: skip
    assert script.connection.sender.recovery.trip.base == 200_000_000


def test_4_1_an_old_echo_of_a_late_answer_does() -> None:
    """The path became slow: this acknowledgment answers the first sending, which it echoes."""
    script = play(STAMPED_SELECTIVE_OPEN + """
        20    write 988
        20    > PA 1:989 ack 1 ts 1020:500
        220   > PA 1:989 ack 1 ts 1220:500
        520   < A 1 ack 989 win 60000 ts 700:1020
    """, replace(STAMPED, selective=True))  # fmt: skip
    assert script.connection.sender.recovery.trip.base > 400_000_000


def test_6298_5_7_a_repeated_syn_leaves_the_timeout_at_three_seconds() -> None:
    """The answer may be to either. The first sample after that counts alone."""
    script = play("""
        0     connect
        0     > S 0 ts 1000:0
        1000  > S 0 ts 2000:0
        1010  < SA 0 ack 1 win 60000 mss 1000 ts 500:1000
        1010  > A 1 ack 1 ts 2010:500
    """, STAMPED)  # fmt: skip
    trip = script.connection.sender.recovery.trip
    assert trip.timeout == 3_000_000_000
    script.run("""
        1020  write 988
        1020  > PA 1:989 ack 1
        1030  < A 1 ack 989 win 60000 ts 501:2020
    """)
    assert trip.timeout == 200_000_000


def test_3522_what_a_needless_timeout_hid_is_found_at_once() -> None:
    """The echo shows that the repetition at 240 was needless; the second segment is lost still."""
    play(STAMPED_SELECTIVE_OPEN + """
        20    write 4940
        20    > PA 1:4941 ack 1 ts 1020:500
        40    > PA 3953:4941 ack 1 ts 1040:500
        240   > A 1:989 ack 1 ts 1240:500
        245   < A 1 ack 989 win 60000 ts 700:1020 sack 1977-4941
        245   > A 989:1977 ack 1 ts 1245:700
        255   < A 1 ack 4941 win 60000 ts 710:1245
    """, replace(STAMPED, selective=True))  # fmt: skip
