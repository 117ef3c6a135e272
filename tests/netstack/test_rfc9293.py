"""RFC 9293, sections 3.5 and 3.6: opening and closing, figure by figure."""

from __future__ import annotations

from dataclasses import replace

from tests.netstack.script import OPENED, PLAIN, STATES, play

# ---- section 3.5: opening ----


SYN_WITH_DATA = """
0    listen
0    < S 0:100 win 60000 mss 1000
0    > SA 0 ack 1
"""


def test_3_5_figure_6_active_open() -> None:
    play("""
        0    connect
        0    > S 0 win 60000 mss 1000
        0    state SYN-SENT
        10   < SA 0 ack 1 win 500 mss 900
        10   > A 1 ack 1 win 60000
        10   state ESTABLISHED
        10   event ESTABLISHED
    """)


def test_3_5_figure_6_passive_open() -> None:
    play("""
        0    listen
        0    state LISTEN
        5    < S 0 win 500 mss 900
        5    > SA 0 ack 1 mss 1000
        5    state SYN-RECEIVED
        15   < A 1 ack 1 win 500
        15   state ESTABLISHED
        15   event ESTABLISHED
    """)


def test_3_5_figure_7_simultaneous_open() -> None:
    play("""
        0    connect
        0    > S 0
        5    < S 0 win 60000 mss 1000
        5    > SA 0 ack 1
        5    state SYN-RECEIVED
        10   < SA 0 ack 1 win 60000 mss 1000
        10   state ESTABLISHED
        10   event ESTABLISHED
    """)


def test_3_5_figure_8_an_old_duplicate_syn_in_listen_is_recovered_from() -> None:
    play("""
        0    listen
        0    < S 90 win 60000
        0    > SA 0 ack 91
        5    < R 91
        5    state LISTEN
        10   < S 0 win 60000
        10   > SA 0 ack 1
    """)


def test_3_5_data_with_the_handshake_ack_is_taken() -> None:
    play(
        STATES["SYN-RECEIVED"]
        + """
        10   < PA 1:101 ack 1 win 60000
        10   > A 1 ack 101
        10   read 100
    """
    )


def test_3_10_7_2_data_on_a_syn_waits_until_established() -> None:
    """Not even acknowledged before: anybody can send a SYN in another's name."""
    play(
        SYN_WITH_DATA
        + """
        5    < S 0:100 win 60000 mss 1000
        5    > SA 0 ack 1
        5    read 0
        10   < A 1 ack 1 win 60000
        10   event ESTABLISHED
        10   event READABLE
        10   > A 1 ack 101
        10   read 100
        20   < PA 101:201 ack 1 win 60000
        20   > A 1 ack 201
    """
    )


def test_3_10_7_2_a_fin_on_a_syn_waits_too() -> None:
    play("""
        0    listen
        0    < SF 0:100 win 60000 mss 1000
        0    > SA 0 ack 1
        10   < A 102 ack 1 win 60000
        10   > A 1 ack 102
        10   event FINISHED
        10   state CLOSE-WAIT
        10   read 100
    """)


def test_3_10_7_2_what_did_not_come_with_a_reset_handshake_is_forgotten() -> None:
    play(
        SYN_WITH_DATA
        + """
        5    < R 1
        5    state LISTEN
        10   < S 0 win 60000 mss 1000
        10   > SA 0 ack 1
        20   < A 1 ack 1 win 60000
        20   event ESTABLISHED
        20   read 0
    """
    )


def test_3_10_7_3_data_with_a_syn_ack_is_taken_at_once() -> None:
    play("""
        0    connect
        0    > S 0
        10   < SAP 0:100 ack 1 win 60000 mss 1000
        10   > A 1 ack 101
        10   read 100
    """)


def test_3_10_7_3_data_with_a_simultaneous_syn_waits() -> None:
    play("""
        0    connect
        0    > S 0
        10   < S 0:100 win 60000 mss 1000
        10   > SA 0 ack 1
        20   < A 101 ack 1 win 60000
        20   > A 1 ack 101
        20   read 100
    """)


def test_3_10_7_4_data_on_a_syn_stays_within_the_window() -> None:
    play(SYN_WITH_DATA + """
        10   < A 1 ack 1 win 60000
        10   > A 1 ack 61 win 0
        10   read 60
        10   > A 1 ack 61 win 60
    """, replace(PLAIN, receive_buffer=60, receive_most=60))  # fmt: skip


def test_3_8_1_a_lost_syn_is_sent_again_after_one_second_then_two_then_four() -> None:
    play("""
        0    connect
        0    > S 0
        1000 > S 0
        3000 > S 0
        7000 > S 0
        7010 < SA 0 ack 1 win 60000
        7010 > A 1 ack 1
    """)


def test_3_8_1_a_lost_syn_ack_is_sent_again() -> None:
    play("""
        0    listen
        0    < S 0 win 60000
        0    > SA 0 ack 1
        1000 > SA 0 ack 1
    """)


def test_a_repeated_syn_gets_the_syn_ack_again() -> None:
    play("""
        0    listen
        0    < S 0 win 60000
        0    > SA 0 ack 1
        500  < S 0 win 60000
        500  > SA 0 ack 1
    """)


# ---- section 3.6: closing ----


def test_3_6_figure_12_normal_close() -> None:
    play(
        OPENED
        + """
        20    close
        20    > FA 1 ack 1
        20    state FIN-WAIT-1
        30    < A 1 ack 2 win 60000
        30    state FIN-WAIT-2
        40    < FA 1 ack 2 win 60000
        40    > A 2 ack 2
        40    state TIME-WAIT
        60040 state CLOSED
        60040 event CLOSED FINISHED
    """
    )


def test_3_6_figure_12_the_other_side() -> None:
    play(
        OPENED
        + """
        20    < FA 1 ack 1 win 60000
        20    > A 1 ack 2
        20    state CLOSE-WAIT
        20    event FINISHED
        30    close
        30    > FA 1 ack 2
        30    state LAST-ACK
        40    < A 2 ack 2 win 60000
        40    state CLOSED
        40    event CLOSED FINISHED
    """
    )


def test_3_6_figure_13_simultaneous_close() -> None:
    play(
        OPENED
        + """
        20    close
        20    > FA 1 ack 1
        25    < FA 1 ack 1 win 60000
        25    > A 2 ack 2
        25    state CLOSING
        35    < A 2 ack 2 win 60000
        35    state TIME-WAIT
        60035 state CLOSED
    """
    )


def test_3_6_fin_and_its_acknowledgment_in_one_segment() -> None:
    play(
        OPENED
        + """
        20    close
        20    > FA 1 ack 1
        30    < FA 1 ack 2 win 60000
        30    > A 2 ack 2
        30    state TIME-WAIT
    """
    )


def test_3_6_half_close_goes_on_receiving() -> None:
    play(
        STATES["FIN-WAIT-2"]
        + """
        40    < PA 1:501 ack 2 win 60000
        40    > A 2 ack 501
        40    read 500
        50    < FA 501 ack 2 win 60000
        50    > A 2 ack 502
        50    state TIME-WAIT
    """
    )


def test_3_6_half_close_goes_on_sending() -> None:
    play(
        STATES["CLOSE-WAIT"]
        + """
        40    write 500
        40    > PA 1:501 ack 2
        50    < A 2 ack 501 win 60000
        50    state CLOSE-WAIT
    """
    )


def test_3_6_the_fin_waits_behind_the_data() -> None:
    play(
        OPENED
        + """
        20    write 1500
        20    > A 1:1001 ack 1
        20    close
        20    > FPA 1001:1501 ack 1
    """
    )


def test_3_6_a_fin_out_of_order_waits_for_the_data_before_it() -> None:
    play(
        OPENED
        + """
        20    < FA 501 ack 1 win 60000
        20    > A 1 ack 1
        20    state ESTABLISHED
        30    < A 1:501 ack 1 win 60000
        30    > A 1 ack 502
        30    state CLOSE-WAIT
    """
    )


def test_3_6_1_time_wait_answers_a_repeated_fin_and_starts_over() -> None:
    play(
        STATES["TIME-WAIT"]
        + """
        5000  < FA 1 ack 2 win 60000
        5000  > A 2 ack 2
        60100 state TIME-WAIT
        65000 state CLOSED
    """
    )


def test_a_lost_fin_is_sent_again() -> None:
    play(
        OPENED
        + """
        20    close
        20    > FA 1 ack 1
        220   > FA 1 ack 1
        230   < A 1 ack 2 win 60000
        230   state FIN-WAIT-2
    """
    )
