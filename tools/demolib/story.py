"""What the demonstration does, in order, and what it measures on the way.

Every part ends when an event has been seen: so many answers to ping, so many pings without one, a
link's carrier lost. Counting never pauses: a part's packets are those since the part before.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Final

from tools.demolib import probes
from tools.demolib.errors import DemoError
from tools.demolib.lab import CELLULAR, SERVER, SERVER6, TUNNEL_PORT, WIFI, DemoLab
from tools.demolib.output import Output
from tools.demolib.ping import Answers, Ping, answers
from tools.demolib.report import Check, Findings, Kind, Part, milliseconds
from tools.demolib.service import Service
from tools.demolib.tap import Count, Tap
from tools.demolib.tunnels import Tunnels, tunnelctl
from tools.netlab import Namespace

#: Pings that make a part of the story: a second's worth.
PINGS: Final = 50
#: Seconds of each bulk transfer.
BULK_SECONDS: Final = 3
#: Bytes of the file that HTTP fetches.
FILE_BYTES: Final = 4 << 20

#: What tunneld prints once the handshake is done (a status of contract.md).
CONNECTED: Final = ": connected: "

#: The preferences that the running tunnel is given in turn, and what it prints once it has moved.
MOVES: Final = (("wifi,cellular", f"moved to {WIFI}"), ("cellular,wifi", f"moved to {CELLULAR}"))

#: What the demonstration is about.
BOUND: Final = ("--bind", "cellular")

Say = Callable[[str], None]


class Story:
    """Tells the story in a lab; `findings` has what was measured, also when it ends early."""

    def __init__(self, lab: DemoLab, tunnels: Tunnels, say: Say) -> None:
        self.lab = lab
        self.tunnels = tunnels
        self.findings = Findings()
        self.services: list[Service] = []
        self._say = say
        self._file = os.urandom(FILE_BYTES)
        self._started = 0.0
        self._taps = [Tap(router, "down0", TUNNEL_PORT) for router in (lab.wifi, lab.cellular)]
        self._seen = [Count(), Count()]
        self._links = Output(
            lab.client.start(
                ["ip", "-o", "monitor", "link"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    def tell(self) -> None:
        """Go through all of it. Raises DemoError where it cannot go on."""
        self._serve()
        before = self.lab.footprint()
        tunnel = self._connect(*BOUND)
        self._use()
        self._drop_wifi()
        self._drop_cellular()
        self._move()
        self._disconnect(tunnel, before)
        self._control()
        self._close(before)

    def leave_bound(self) -> None:
        """After the story: end the control, and start what it was about once more (--keep)."""
        self.services[-1].stop()
        self._connect(*BOUND)

    def others(self) -> list[bytes]:
        """Return the first frames that left the client though they should not have."""
        return [frame for tap in self._taps for frame in tap.others()]

    # The parts

    def _serve(self) -> None:
        self._say("the gateway starts tunneld; behind it, the server starts HTTP and iperf3")
        self.tunnels.write()
        gateway = self.tunnels.start_gateway(self.lab.gateway)
        self.services.append(gateway)
        site = self.tunnels.folder / "site"
        site.mkdir()
        (site / "file").write_bytes(self._file)
        http = [sys.executable, "-m", "tools.demolib.website", SERVER, "80", str(site)]
        iperf = ["iperf3", "--server", "--bind", SERVER, "--forceflush"]
        for title, command, ready in (
            ("HTTP server", http, "serving"),
            ("iperf3 server", iperf, "Server listening"),
        ):
            self._service(title, self.lab.server, command).wait(ready, f"the {title}")
        gateway.wait_ready()

    def _service(self, title: str, space: Namespace, command: list[str]) -> Service:
        log = self.tunnels.folder / f"{title.replace(' ', '-')}.log"
        service = Service(title, space, command, log, outlive=self.tunnels.outlive)
        self.services.append(service)
        return service

    def _connect(self, *options: str) -> Service:
        """Start the client's tunneld, and wait until it has shaken hands with the gateway's."""
        self._say(f"the client starts: {' '.join(('tunneld --config client.conf', *options))}")
        self._started = time.monotonic()
        service = self.tunnels.start_client(self.lab.client, *options)
        self.services.append(service)
        service.wait_ready()
        service.wait(CONNECTED, "tunneld in the client to be connected")
        for line in service.output.lines():
            self._say(f"    {line.text}")
        return service

    def _use(self) -> None:
        """Ping, HTTP and bulk transfers while both networks are there and Wi-Fi is preferred."""
        self._say(f"ping {SERVER}, which only the tunnel reaches ({WIFI} is the preferred way out)")
        pings = self._ping(SERVER)
        self._note_handshake()
        self._check("round trip", milliseconds(pings.times))
        self._say(f"ping {SERVER6}: IPv6 inside the same tunnel")
        self._check("round trip, IPv6", milliseconds(self._ping(SERVER6).times))
        self._fetch()
        for what, arguments in (("to the server", ()), ("to the client", ("--reverse",))):
            self._say(f"bulk transfer {what}: iperf3, one TCP stream, {BULK_SECONDS} s")
            self._check(f"bulk, {what}", f"{self._bulk(*arguments):.2f} Gbit/s")
        self._part("tunnel at work, both networks up", Kind.BOUND, pings)

    def _drop_wifi(self) -> None:
        ping = Ping(self.lab.client, SERVER)
        ping.wait_answers(10, "before Wi-Fi goes")
        for name, way, event in (
            ("Wi-Fi goes", "down", f"{WIFI}.*NO-CARRIER"),
            ("Wi-Fi comes back", "up", f"{WIFI}.*LOWER_UP"),
        ):
            self._say(f"{name}: nothing may change")
            last = ping.last_answered()
            self._switch(self.lab.wifi, way, event)
            ping.wait_answers(PINGS, f"after: {name}")
            self._part(name, Kind.BOUND, answers(ping.output.lines(), last))
        ping.stop()

    def _drop_cellular(self) -> None:
        ping = Ping(self.lab.client, SERVER)
        ping.wait_answers(10, "before cellular goes")
        self._say("cellular goes: everything must stop, though Wi-Fi is there")
        self._switch(self.lab.cellular, "down", f"{CELLULAR}.*NO-CARRIER")
        self._seen[1] = self._taps[1].read()  # what cellular carried until then was rightly there
        ping.wait_silence(PINGS, "after cellular went")
        self._part("cellular goes", Kind.CUT, note=f"{PINGS} in a row unanswered")
        self._say("cellular comes back: traffic must resume by itself")
        restored = time.monotonic()
        self._switch(self.lab.cellular, "up", f"{CELLULAR}.*LOWER_UP")
        first = ping.wait_answers(PINGS, "after cellular came back")
        note = f"again after {first.when - restored:.1f} s"
        ping.stop()
        self._part("cellular comes back", Kind.RESUMED, note=note)

    def _move(self) -> None:
        """Change the policy under a running ping: each new path is proven before it is used."""
        ping = Ping(self.lab.client, SERVER)
        ping.wait_answers(10, "before the move")
        for spec, moved in MOVES:
            self._say(f"tunnelctl set --bind {spec}: the new path is proven before the old is left")
            last, position = ping.last_answered(), self.services[-1].output.position
            tunnelctl(self.lab.client, "set", self.tunnels.client_interface, "--bind", spec)
            self.services[-1].wait(moved, f"tunneld to say that it {moved}", after=position)
            ping.wait_answers(PINGS, f"after tunneld {moved}")
            self._part(moved, Kind.MOVED, answers(ping.output.lines(), last))
        ping.stop()

    def _close(self, before: str) -> None:
        """The kill switch: other programs try to get out beside the tunnel, and cannot."""
        self.services[-1].stop()
        self._seen = [tap.read() for tap in self._taps]  # the control's last packets
        tunnel = self._connect(*BOUND, "--include-all-networks")
        self._tried("kill switch, connected", Kind.CLOSED)
        tunnel.kill()
        self._tried("tunneld killed", Kind.CLOSED)
        tunnel = self._connect(*BOUND, "--include-all-networks")
        self._tried("started again", Kind.CLOSED)
        self._disconnect(tunnel, before)
        self._tried("control: no kill switch", Kind.OPEN)

    def _tried(self, name: str, kind: Kind) -> None:
        """Let other programs try to send outside the tunnel, and count what leaves."""
        tried = probes.send(self.lab.client)
        self._say(f"{name}: {', '.join(probes.PROBES)}, {probes.TIMES} times each")
        self._part(name, kind, note=f"{tried} probes")

    def _disconnect(self, tunnel: Service, before: str) -> None:
        self._say("tunneld in the client is asked to end; it must leave nothing behind")
        code = tunnel.stop()
        self._part("tunneld ends", Kind.ENDING)
        left = set(self.lab.footprint().splitlines()) ^ set(before.splitlines())
        problem = f"ended with exit code {code}" if code else None
        if left:
            problem = "left a difference: " + "; ".join(sorted(left))
        self._check("clean-up", "links, routes and rules as before", problem)

    def _control(self) -> None:
        self._say("control: the same without --bind must use Wi-Fi, or the counts prove nothing")
        self._connect()
        pings = self._ping(SERVER)
        self._part("control: without --bind", Kind.CONTROL, pings)

    # Their tools

    def _ping(self, target: str) -> Answers:
        ping = Ping(self.lab.client, target)
        ping.wait_answers(PINGS, "through the tunnel")
        ping.stop()
        return answers(ping.output.lines())

    def _note_handshake(self) -> None:
        """Time from the start of tunneld to its first handshake, as tunneld reports it."""
        report = json.loads(
            tunnelctl(self.lab.client, "status", self.tunnels.client_interface, "--json")
        )
        ages = [peer["handshake_age"] for peer in report["peers"]]
        if not ages or ages[0] is None:
            raise DemoError("tunnelctl reports no handshake though ping was answered")
        done = time.monotonic() - ages[0] - self._started
        self._check("handshake", f"done {max(done, 0):.1f} s after tunneld was started")

    def _fetch(self) -> None:
        self._say(f"HTTP: fetch a file of {FILE_BYTES >> 20} MiB and compare it")
        start = time.monotonic()
        with self.lab.client.entered():
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{SERVER}/file", timeout=30) as answer:
                body = answer.read()
        taken = time.monotonic() - start
        same = hashlib.sha256(body).digest() == hashlib.sha256(self._file).digest()
        measured = f"{len(body) / (1 << 20):.0f} MiB in {taken:.2f} s, every byte as sent"
        self._check("HTTP", measured, None if same else "the file is not what was sent")

    def _bulk(self, *arguments: str) -> float:
        """Return the Gbit/s of one TCP stream that the receiver counted."""
        command = ["iperf3", "--client", SERVER, "--time", str(BULK_SECONDS), "--json", *arguments]
        done = self.lab.client.run(command, check=False)
        result = json.loads(done.stdout or "{}")
        if "error" in result or "end" not in result:
            raise DemoError(f"iperf3: {result.get('error', done.stderr.strip())}")
        return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9

    def _switch(self, router: Namespace, way: str, event: str) -> None:
        """Take the router's end of a client's link down or up; wait until the client noticed."""
        position = self._links.position
        router.ip(f"link set down0 {way}")
        self._links.wait(event, f"the client to notice ({event})", after=position)

    def _check(self, what: str, measured: str, problem: str | None = None) -> None:
        self.findings.checks.append(Check(what, measured, problem))
        self._say(f"    {what}: {problem or measured}")

    def _part(self, name: str, kind: Kind, pings: Answers | None = None, note: str = "") -> None:
        """Close a part of the story with what was counted since the part before."""
        counts = [tap.read() for tap in self._taps]
        wifi, cellular = (now - then for now, then in zip(counts, self._seen, strict=True))
        self._seen = counts
        part = Part(name, kind, wifi, cellular, pings, note)
        self.findings.parts.append(part)
        self._say(f"    outer packets: {wifi.outer} on {WIFI}, {cellular.outer} on {CELLULAR}")
        for problem in part.problems():
            self._say(f"    FAILED: {problem}")
