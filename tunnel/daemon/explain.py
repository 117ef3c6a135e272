"""`tunnelctl explain DEST`: which way a packet would go on this machine, and why.

Two senders are told of: a program of this machine, and the tunnel itself, whose packets carry the
mark and are bound to the path. For each the kernel is asked (`routeget`), the rule that led there
is found on a reading of the rules (`lookup`), and the packet is walked through the firewall as it
is loaded now (`nftwalk`).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Final

from tunnel.daemon.report import SCHEMA
from tunnel.errors import TunnelError, UsageError
from tunnel.policy.connection import Connection
from tunnel.policy.lookup import Packet, Tables, Verdict
from tunnel.policy.nftwalk import Passage, walk
from tunnel.policy.routeget import Answer, route_get
from tunnel.policy.rtnl import Dump, Route
from tunnel.settings import Address

TCP: Final = socket.IPPROTO_TCP
UDP: Final = socket.IPPROTO_UDP
_NFT_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: where to, and who sends. `port` 0 is one that no rule names."""

    destination: str
    port: int = 443
    udp: bool = False
    source: str | None = None
    mark: int = 0
    user: int = 0
    device: str | None = None


def explain(question: Question, ask: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the report; `ask` gets a tunneld's answer to `path`, None where none runs.

    Raises UsageError for what is no address or name, TunnelError where the kernel cannot be asked.
    """
    packets = [_packet(question, address) for address in _addresses(question.destination)]
    path = ask()
    connection = Connection()
    try:
        dump = connection.read()
        listing, no_firewall = _listing()
        names = {link.index: link.name for link in dump.links}
        explained = []
        for packet in packets:
            senders = [("a program", packet)]
            if path is not None and path["mark"] is not None:
                senders.append(("the tunnel itself", _own(packet, path)))
            for who, sent in senders:
                try:
                    answer = route_get(sent)
                except OSError as error:
                    answer = Answer(problem=error.strerror or str(error))
                verdict = Tables(dump).look_up(sent)
                one = _one(who, sent, answer, verdict, dump, names)
                one["firewall"] = _firewall(listing, no_firewall, sent, one["interface"])
                one["result"] = _result(one, path)
                explained.append(one)
    except OSError as error:
        raise TunnelError(f"the kernel cannot be asked: {error.strerror}; run as root") from error
    finally:
        connection.close()
    tunnel = None if path is None else path["interface"]
    return {"schema": SCHEMA, "interface": tunnel, "destination": question.destination,
            "packets": explained}  # fmt: skip


def _addresses(destination: str) -> list[Address]:
    try:
        return [ip_address(destination.strip("[]"))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(destination, None, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{destination!r} is no address, and no name that resolves ({why}); give an address"
        ) from error
    every = dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found)
    return [next(a for a in every if a.version == v) for v in sorted({a.version for a in every})]


def _packet(question: Question, address: Address) -> Packet:
    try:
        source = None if question.source is None else ip_address(question.source)
    except ValueError as error:
        raise UsageError(f"--from: {question.source!r} is no address") from error
    if source is not None and source.version != address.version:
        raise UsageError(f"--from: {source} and {address} are not of the same IP version")
    if question.device is not None:
        try:
            socket.if_nametoindex(question.device)
        except OSError as error:
            raise UsageError(f"--bound: there is no interface {question.device!r}") from error
    return Packet(
        address,
        source=source,
        oif=question.device,
        mark=question.mark,
        user=question.user,
        ip_protocol=UDP if question.udp else TCP,
        port=question.port,
    )


def _own(packet: Packet, path: Mapping[str, Any]) -> Packet:
    """Return the packet as the tunnel's outer sockets would send it."""
    return replace(
        packet,
        source=None,
        oif=path["path"]["interface"] if path["bound"] else None,
        mark=path["mark"],
        user=0,
        ip_protocol=UDP,
        source_port=path["port"] or 0,
        port=path["endpoints"].get(str(packet.destination), packet.port),
    )


def _one(
    who: str,
    packet: Packet,
    answer: Answer,
    verdict: Verdict,
    dump: Dump,
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Return what the kernel does with one packet, with `result` and `firewall` to come."""
    interface = names.get(answer.index)
    black_hole = bool(answer.index) and answer.matched is None and interface != "lo"
    agreed = answer.index in (0, verdict.index) or interface == "lo"
    rule = verdict.rule if agreed and not black_hole else None
    return {
        "sender": who,
        "destination": str(packet.destination),
        "mark": packet.mark,
        "bound_to": packet.oif,
        "protocol": "udp" if packet.ip_protocol == UDP else "tcp",
        "port": packet.port,
        "interface": interface,
        "source": None if answer.source is None else str(answer.source),
        "gateway": None if answer.gateway is None else str(answer.gateway),
        "table": answer.table or (None if rule is None else rule.table),
        "route": _route(answer.matched, names),
        "rule": None if rule is None else {"preference": rule.preference, "words": str(rule)},
        "problem": answer.problem or None,
        "on_link_guess": black_hole,
        "unsure": verdict.unsure or not agreed,
    }


def _route(route: Route | None, names: Mapping[int, str]) -> str | None:
    if route is None:
        return None
    to = "default" if route.is_default else str(route.destination)
    via = "" if route.gateway is None else f" via {route.gateway}"
    device = f" dev {names[route.index]}" if route.index in names else ""
    return f"{to}{via}{device}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The firewall as it is loaded: nft's items, and what of it nft could not list."""

    items: tuple[Mapping[str, Any], ...] = ()
    missing: tuple[str, ...] = ()


def _listing() -> tuple[Listing | None, str]:
    """Return the firewall, or why it cannot be read.

    Table by table, after the chains: an nft that is older than the kernel can fail for ever on a
    table with something that it does not know, and must not take the others with it.
    """
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
    if nft is None:
        return None, "there is no nft command to read it with; install nftables"
    chains = _nft(nft, "list", "chains")
    if isinstance(chains, str):
        return None, chains
    heads = [item["chain"] for item in chains if "chain" in item]
    items: list[Mapping[str, Any]] = []
    missing: list[str] = []
    for family, name in dict.fromkeys((head["family"], head["table"]) for head in heads):
        found = _nft(nft, "list", "table", family, name)
        if isinstance(found, str):
            missing.append(f"table {family} {name}")
        else:
            items += found
    return Listing(tuple(items), tuple(missing)), ""


def _nft(nft: str, *words: str) -> list[Mapping[str, Any]] | str:
    """Return the items that nft lists, or why it does not."""
    command = [nft, "--json", "--numeric", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NFT_SECONDS)
        if done.returncode:
            return done.stderr.strip().partition("\n")[0] or "nft failed"
        items: list[Mapping[str, Any]] = json.loads(done.stdout)["nftables"]
        return items
    except subprocess.TimeoutExpired:
        return f"nft does not end within {_NFT_SECONDS} s"
    except (ValueError, KeyError) as error:
        return f"nft: {error}"


def _firewall(
    listing: Listing | None, why_not: str, packet: Packet, device: str | None
) -> dict[str, Any] | None:
    if device is None:
        return None
    if listing is None:
        return {"verdict": None, "by": why_not, "unsure": []}
    passage: Passage = walk(listing.items, packet, device)
    unsure = [*passage.unsure, *listing.missing]
    return {"verdict": passage.verdict, "by": passage.by, "unsure": unsure}


def _result(one: Mapping[str, Any], path: Mapping[str, Any] | None) -> str:
    """Return the one sentence that matters."""
    if one["problem"]:
        return f"goes nowhere: {one['problem']}"
    firewall = one["firewall"] or {}
    if firewall.get("verdict") in ("drop", "reject"):
        ends = "dropped" if firewall["verdict"] == "drop" else "rejected"
        return f"is {ends} by the firewall on its way to {one['interface']}"
    if one["on_link_guess"]:
        return f"has no route on {one['interface']}: the kernel would ask ARP for it there"
    if path is not None and one["interface"] == path["link"]:
        return f"goes through the tunnel ({one['interface']})"
    if one["interface"] == "lo":
        return "stays on this machine"
    return f"leaves by {one['interface']}, outside the tunnel"
