"""The README's program, run as it stands there."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.netns.command import Program
from tests.netns.world import FAR, INNER, make_world
from tests.netstack.certificates import contexts
from tools.netlab import Lab

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]


def test_the_program_in_the_readme_runs_a_tunnel(lab: Lab, tmp_path: Path) -> None:
    (program,) = re.findall(
        r"```python\n(import asyncio\n.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len(program.splitlines()) < 30, "some twenty lines are promised"
    script = tmp_path / "mytunnel.py"
    script.write_text(program)
    world = make_world(lab, tmp_path)
    running = Program(world.client, sys.executable, str(script), str(world.config))
    assert f"{world.interface} is connected: wwan0" in running.expect("is connected")
    assert world.ping()
    assert world.outer("wwan0") > 3
    assert world.outer("wlan0") == 0
    running.end(signal.SIGINT)
    assert world.leftovers() == []


WEBSITE = """
import http.server, ssl, sys
server = http.server.HTTPServer((sys.argv[1], 443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serving", flush=True)
server.serve_forever()
"""


def test_the_program_that_fetches_over_tls_while_all_else_is_blocked(
    lab: Lab, tmp_path: Path
) -> None:
    (program,) = re.findall(
        r"```python\n(# fetch.py.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    wait = "print((await reader.read()).decode(), flush=True)\n"
    assert wait in program
    script = tmp_path / "fetch.py"
    script.write_text(program.replace(wait, wait + "        await session.wait_stopped()\n"))
    world = make_world(lab, tmp_path)
    contexts(tmp_path, INNER)
    certificate = str(tmp_path / "inside.pem")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("inside the tunnel")
    site = Program(
        world.server, "env", "-C", str(folder), sys.executable, "-c", WEBSITE, INNER, certificate
    )
    site.expect("serving")
    assert world.ping(FAR, count=1)  # control: outside the tunnel all is open yet
    running = Program(
        world.client, sys.executable, str(script), str(world.config), INNER, certificate
    )
    assert running.expect("inside the tunnel")
    assert not world.ping(FAR, count=1, check=False)
    assert not world.ping("10.1.0.1", count=1, check=False)
    running.end(signal.SIGINT)
    site.end(signal.SIGTERM)
    assert world.ping(FAR, count=1)
    assert world.leftovers() == []
