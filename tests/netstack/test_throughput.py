"""How fast, as facts of virtual time: 25 ms each way, one bulk sender."""

from __future__ import annotations

import pytest

from tests.netstack.simulator import MBIT, MS, throughput

# Deep queue: one product of bandwidth and delay.
LOSSY: dict[str, int] = {"rate": 100 * MBIT, "queue": 625_000, "delay": 25 * MS, "tick": MS}


@pytest.mark.parametrize(("loss", "least"), [(0.001, 85.0), (0.01, 78.0)])
def test_bbr_keeps_its_rate_where_loss_says_nothing_about_the_path(
    loss: float, least: float
) -> None:
    bbr, _ = throughput(5, loss=loss, **LOSSY)
    cubic, _ = throughput(5, congestion="cubic", loss=loss, **LOSSY)
    assert bbr >= least
    assert bbr >= 4 * cubic


def test_holes_stop_nothing_where_much_is_in_flight() -> None:
    """1 % at 300 Mbit/s on a busy event loop: while holes are filled, thousands of pieces wait at
    the receiver, the sender's buffer holds round trips of data, and the timer may not fire.
    """
    reached, world = throughput(2, loss=0.01, rate=300 * MBIT, queue=6_000_000, delay=25 * MS,
                                tick=MS // 4, wake=10 * MS)  # fmt: skip
    recovery = world.connections[0].sender.recovery
    assert reached >= 150
    assert recovery.rate.lost <= 0.015 * recovery.rate.delivered


def test_a_busy_machine_does_not_pass_for_a_slow_path() -> None:
    """The loop runs for up to 2 ms and stands still for up to 30 ms, beside others. The path is
    never full, so each rate that is measured is below the one that it was sent at.
    """
    reached, _ = throughput(3, loss=0.01, rate=100 * MBIT, queue=2_000_000, delay=25 * MS,
                            tick=MS, busy=(2 * MS, 30 * MS))  # fmt: skip
    assert reached >= 60


def test_a_shallow_queue_is_neither_wasted_nor_kept_full() -> None:
    reached, world = throughput(8, rate=100 * MBIT, queue=125_000, delay=25 * MS, tick=MS)
    assert reached >= 85
    assert world.connections[0].sender.recovery.trip.smoothed <= 55 * MS


def test_startup_does_not_send_a_window_at_once() -> None:
    """Its first rate is of the handshake's round trip: ten segments in 50 ms, times 2.77."""
    _, world = throughput(0.1, rate=100 * MBIT, queue=125_000, delay=25 * MS)
    control = world.connections[0].sender.recovery.control
    assert control.pacing_rate is not None
    assert control.pacing_rate <= 2.77 * 10 * 1360 / 0.05
    assert world.paths[0].queued <= 5_000


@pytest.mark.parametrize("congestion", ["bbr", "cubic", "newreno"])
def test_a_clean_path_is_filled(congestion: str) -> None:
    reached, _ = throughput(4, congestion=congestion, rate=20 * MBIT, queue=125_000,
                            delay=25 * MS, tick=MS)  # fmt: skip
    assert reached >= 15


@pytest.mark.parametrize("congestion", ["bbr", "cubic", "newreno"])
def test_marks_instead_of_drops(congestion: str) -> None:
    """RFC 3168: a queue that marks stays short, the link busy, and nothing is dropped at all."""
    from tests.netstack.simulator import Application, World
    from tunnel.netstack.settings import Settings

    world = World(
        1, a=Application(bytes(3_000_000)), b=Application(keep=False),
        path={"rate": 20 * MBIT, "queue": 250_000, "mark_above": 40_000, "delay": 10 * MS},
        settings=Settings(congestion=congestion, ecn=True),
    )  # fmt: skip
    world.run(1.9)  # 1.2 s at the link's rate
    assert world.applications[1].count == 3_000_000
    assert world.paths[0].dropped == 0
    assert world.paths[0].queued < 200_000
    assert world.connections[0].sender.recovery.trip.smoothed < 45 * MS


def test_bbr_answers_marks_where_only_marks_tell_of_the_queue() -> None:
    """The draft's section on ECN: whoever says ECT must treat CE as congestion."""
    from tests.netstack.simulator import Application, World
    from tunnel.netstack.settings import Settings

    kept = {}
    for ecn in (False, True):
        world = World(
            1, a=Application(bytes(20_000_000), closes=False), b=Application(keep=False),
            path={"rate": 20 * MBIT, "queue": 500_000, "mark_above": 20_000, "delay": 10 * MS},
            settings=Settings(ecn=ecn),
        )  # fmt: skip
        world.run(0.5)
        world.paths[0].queued = 0  # after startup
        world.run(2.5)
        kept[ecn] = world.paths[0].queued, world.applications[1].count
    assert kept[True][0] <= 0.8 * kept[False][0]
    assert kept[True][1] >= 0.85 * 3 * 20 * MBIT


def test_a_rest_that_nagle_keeps_back_is_no_measure_of_the_path() -> None:
    """The user has no more: little is in flight, and a loss of it is no sign of a full path."""
    _, world = throughput(0.5, delay=25 * MS)
    connection = world.connections[0]
    world.applications[0].data = b""
    world.run(2)
    connection.write(bytes(50 * connection.segment_size + 100))
    connection.segments_to_send(world.now)
    sender = connection.sender
    assert sender.nxt == sender.end - 100
    assert list(sender.recovery.flight)[-1].app_limited
