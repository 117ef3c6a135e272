"""RFC 2018 and 2883, selective acknowledgments and duplicates; RFC 8985, RACK-TLP, with them."""

from __future__ import annotations

from dataclasses import replace

from tests.netstack.script import MS, PLAIN, START, STATES, play

SELECTIVE = replace(PLAIN, selective=True)
OPENED = """
0   connect
0   > S 0 sackok
10  < SA 0 ack 1 win 60000 mss 1000 sackok
10  > A 1 ack 1
"""
#: Ten segments, sent one by one a millisecond apart, round trip 10 ms.
SENT = OPENED + "".join(
    f"{20 + i} write 1000\n{20 + i} > PA {1 + 1000 * i}:{1001 + 1000 * i} ack 1\n"
    for i in range(10)
)  # fmt: skip

#: Two segments, of which the second leaves again as a probe of the tail.
PROBED = (
    OPENED
    + """
20    write 2000
20    > PA 1:2001 ack 1
40    > PA 1001:2001 ack 1
"""
)

# ---- the receiver ----


def test_2018_4_blocks_say_what_came_out_of_order_the_newest_first() -> None:
    play(OPENED + """
        20    < A 1001:2001 ack 1 win 60000
        20    > A 1 ack 1 sack 1001-2001
        21    < A 5001:6001 ack 1 win 60000
        21    > A 1 ack 1 sack 5001-6001,1001-2001
        22    < A 3001:4001 ack 1 win 60000
        22    > A 1 ack 1 sack 3001-4001,5001-6001,1001-2001
        23    < A 2001:3001 ack 1 win 60000
        23    > A 1 ack 1 sack 1001-4001,5001-6001
        24    < A 1:1001 ack 1 win 60000
        24    > A 1 ack 4001 sack 5001-6001
        25    < A 4001:5001 ack 1 win 60000
        25    > A 1 ack 6001
        25    read 6000
    """, SELECTIVE)  # fmt: skip


def test_2018_3_four_blocks_fit_and_three_beside_a_timestamp() -> None:
    holes = "".join(f"{20 + i} < A {2001 * i}:{2001 * i + 1000} ack 1 win 60000\n{20 + i} > A 1\n"
                    for i in range(1, 6))  # fmt: skip
    script = play(OPENED + holes, SELECTIVE)
    assert script.connection.receiver is not None
    assert len(script.connection.receiver.blocks(4)) == 4


def test_2018_4_data_carries_the_blocks_too_and_is_cut_smaller_for_them() -> None:
    play(OPENED + """
        20    < A 1001:2001 ack 1 win 60000
        20    > A 1 ack 1 sack 1001-2001
        30    write 3000
        30    > PA 1:3001 ack 1 sack 1001-2001 cut 988
        40    < A 1:1001 ack 3001 win 60000
        40    > A 3001 ack 2001
        50    write 2000
        50    > PA 3001:5001 ack 2001 cut 1000
    """, SELECTIVE)  # fmt: skip


def test_2018_2_without_the_peers_permission_there_are_none() -> None:
    script = play("""
        0     connect
        0     > S 0 sackok
        10    < SA 0 ack 1 win 60000 mss 1000
        10    > A 1 ack 1
        20    < A 1001:2001 ack 1 win 60000
        20    > A 1 ack 1
    """, SELECTIVE)  # fmt: skip
    assert not script.connection._selective


def test_2883_4_1_a_duplicate_is_reported_first_and_once() -> None:
    play(OPENED + """
        20    < A 1:1001 ack 1 win 60000
        20    > A 1 ack 1001
        30    < A 1:1001 ack 1 win 60000
        30    > A 1 ack 1001 sack 1-1001
        40    < A 2001:3001 ack 1 win 60000
        40    > A 1 ack 1001 sack 2001-3001
    """, SELECTIVE)  # fmt: skip


def test_2883_4_1_2_a_duplicate_out_of_order_is_followed_by_its_block() -> None:
    play(OPENED + """
        20    < A 1001:3001 ack 1 win 60000
        20    > A 1 ack 1 sack 1001-3001
        30    < A 2001:3001 ack 1 win 60000
        30    > A 1 ack 1 sack 2001-3001,1001-3001
    """, SELECTIVE)  # fmt: skip


# ---- the sender ----


def test_8985_a_segment_is_lost_when_later_ones_arrived_and_time_has_passed() -> None:
    play(SENT + """
        31    < A 1 ack 1 win 60000 sack 1001-2001
        32    < A 1 ack 1 win 60000 sack 1001-3001
        32.5  > A 1:1001 ack 1
        33    < A 1 ack 1 win 60000 sack 1001-4001
        40    < A 1 ack 10001 win 60000
    """, SELECTIVE)  # fmt: skip


def test_8985_three_segments_selected_need_no_more_waiting() -> None:
    play(SENT + """
        31    < A 1 ack 1 win 60000 sack 1001-4001
        31    > A 1:1001 ack 1
        40    < A 1 ack 10001 win 60000
    """, SELECTIVE)  # fmt: skip


def test_8985_only_the_holes_are_sent_again() -> None:
    script = play(SENT + """
        34    < A 1 ack 1 win 60000 sack 1001-3001,4001-10001
        34    > A 1:1001 ack 1
        34    > A 3001:4001 ack 1
        45    < A 1 ack 10001 win 60000
    """, SELECTIVE)  # fmt: skip
    assert not len(script.connection.sender.recovery.flight)


def test_8985_a_retransmission_that_is_lost_again_is_sent_again() -> None:
    play(SENT + """
        34    < A 1 ack 1 win 60000 sack 1001-3001,4001-10001
        34    > A 1:1001 ack 1
        34    > A 3001:4001 ack 1
        45    < A 1 ack 1 win 60000 sack 1001-10001
        45    > A 1:1001 ack 1
        56    < A 1 ack 10001 win 60000
    """, SELECTIVE)  # fmt: skip


def test_8985_7_2_a_lost_tail_is_probed_for_after_two_round_trips() -> None:
    """A probe of the last segment; its selective acknowledgment shows the loss before it."""
    play(PROBED + """
        50    < A 1 ack 1 win 60000 sack 1001-2001
        50    > A 1:1001 ack 1
        60    < A 1 ack 2001 win 60000
    """, SELECTIVE)  # fmt: skip


def test_2018_8_after_a_timeout_a_receiver_may_have_forgotten() -> None:
    """Reneging: what was selected is sent again when the timer finds it at the front."""
    play(OPENED + """
        20    write 3000
        20    > PA 1:3001 ack 1
        25    < A 1 ack 1 win 60000 sack 1-1001
        25    quiet
        220   > A 1:1001 ack 1
        230   < A 1 ack 3001 win 60000
    """, SELECTIVE)  # fmt: skip


def test_blocks_that_cannot_be_are_ignored() -> None:
    script = play(SENT + """
        31    < A 1 ack 1 win 60000 sack 50001-60001
        31    < A 1 ack 1 win 60000 sack 3001-2001
        31    < A 1 ack 1 win 60000 sack -5000-2001
        31    quiet
        31    state ESTABLISHED
    """.replace("sack -5000-2001", "sack 9001-20001"), SELECTIVE)  # fmt: skip
    assert not script.connection.sender.recovery.flight.sacked


def test_every_state_is_reached_with_the_options_on() -> None:
    for name, text in STATES.items():
        play(text + f"\n100 state {name}", SELECTIVE)


# ---- RFC 8985, sections 6.3 and 7.4 ----


def window_after(text: str) -> int:
    """Return what a loss-based control has left after a script."""
    script = play(text, replace(SELECTIVE, congestion="cubic"))
    return script.connection.sender.recovery.control.window


def test_8985_7_4_2_a_probe_that_is_a_duplicate_hid_no_loss() -> None:
    """The acknowledgment of the original was late; the probe's own names it a duplicate."""
    assert window_after(PROBED + """
        41    < A 1 ack 2001 win 60000
        50    < A 1 ack 2001 win 60000 sack 1001-2001
        60    write 1000
        60    > PA 2001:3001 ack 1
        70    < A 1 ack 3001 win 60000
    """) >= 10_000  # fmt: skip


def test_8985_7_4_2_a_probe_that_arrived_alone_hid_a_loss() -> None:
    assert window_after(PROBED + """
        50    < A 1 ack 2001 win 60000
        60    write 1000
        60    > PA 2001:3001 ack 1
        70    < A 1 ack 3001 win 60000
    """) < 10_000  # fmt: skip


def test_8985_7_3_one_probe_for_a_tail_then_the_timer() -> None:
    play(PROBED + """
        240   > A 1:1001 ack 1
    """, SELECTIVE)  # fmt: skip


def test_8985_6_3_a_timeout_leaves_what_had_no_time_to_arrive() -> None:
    """The first segment was sent an RTO ago and is lost. The second has just left."""
    script = play(OPENED + """
        20    write 1000
        20    > PA 1:1001 ack 1
        30    < A 1 ack 1001 win 60000
        40    write 1000
        40    > PA 1001:2001 ack 1
        235   write 1000
        235   > PA 2001:3001 ack 1
        240   > A 1001:2001 ack 1
    """, replace(SELECTIVE, nodelay=True))  # fmt: skip
    assert not script.connection.sender.recovery.flight.lost


def test_8985_6_2_an_echo_from_before_a_retransmission_says_nothing_of_it() -> None:
    """The late original is acknowledged: what was sent since then is not lost for that."""
    script = play("""
        0     connect
        0     > S 0 ts 1000:0 sackok
        10    < SA 0 ack 1 win 60000 mss 1012 ts 500:1000 sackok
        10    > A 1 ack 1 ts 1010:500
        20    write 1976
        20    > PA 1:1977 ack 1
        40    > PA 989:1977 ack 1
    """, replace(SELECTIVE, timestamps=True))  # fmt: skip
    rack = script.connection.sender.recovery.rack
    script.run("55 < A 1 ack 1977 win 60000 ts 545:1020")
    assert rack.sent_at == START + 20 * MS
