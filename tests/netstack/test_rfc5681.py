"""RFC 5681, 6582 and 6298: acknowledgments, fast retransmission and the timer, without SACK."""

from __future__ import annotations

from tests.netstack.script import OPENED, play

# The first acknowledgments are not delayed; this gets past them.
SEASONED = OPENED + "".join(
    f"20 < PA {1 + 10 * i}:{11 + 10 * i} ack 1 win 60000\n20 > A 1 ack {11 + 10 * i}\n"
    for i in range(16)
)  # fmt: skip


def test_3_1_the_initial_window_is_ten_segments() -> None:
    """RFC 6928."""
    play(OPENED + "20 write 50000\n20 > A 1:10001 ack 1")


def test_3_1_slow_start_doubles_in_a_round_trip() -> None:
    play(
        OPENED
        + """
        20    write 50000
        20    > A 1:10001 ack 1
        30    < A 1 ack 2001 win 60000
        30    > A 10001:14001 ack 1
        30    < A 1 ack 4001 win 60000
        30    > A 14001:18001 ack 1
    """
    )


def test_3_2_three_duplicates_repair_the_first_hole() -> None:
    play(
        OPENED
        + """
        20    write 10000
        20    > PA 1:10001 ack 1
        30    < A 1 ack 1 win 60000
        30    < A 1 ack 1 win 60000
        30    quiet
        30    < A 1 ack 1 win 60000
        30    > A 1:1001 ack 1
        40    < A 1 ack 10001 win 60000
    """
    )


def test_3_2_duplicates_with_data_or_another_window_do_not_count() -> None:
    play(
        OPENED
        + """
        20    write 10000
        20    > PA 1:10001 ack 1
        30    < A 1:11 ack 1 win 60000
        30    > A 10001 ack 11
        30    < A 11 ack 1 win 50000
        30    < A 11 ack 1 win 60000
        30    < A 11 ack 1 win 50000
        30    quiet
    """
    )


def test_rfc6582_3_2_a_partial_acknowledgment_repairs_the_next_hole() -> None:
    play(
        OPENED
        + """
        20    write 10000
        20    > PA 1:10001 ack 1
        30    < A 1 ack 1 win 60000
        30    < A 1 ack 1 win 60000
        30    < A 1 ack 1 win 60000
        30    > A 1:1001 ack 1
        40    < A 1 ack 4001 win 60000
        40    > A 4001:5001 ack 1
        50    < A 1 ack 10001 win 60000
    """
    )


def test_4_2_an_acknowledgment_waits_for_a_second_segment() -> None:
    play(
        SEASONED
        + """
        30    < A 161:1161 ack 1 win 60000
        30    quiet
        35    < A 1161:2161 ack 1 win 60000
        35    > A 1 ack 2161
    """
    )


def test_4_2_or_for_forty_milliseconds() -> None:
    play(
        SEASONED
        + """
        30    < A 161:1161 ack 1 win 60000
        70    > A 1 ack 1161
    """
    )


def test_4_2_or_rides_on_data() -> None:
    play(
        SEASONED
        + """
        30    < A 161:1161 ack 1 win 60000
        40    write 100
        40    > PA 1:101 ack 1161
        90    < A 1161 ack 101 win 60000
    """
    )


def test_4_2_out_of_order_is_acknowledged_at_once_each_time() -> None:
    play(
        SEASONED
        + """
        30    < A 1161:2161 ack 1 win 60000
        30    > A 1 ack 161
        30    < A 2161:3161 ack 1 win 60000
        30    > A 1 ack 161
    """
    )


def test_4_2_filling_a_gap_is_acknowledged_at_once() -> None:
    play(
        SEASONED
        + """
        30    < A 1161:2161 ack 1 win 60000
        30    > A 1 ack 161
        40    < A 161:1161 ack 1 win 60000
        40    > A 1 ack 2161
        40    read 2160
    """
    )


def test_4_2_a_fin_is_acknowledged_at_once() -> None:
    play(SEASONED + "30 < FA 161 ack 1 win 60000\n30 > A 1 ack 162")


def test_rfc6298_5_5_the_timer_backs_off_while_there_is_silence() -> None:
    play(
        OPENED
        + """
        20    write 500
        20    > PA 1:501 ack 1
        220   > PA 1:501 ack 1
        620   > PA 1:501 ack 1
        1420  > PA 1:501 ack 1
        3020  > PA 1:501 ack 1
    """
    )


def test_rfc6298_5_3_each_acknowledgment_restarts_the_timer() -> None:
    play(
        OPENED
        + """
        20    write 2000
        20    > PA 1:2001 ack 1
        150   < A 1 ack 1001 win 60000
        300   quiet
    """
    )


def test_rfc5681_3_1_after_a_timeout_one_segment_leaves() -> None:
    play(
        OPENED
        + """
        20    write 10000
        20    > PA 1:10001 ack 1
        220   > A 1:1001 ack 1
        230   < A 1 ack 1001 win 60000
        230   > A 1001:3001 ack 1
        240   < A 1 ack 10001 win 60000
    """
    )


def test_rfc6298_3_karn_a_retransmission_gives_no_sample() -> None:
    script = play(
        OPENED
        + """
        20    write 1000
        20    > PA 1:1001 ack 1
        220   > PA 1:1001 ack 1
        221   < A 1 ack 1001 win 60000
    """
    )
    assert script.connection.sender.recovery.trip.latest == 10_000_000
