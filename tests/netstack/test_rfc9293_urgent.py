"""RFC 9293, section 3.8.5: urgent data, both ways, and pointers that mean no good.

`urg` is the pointer on the wire: how far behind the segment's first byte the urgent data ends.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.netstack.script import ACCEPTED, OPENED, PLAIN, STATES, Script, content, play
from tests.netstack.test_rfc2018 import OPENED as SELECTING, SELECTIVE
from tunnel.netstack.endpoint import EventKind

# ---- what comes ----


def told(script: Script) -> int:
    """How often the user has been told so far."""
    return sum(event.kind is EventKind.URGENT for event in script.events)


def test_must_32_the_user_hears_of_urgent_data_and_how_much_there_is() -> None:
    """In their place in the stream, up to the byte before the pointer (MUST-62)."""
    script = play(OPENED + """
        20    left 0
        20    < PAU 1:101 ack 1 win 60000 urg 60
        20    > A 1 ack 101
        20    event URGENT
        20    left 60
        20    read 59
        20    left 1
        20    read 1
        20    left 0
        20    read 40
    """)  # fmt: skip
    assert told(script) == 1


def test_must_32_it_is_told_before_the_data_and_again_where_the_pointer_advances() -> None:
    script = play(OPENED + """
        20    < AU 1 ack 1 win 60000 urg 500
        20    left 500
    """)  # fmt: skip
    assert told(script) == 1
    script.run("""
        21    < PAU 1:101 ack 1 win 60000 urg 500
        21    > A 1 ack 101
        21    read 100
        21    left 400
    """)
    assert told(script) == 1
    script.run("""
        22    < PAU 101:201 ack 1 win 60000 urg 401
        22    > A 1 ack 201
        22    left 401
    """)
    assert told(script) == 2


def test_who_reads_at_the_event_has_not_read_past_it() -> None:
    """What was readable before is told behind it."""
    script = play(OPENED)
    script.connection.take_events()
    script.arrive("PA 1:101 ack 1 win 60000")
    script.arrive("PAU 101:201 ack 1 win 60000 urg 100")
    kinds = [event.kind for event in script.connection.take_events()]
    assert kinds == [EventKind.URGENT, EventKind.READABLE]


def test_must_31_of_any_length() -> None:
    """Each segment's pointer reaches 65,535 bytes, so more and more of it is announced."""
    script = Script(replace(PLAIN, receive_buffer=200_000, receive_most=200_000, scaling=True))
    script.run("""
        0     connect
        0     > S 0
        10    < SA 0 ack 1 win 60000 mss 50000 ws 4
        10    > A 1 ack 1
        20    < AU 1:50001 ack 1 win 60000 urg 65535
        20    > A 1 ack 50001
        20    left 65535
        20    < AU 50001:100001 ack 1 win 60000 urg 65535
        20    > A 1 ack 100001
        20    left 115535
        20    < PAU 100001:150001 ack 1 win 60000 urg 50000
        20    > A 1 ack 150001
        20    left 150000
        20    read 50000
        20    left 100000
    """)


def test_must_66_a_closed_window_keeps_no_pointer_back() -> None:
    script = play("""
        0     connect
        0     > S 0 win 100
        10    < SA 0 ack 1 win 60000 mss 1000
        10    > A 1 ack 1
        20    < PA 1:101 ack 1 win 60000
        20    > A 1 ack 101 win 0
        30    < AU 101 ack 1 win 60000 urg 30
        30    left 130
        40    < AU 101:102 ack 1 win 60000 urg 50
        40    > A 1 ack 101 win 0
        40    left 150
    """, replace(PLAIN, receive_buffer=100, receive_most=100))  # fmt: skip
    assert told(script) == 2


def test_3_10_7_4_pointers_are_taken_only_while_the_peer_may_send() -> None:
    for name in STATES:
        script = Script()
        script.run(STATES[name])
        receiver = script.connection.receiver
        assert receiver is not None
        following = receiver.nxt - 0xFFFFFE00
        ack = script.connection.sender.una - script.connection.iss
        script.run(f"100 < AU {following} ack {max(ack, 1)} win 60000 urg 9")
        takes = name in ("SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2")
        assert told(script) == takes, name
        assert script.connection.urgent == 9 * takes, name


def test_3_10_7_3_a_pointer_on_a_syn_counts_from_the_syn() -> None:
    script = play("""
        0     connect
        0     > S 0
        10    < SAPU 0:100 ack 1 win 60000 mss 1000 urg 31
        10    > A 1 ack 101
        10    event URGENT
        10    left 30
    """)
    assert told(script) == 1


# ---- pointers that mean no good ----


def test_a_pointer_never_goes_back() -> None:
    script = play(OPENED + """
        20    < PAU 1:101 ack 1 win 60000 urg 280
        20    > A 1 ack 101
        21    < PAU 101:201 ack 1 win 60000 urg 179
        21    > A 1 ack 201
        22    < AU 201 ack 1 win 60000 urg 0
        22    left 280
    """)  # fmt: skip
    assert told(script) == 1


def test_what_has_been_read_cannot_become_urgent() -> None:
    script = play(OPENED + """
        20    < PA 1:101 ack 1 win 60000
        20    > A 1 ack 101
        20    read 100
        21    < AU 101 ack 1 win 60000 urg 0
        21    left 0
    """)  # fmt: skip
    assert told(script) == 0


def test_without_the_flag_a_pointer_means_nothing() -> None:
    script = play(OPENED + """
        20    < PA 101:201 ack 1 win 60000 urg 80
        20    > A 1 ack 1
        20    left 0
    """)  # fmt: skip
    assert told(script) == 0


def test_nothing_is_urgent_behind_a_fin() -> None:
    """The pointer promises more than will ever come; the user must not wait for it."""
    play(OPENED + """
        20    < PAU 1:101 ack 1 win 60000 urg 65535
        20    > A 1 ack 101
        20    left 65535
        30    < FA 101 ack 1 win 60000
        30    > A 1 ack 102
        30    left 100
        30    read 100
        30    left 0
    """)  # fmt: skip


@pytest.mark.parametrize("place", ["60001", "70000", "-5000"])
def test_a_segment_that_is_refused_has_no_pointer(place: str) -> None:
    script = Script()
    script.run(OPENED)
    script.run(f"20 < AU {place} ack 1 win 60000 urg 500\n20 > A 1 ack 1\n20 left 0")
    assert told(script) == 0


# ---- what leaves ----


def test_must_62_the_pointer_is_of_the_byte_behind_the_urgent_data() -> None:
    """On all that stands before it, and on nothing after."""
    play(OPENED + """
        20    write 1500
        20    > A 1:1001 ack 1 urg 0
        20    urgent 100
        20    > PAU 1001:1601 ack 1 urg 600
        30    < A 1 ack 1601 win 60000
        30    write 100
        30    > PA 1601:1701 ack 1 urg 0
    """)  # fmt: skip


def test_each_segment_has_its_own_pointer() -> None:
    """Units are cut by the core, which copies the header: these are cut here."""
    play(ACCEPTED + """
        20    urgent 2500
        20    > AU 1:1001 ack 1 urg 2500 cut 0
        20    > AU 1001:2001 ack 1 urg 1500 cut 0
        20    > PAU 2001:2501 ack 1 urg 500 cut 0
        30    < A 1 ack 2501 win 60000
        30    write 3000
        30    > PA 2501:5501 ack 1 urg 0 cut 1000
    """)  # fmt: skip


def test_what_is_written_behind_is_not_urgent() -> None:
    play("""
        0     connect
        0     > S 0
        5     urgent 1500
        5     write 1000
        10    < SA 0 ack 1 win 60000 mss 1000
        10    > AU 1:1001 ack 1 urg 1500
        10    > AU 1001:2001 ack 1 urg 500
        10    > PA 2001:2501 ack 1 urg 0
    """)


def test_a_fin_leaves_with_the_last_of_them() -> None:
    play(STATES["SYN-RECEIVED"] + """
        5     urgent 2000
        5     close
        10    < A 1 ack 1 win 60000
        10    > AU 1:1001 ack 1 urg 2000
        10    > FPAU 1001:2001 ack 1 urg 1000
    """)  # fmt: skip


def test_must_31_a_pointer_says_no_more_than_it_can() -> None:
    settings = replace(PLAIN, segment=40_000, send_buffer=1 << 20)
    play(
        """
        0     connect
        0     > S 0
        10    < SA 0 ack 1 win 65535 mss 40000
        10    > A 1 ack 1
        20    urgent 100000
        20    > AU 1:40001 ack 1 urg 65535
        30    < A 1 ack 40001 win 65535
        30    > AU 40001:80001 ack 1 urg 60000
        30    > PAU 80001:100001 ack 1 urg 20000
    """,
        settings,
    )


def test_a_retransmission_carries_it() -> None:
    """And what was sent before the user wrote urgent data does then, too."""
    play(SELECTING + """
        20    write 1000
        20    > PA 1:1001 ack 1
        20    urgent 1
        20    > PAU 1001:1002 ack 1 urg 1
        40    > PAU 1001:1002 ack 1 urg 1
        240   > AU 1:1001 ack 1 urg 1001
        250   < A 1 ack 1002 win 60000
        260   abort
        260   > RA 1002 ack 1 urg 0
    """, replace(SELECTIVE, nodelay=True))  # fmt: skip


def test_it_waits_for_neither_nagle_nor_a_cork() -> None:
    script = play(OPENED + "20 write 1\n20 > PA 1:2 ack 1")
    script.connection.sender.corked = True
    script.run("""
        21    write 1
        21    quiet
        22    urgent 1
        22    > PAU 2:4 ack 1 urg 2
        30    < A 1 ack 4 win 60000
        30    write 1
        30    quiet
    """)


CLOSED = OPENED + """
20    write 1000
20    > PA 1:1001 ack 1
30    < A 1 ack 1001 win 0
"""  # fmt: skip


def test_a_closed_window_keeps_the_pointer_back_no_longer_than_others_the_data() -> None:
    """It leaves at once, once; and with each probe of the window."""
    play(CLOSED + """
        40    urgent 5
        40    > AU 1001 ack 1 urg 5
        240   > AU 1001:1002 ack 1 urg 5
        245   < A 1 ack 1001 win 0
        245   urgent 5
        245   > AU 1001 ack 1 urg 10
        300   < A 1 ack 1001 win 60000
        300   > AU 1001:1002 ack 1 urg 10
        300   > PAU 1002:1011 ack 1 urg 9
    """)  # fmt: skip


def test_a_reset_has_no_pointer() -> None:
    """And it stands where the peer expects it, not behind what a closed window refused."""
    play(CLOSED + """
        40    urgent 5
        40    > AU 1001 ack 1 urg 5
        240   > AU 1001:1002 ack 1 urg 5
        250   abort
        250   > RA 1001 ack 1 urg 0
    """)  # fmt: skip


def test_a_congestion_window_does_not_keep_the_pointer_back() -> None:
    play(OPENED + """
        20    write 10000
        20    > PA 1:10001 ack 1
        21    urgent 1000
        21    > AU 10001 ack 1 urg 1000
        30    < A 1 ack 10001 win 60000
        30    > PAU 10001:11001 ack 1 urg 1000
    """)  # fmt: skip


def test_blocks_that_are_owed_leave_before_it() -> None:
    """Beside a full payload there is no room for them, and the core must not cut it."""
    script = play(SELECTING, SELECTIVE)
    script.arrive("PA 101:201 ack 1 win 60000")
    script.connection.write(content(1, 1501), urgent=True)
    script.run("""
        10    > A 1501 ack 1 sack 101-201 urg 0
        10    > AU 1:1001 ack 1 urg 1500 cut 0
        10    > PAU 1001:1501 ack 1 urg 500 cut 0
    """)


def test_what_is_urgent_before_the_connection_stands_is_not_on_the_syn() -> None:
    play("""
        0     connect
        0     > S 0 urg 0
        0     urgent 10
        1000  > S 0 urg 0
        1010  < SA 0 ack 1 win 60000 mss 1000
        1010  > PAU 1:11 ack 1 urg 10
    """)


def test_nothing_is_urgent_once_it_is_acknowledged() -> None:
    """Neither on keepalives, whose place is before the last byte."""
    play(OPENED + """
        20    urgent 10
        20    > PAU 1:11 ack 1 urg 10
        30    < A 1 ack 11 win 60000
        1030  > A 10 ack 1 urg 0
        1040  < A 1 ack 11 win 60000
    """, replace(PLAIN, keepalive=10**9))  # fmt: skip
