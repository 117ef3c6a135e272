"""The README's program, as it stands there, against a real gateway in the demonstration's lab."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.demolib.lab import SERVER, TUNNEL_PORT, DemoLab
from tools.demolib.output import Output
from tools.demolib.ping import Ping
from tools.demolib.service import Service
from tools.demolib.story import READY
from tools.demolib.tap import Tap
from tools.demolib.tunnels import Tunnels
from tools.netlab import Lab

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.root


def program() -> str:
    """Return the README's one program."""
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(text)


@pytest.fixture
def network(lab: Lab) -> DemoLab:
    return DemoLab(lab)


@pytest.fixture
def tunnels(lab: Lab, network: DemoLab, tmp_path: Path) -> Iterator[Tunnels]:
    """The configuration of both ends, and the gateway's end running."""
    ends = Tunnels(tmp_path, lab.tag, outlive=False)
    ends.write()
    gateway: Service = ends.start_gateway(network.gateway)
    gateway.wait(READY, "the gateway")
    yield ends
    assert gateway.stop() == 0, gateway.tell()


def test_the_readmes_program(network: DemoLab, tunnels: Tunnels, tmp_path: Path) -> None:
    text = program()
    assert 15 <= len(text.splitlines()) <= 30, "some twenty lines, the README says"
    file = tmp_path / "mytunnel.py"
    file.write_text(text)
    before = network.footprint()
    taps = [Tap(router, "down0", TUNNEL_PORT) for router in (network.wifi, network.cellular)]
    process = network.client.start(
        [sys.executable, str(file), str(tmp_path / f"{tunnels.client_interface}.conf")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    output = Output(process)
    line = output.wait("is connected", "the program to be connected").text
    assert line.startswith(f"{tunnels.client_interface} is connected: wwan0 (cellular")

    ping = Ping(network.client, SERVER)
    ping.wait_answers(10, "through the program's tunnel")
    ping.stop()
    wifi, cellular = (tap.read() for tap in taps)
    assert (wifi.outer, wifi.other, cellular.other) == (0, 0, 0)
    assert cellular.outer >= 20

    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert set(network.footprint().splitlines()) == set(before.splitlines())
