"""Stack against stack in virtual time: whatever the path does, the bytes come out equal."""

from __future__ import annotations

from random import Random

import pytest

from tests.netstack.simulator import MBIT, MS, SECOND, START, Application, World
from tunnel.netstack.endpoint import EventKind, Reason
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State

PATHS: dict[str, dict[str, int | float]] = {
    "clean": {},
    "loss 1 %": {"loss": 0.01},
    "loss 10 %": {"loss": 0.1, "jitter": 2 * MS},
    "loss 30 %": {"loss": 0.3, "jitter": 2 * MS},
    "reordering": {"reordering": 0.2, "jitter": 5 * MS},
    "duplication": {"duplication": 0.3, "jitter": 2 * MS},
    "everything": {"loss": 0.05, "reordering": 0.1, "duplication": 0.1, "jitter": 5 * MS},
    "narrow": {"rate": 2 * MBIT, "queue": 10_000, "loss": 0.02},
}


def exchange(seed: int, size: int = 40_000, **world: object) -> World:
    """Both sides write, read everything and close; both must have received the other's bytes."""
    random = Random(seed)
    one, other = random.randbytes(size), random.randbytes(size // 3)
    a, b = Application(one), Application(other)
    made = World(seed, a=a, b=b, **world)  # type: ignore[arg-type]
    made.run()
    assert b.received == one, f"seed {seed}"
    assert a.received == other, f"seed {seed}"
    assert {a.reason, b.reason} == {Reason.FINISHED}, f"seed {seed}"
    assert {c.state for c in made.connections} == {State.CLOSED}
    return made


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_bytes_are_equal(path: dict[str, int | float]) -> None:
    for seed in range(20):
        exchange(seed, path=path)


@pytest.mark.parametrize("congestion", ["bbr", "cubic", "newreno"])
def test_with_every_congestion_control(congestion: str) -> None:
    for seed in range(10):
        exchange(seed, path=PATHS["everything"], settings=Settings(congestion=congestion))


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("scaling", [True, False])
def test_with_and_without_each_option(timestamps: bool, selective: bool, scaling: bool) -> None:
    lacking = Settings(timestamps=timestamps, selective=selective, scaling=scaling)
    for seed in range(4):
        made = exchange(seed, path=PATHS["everything"], settings=(Settings(), lacking))
        assert made.connections[0].state is made.connections[1].state


@pytest.mark.parametrize("window", [1, 10, 500, 3000])
def test_tiny_windows(window: int) -> None:
    settings = Settings(), Settings(receive_buffer=window, receive_most=window)
    for seed in range(3):
        exchange(seed, size=60 * window if window < 100 else 20_000, settings=settings,
                 path={"loss": 0.05})  # fmt: skip


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_tiny_windows_where_a_third_is_lost(window: int) -> None:
    """Each byte waits for the one before it, and for the timer in half of the cases."""
    settings = Settings(), Settings(receive_buffer=window, receive_most=window)
    for seed in range(18, 24):
        exchange(seed, size=60 * window, settings=settings, path={"loss": 0.3})


def test_a_reader_that_pauses_closes_the_window_and_opens_it_again() -> None:
    for seed in range(5):
        data = Random(seed).randbytes(60_000)
        slow = Application(bite=7_000, pause=1_500 * MS)
        made = World(seed, a=Application(data), b=slow, path={"loss": 0.1},
                     settings=Settings(receive_buffer=8_000, receive_most=8_000))  # fmt: skip
        made.keep_log = True
        made.run()
        assert slow.received == data
        closed = [s for _, side, s in made.log if side == 1 and not s.window and not s.flags & 6]
        assert closed


def test_a_window_closed_for_an_hour_kills_nothing() -> None:
    data = bytes(30_000)
    reader = Application(bite=9_000, pause=3_600_000 * MS)
    reader.next_read = 3_600_000 * MS
    made = World(1, a=Application(data), b=reader,
                 settings=Settings(receive_buffer=9_000, receive_most=9_000))  # fmt: skip
    made.run(seconds=20 * 3600)
    assert reader.received == data
    assert made.applications[0].reason is Reason.FINISHED


def test_simultaneous_open() -> None:
    for seed in range(20):
        exchange(seed, path={"loss": 0.1, "jitter": 3 * MS}, simultaneous=True)


def test_half_close_lets_the_other_side_go_on() -> None:
    """b sends only after it has seen a's FIN."""
    for seed in range(10):
        answer = Random(seed).randbytes(50_000)
        a, b = Application(b"question"), Application(closes=False)
        made = World(seed, a=a, b=b, path={"loss": 0.05})
        made.run(seconds=30)
        assert made.connections[0].state is State.FIN_WAIT_2
        assert made.connections[1].state is State.CLOSE_WAIT
        assert EventKind.FINISHED in {event.kind for event in b.events}
        b.data, b.closes = answer, True
        made._pump(1)
        made.run()
        assert a.received == answer
        assert a.reason is b.reason is Reason.FINISHED


def test_a_dead_path_ends_in_a_timeout() -> None:
    made = World(1, a=Application(bytes(10_000), closes=False), b=Application(closes=False))
    made.run(seconds=0.03)
    for path in made.paths:
        path.loss = 1.0
    made.applications[0].data += bytes(1000)
    made._pump(0)
    made.run()
    assert made.applications[0].reason is Reason.TIMED_OUT


def test_a_silent_peer_ends_the_opening() -> None:
    made = World(1, path={"loss": 1.0})
    made.run()
    assert made.applications[0].reason is Reason.TIMED_OUT
    assert 180 <= (made.now - START) / SECOND <= 181


def test_a_small_path_mtu_found_late() -> None:
    for seed in range(5):
        data = Random(seed).randbytes(200_000)
        b = Application()
        made = World(seed, a=Application(data), b=b, path={"loss": 0.01, "rate": 20 * MBIT})
        made.run(seconds=0.06)
        made.connections[0].path_segment(500)
        made.run()
        assert b.received == data
        assert made.connections[0].segment_size == 488


@pytest.mark.parametrize("timestamps", [True, False])
def test_heavy_loss_does_not_leave_the_timer_backed_off(timestamps: bool) -> None:
    """Where everything is lost once, no sample ends the backing off; progress has to."""
    for seed in range(8):
        settings = Settings(timestamps=timestamps, selective=False, congestion="newreno")
        made = exchange(seed, size=30_000, settings=settings, path={"loss": 0.3, "jitter": MS})
        assert made.now - START < 300 * SECOND


def test_arbitrary_settings_on_arbitrary_paths() -> None:
    for seed in range(60):
        random = Random(seed)

        def arbitrary(random: Random = random) -> Settings:
            window = random.choice((100, 1500, 9000, 65_535))
            return Settings(
                timestamps=random.random() < 0.7,
                selective=random.random() < 0.8,
                scaling=random.random() < 0.7,
                ecn=random.random() < 0.3,
                nodelay=random.random() < 0.5,
                pacing=random.random() < 0.8,
                congestion=random.choice(("bbr", "cubic", "newreno")),
                segment=random.choice((200, 536, 1360, 9000)),
                receive_buffer=window,
                receive_most=max(window, random.choice((0, 1 << 20))),
                send_buffer=random.choice((2_000, 100_000)),
            )

        path: dict[str, int | float] = {
            "loss": random.choice((0.0, 0.01, 0.1)),
            "jitter": random.choice((0, MS, 20 * MS)),
            "duplication": random.choice((0.0, 0.1)),
            "reordering": random.choice((0.0, 0.2)),
            "rate": random.choice((0, MBIT, 10 * MBIT)),
            "delay": random.choice((MS // 10, 10 * MS, 300 * MS)),
            "tick": random.choice((0, MS)),
        }
        exchange(seed, size=random.randrange(8_000), settings=(arbitrary(), arbitrary()), path=path)


def test_a_connection_that_backed_off_goes_on_when_it_is_nudged() -> None:
    """The path carries again: without a word of it the next try would be seconds away."""
    waits = []
    for nudged in (False, True):
        data = bytes(2_000_000)
        world = World(1, a=Application(data), path={"rate": 20 * MBIT, "delay": 10 * MS})
        world.run(0.3)
        world.paths[0].loss = 1.0
        world.run(17.7)
        world.now = world.paths[0]._free_at = START + 18 * SECOND
        world.paths[0].loss = 0.0
        if nudged:
            world.connections[0].nudge(world.now)
            world._pump(0)
        while world.applications[1].count < len(data) and world.step():
            pass
        assert world.applications[1].received == data
        waits.append(world.now - START - 18 * SECOND)
    assert waits[0] > 5 * SECOND
    assert waits[1] < 3 * SECOND
