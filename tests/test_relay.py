"""tools/relay on loopback: real datagrams, real signals; tests/test_relay_path.py has the model.

No test sends more at once than a socket's default buffer takes: loopback drops the rest.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path as File

import pytest

from tools.relaylib.profiles import PROFILES
from tools.relaylib.relay import Relay, parse_address
from tools.relaylib.report import render
from tools.relaylib.settings import OPTIONS, Link, Path, SettingsError, changed, describe, parse

PROGRAM = File(__file__).parent.parent / "tools" / "relay"
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
UDP_SEGMENT = 103
PATIENCE = 20.0  # seconds; what is wanted comes at once, on a machine that is not busy


def udp(family: int = socket.AF_INET) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.bind((LOOPBACK[family], 0))
    opened.settimeout(PATIENCE)
    return opened


@contextmanager
def relayed(
    path: Path | None = None,
    *,
    family: int = socket.AF_INET,
    to_family: int | None = None,
    **options: float,
) -> Iterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, a far end, and a client that is connected to the relay."""
    with ExitStack() as stack:
        far = stack.enter_context(udp(to_family or family))
        relay = stack.enter_context(
            Relay((LOOPBACK[family], 0), far.getsockname()[:2], path or Path(), **options)  # type: ignore[arg-type]
        )
        near = stack.enter_context(udp(family))
        near.connect(relay.address)
        yield relay, near, far


def received(on: socket.socket) -> list[bytes]:
    """Everything up to an empty datagram."""
    found = []
    while data := on.recv(65535):
        found.append(data)
    return found


@pytest.mark.parametrize("family", LOOPBACK)
@pytest.mark.parametrize("to_family", LOOPBACK)
def test_datagrams_of_every_size_go_there_and_back(family: int, to_family: int) -> None:
    with relayed(family=family, to_family=to_family) as (relay, near, far):
        for size in (0, 1, 1472, 9000, 65_507 - 20):
            sent = os.urandom(size)
            near.send(sent)
            data, address = far.recvfrom(65535)
            assert data == sent
            far.sendto(data[::-1], address)
            assert near.recv(65535) == sent[::-1]
        found = relay.stop()
        for direction in ("up", "down"):
            assert found[direction]["datagrams"] == found[direction]["sent"] == 5
            assert found[direction]["bytes"] == 1 + 1472 + 9000 + 65_507 - 20


def test_nothing_is_early() -> None:
    """But by what is gathered to be sent at once, 0.05 ms. Late it may be, on a busy machine."""
    with relayed(Path(Link(delay=25), Link(delay=40))) as (_, near, far):
        for _ in range(5):
            begun = time.monotonic()
            near.send(b"there")
            _, address = far.recvfrom(100)
            there = time.monotonic()
            far.sendto(b"back", address)
            near.recv(100)
            back = time.monotonic()
            assert there - begun >= 0.025 - 5e-5
            assert back - there >= 0.040 - 5e-5


def test_the_order_is_kept_through_rate_and_jitter() -> None:
    with relayed(Path(Link(delay=5, jitter=5, rate=100, queue=1e6))) as (relay, near, far):
        for number in range(150):
            near.send(number.to_bytes(2, "big") * 100)
        near.send(b"")
        found = [int.from_bytes(data[:2], "big") for data in received(far)]
        assert found == list(range(150))
        assert relay.stop()["up"]["queue_highest"] >= 228


def test_reordering_is_seen_and_counted() -> None:
    path = Path(Link(delay=10, reorder=20))
    with relayed(path, seed=3) as (relay, near, far):
        for number in range(200):
            near.send(number.to_bytes(2, "big"))
        found = [int.from_bytes(far.recv(100), "big") for _ in range(200)]
        assert sorted(found) == list(range(200))
        highest, late = -1, 0
        for number in found:
            late += number < highest
            highest = max(highest, number)
        assert late > 10
        assert relay.stop()["up"]["reordered"] == late


def test_a_seed_decides_what_is_lost_doubled_and_spoiled() -> None:
    path = Path(Link(loss=20, duplicate=20, corrupt=20))

    def run(seed: int) -> list[bytes]:
        with relayed(path, seed=seed) as (relay, near, far):
            for number in range(200):
                near.send(bytes([number]) * 50)
            found = relay.report()["up"]
            while (
                found["datagrams"] < 200
                or found["sent"] < 200 - found["lost"] + found["duplicated"]
            ):
                found = relay.report()["up"]
            assert found["sent"] == 200 - found["lost"] + found["duplicated"]
            assert 0 < found["corrupted"] < 200
            return [far.recv(100) for _ in range(found["sent"])]

    first = run(11)
    assert first == run(11)
    assert first != run(12)
    assert any(len(set(data)) > 1 for data in first)


def test_the_queue_drops_what_does_not_fit() -> None:
    with relayed(Path(Link(rate=0.5, queue=10_000))) as (relay, near, _):
        for _ in range(50):
            near.send(bytes(972))  # 1,000 bytes on the link, 16 ms each
        found = relay.report()["up"]
        while found["datagrams"] < 50:
            found = relay.report()["up"]
        assert found["dropped"] >= 30
        assert 9_000 < found["queue_highest"] <= 10_000


def test_a_super_datagram_is_taken_as_single_ones() -> None:
    with relayed() as (_, near, far):
        near.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        near.send(b"".join(bytes([number]) * 1000 for number in range(20)))
        assert [far.recv(65535) for _ in range(20)] == [bytes([n]) * 1000 for n in range(20)]


def test_clients_are_told_apart() -> None:
    with relayed() as (relay, near, far), udp() as second:
        second.connect(relay.address)
        near.send(b"first")
        second.send(b"second")
        heard = dict(far.recvfrom(100) for _ in range(2))
        assert len(set(heard.values())) == 2
        for data, address in heard.items():
            far.sendto(b"to " + data, address)
        assert near.recv(100) == b"to first"
        assert second.recv(100) == b"to second"
        near.send(b"again")
        assert far.recvfrom(100)[1] == heard[b"first"]
        assert relay.stop()["clients"] == 2


@pytest.mark.parametrize(("listen", "asked"), [("0.0.0.0", "127.0.0.2"), ("::", "127.0.0.2")])
def test_answers_come_from_the_address_that_was_asked(listen: str, asked: str) -> None:
    with udp() as far, Relay((listen, 0), far.getsockname(), Path()) as relay, udp() as near:
        near.connect((asked, relay.address[1]))  # takes answers from there only
        near.send(b"there")
        far.sendto(b"back", far.recvfrom(100)[1])
        assert near.recv(100) == b"back"


def test_there_are_at_most_so_many_clients_until_one_is_idle() -> None:
    with relayed(clients=1, idle=0.3) as (relay, near, far), udp() as second:
        second.connect(relay.address)
        near.send(b"first")
        assert far.recv(100) == b"first"
        second.send(b"too many")
        deadline = time.monotonic() + PATIENCE
        while not relay.report()["refused"]:
            near.send(b"busy")  # and so not idle
            assert time.monotonic() < deadline
        while relay.report()["clients"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        second.send(b"now")
        while (data := far.recv(100)) == b"busy":
            pass
        assert data == b"now"
        assert relay.stop()["clients_seen"] == 2


def test_a_far_end_that_is_not_there_ends_nothing() -> None:
    with udp() as taken:
        absent = taken.getsockname()
    with Relay(("127.0.0.1", 0), absent, Path()) as relay, udp() as near:
        near.connect(relay.address)
        for _ in range(100):
            near.send(b"into the void")
        while relay.report()["up"]["datagrams"] < 100:
            pass
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(absent)
            far.settimeout(PATIENCE)
            near.send(b"there now")
            while (data := far.recv(100)) == b"into the void":
                pass
            assert data == b"there now"


def start(*words: str) -> subprocess.Popen[str]:
    """The program, ready: it has said so, on standard error."""
    process = subprocess.Popen(
        [PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    said = process.stderr.readline()
    assert "seed" in said, said + process.stderr.read()
    return process


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_signals_print_statistics(sign: signal.Signals) -> None:
    with udp() as far:
        to = f"127.0.0.1:{far.getsockname()[1]}"
        process = start("--listen", "127.0.0.1:0", "--to", to, "--profile", "lte", "--json")
        assert process.stdout
        process.send_signal(signal.SIGUSR1)
        assert json.loads(process.stdout.readline())["up"]["datagrams"] == 0
        process.send_signal(sign)
        rest, errors = process.communicate(timeout=PATIENCE)
        assert json.loads(rest)["schema"] == 1
        assert process.returncode == 0
        assert not errors


def test_statistics_are_a_table_for_people() -> None:
    process = start("--listen", "[::1]:0", "--to", "[::1]:9", "--delay", "20/30", "--seed", "5")
    process.terminate()
    table, _ = process.communicate(timeout=PATIENCE)
    assert [line.split() for line in table.splitlines()][:2] == [
        ["up", "down"],
        ["datagrams", "0", "0"],
    ]


def test_nothing_stays_behind_when_it_is_killed() -> None:
    with udp() as taken:
        port = taken.getsockname()[1]
    process = start("--listen", f"127.0.0.1:{port}", "--to", "127.0.0.1:9")
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


GOOD = ("--listen", "127.0.0.1:0", "--to", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "127.0.0.1", "--to", "127.0.0.1:9"), "--listen 127.0.0.1: ADDR:PORT"),
        (("--listen", "::1:80", "--to", "127.0.0.1:9"), "as [ADDR]:PORT"),
        (("--listen", "127.0.0.1:70000", "--to", "127.0.0.1:9"), "0 to 65535"),
        (("--listen", "127.0.0.1:0", "--to", "127.0.0.1:0"), "1 to 65535"),
        (("--listen", "127.0.0.1:0", "--to", "no.such.host.invalid:1"), "no.such.host.invalid"),
        (("--listen", "192.0.2.1:0", "--to", "127.0.0.1:9"), "--listen 192.0.2.1:0"),
        ((*GOOD, "--profile", "dialup"), "not one of satellite, lte, lossy-wifi"),
        ((*GOOD, "--loss", "101"), "--loss 101: from 0 to 100 percent"),
        ((*GOOD, "--loss", "nan"), "--loss nan"),
        ((*GOOD, "--delay", "-1"), "--delay -1"),
        ((*GOOD, "--delay", "fast"), "a number of ms"),
        ((*GOOD, "--rate", "1/2/3"), "two as UP/DOWN"),
        ((*GOOD, "--queue", "5000"), "--rate"),
        ((*GOOD, "--queue", "500", "--rate", "5"), "1500 bytes"),
        ((*GOOD, "--jitter", "5"), "more than the delay"),
        ((*GOOD, "--seed", "x"), "--seed x"),
        ((*GOOD, "--clients", "0"), "--clients 0"),
        ((*GOOD, "--idle", "0"), "--idle 0"),
        ((*GOOD, "--stats", "0"), "--stats 0"),
    ],
)
def test_bad_input_is_one_clear_line(words: tuple[str, ...], said: str) -> None:
    from tools.relaylib.__main__ import _parser, _settings

    with pytest.raises(SettingsError) as error:
        _settings(_parser().parse_args(words))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_input_ends_with_the_code_for_usage() -> None:
    done = subprocess.run(
        [PROGRAM, *GOOD, "--loss", "200"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tools/relay: --loss 200")
    assert len(done.stderr.splitlines()) == 1


def test_options_override_the_profile_each_way() -> None:
    path = changed(PROFILES["lte"].path, {"rate": "20/100", "loss": "1"})
    assert (path.up.rate, path.down.rate) == (20, 100)
    assert path.up.loss == path.down.loss == 1
    assert path.up.delay == PROFILES["lte"].path.up.delay
    assert "rate 20/100 Mbit/s" in describe(path)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_make_sense(name: str) -> None:
    assert changed(PROFILES[name].path, {}) == PROFILES[name].path


def test_one_value_is_for_both_directions() -> None:
    (delay,) = (option for option in OPTIONS if option.name == "delay")
    assert parse(delay, "5") == (5, 5)
    assert parse(delay, "5/7.5") == (5, 7.5)


def test_addresses_are_read() -> None:
    assert parse_address("--to", "[fe80::1%lo]:5") == ("fe80::1%lo", 5)
    assert parse_address("--to", "localhost:65535") == ("localhost", 65535)


def test_what_the_machine_could_not_take_is_said() -> None:
    link = dict.fromkeys(
        ("datagrams", "bytes", "lost", "dropped", "reordered", "duplicated", "corrupted", "sent",
         "failed", "queue_highest", "queue_average", "seconds"), 7
    )  # fmt: skip
    found = {"up": link, "down": link, "clients": 1, "clients_seen": 2, "refused": 3, "overrun": 4}
    assert "4 datagrams came faster" in render(found)
    assert "3 datagrams of further ones refused" in render(found)
