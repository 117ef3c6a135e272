"""What [Interface] and [Peer] may say, and how the said things become a Config.

Both file forms describe the same keys: `PrivateKey` of wg-quick's format is `private_key` of the
TOML form. A Field names one key in both spellings and holds the parser of its text. A reader
walks its file, opens a Section at each heading, puts every key's text into it with the place that
it came from, and ends with `assemble`, where all rules that span lines live: what is missing,
what is said twice, what contradicts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from tunnel import rttables, values
from tunnel.config import InterfaceConfig, PeerConfig
from tunnel.errors import ConfigError, Where
from tunnel.settings import DNSMethod, DNSSettings, InterfaceAddress, Network
from tunnel.values import BadValue

IPV6_MTU: Final = 1280  # RFC 8200, section 5: the kernel switches IPv6 off below it


class Items(Enum):
    """How many values one key may have, and what stands between them."""

    ONE = "one; the last wins"
    COMMAS = "any number, with commas between"
    WORDS = "any number, with commas or spaces between"
    LINES = "any number, one a line"


@dataclass(frozen=True, slots=True)
class Field:
    """One key. `key` is wg-quick's spelling, `name` the attribute and the TOML form's.

    `blank` says that an empty value means none; otherwise it is an error. `spaced` says that wg
    itself reads the key, which drops spaces anywhere in the line.
    """

    key: str
    name: str
    parse: Callable[[str], Any]
    items: Items = Items.ONE
    blank: bool = False
    spaced: bool = False

    def split(self, text: str) -> list[str]:
        """Return the texts of the single values."""
        match self.items:
            case Items.COMMAS:
                return [item.strip() for item in text.split(",")] if text.strip() else []
            case Items.WORDS:
                return text.replace(",", " ").split()
            case _:
                return [text] if text or not self.blank else []


@dataclass(frozen=True, slots=True)
class AllowedIP:
    """One item of AllowedIPs: '+' adds and '-' takes away without replacing what is there."""

    sign: str
    given: InterfaceAddress

    @property
    def network(self) -> Network:
        """The network, host bits cleared."""
        return self.given.network


def allowed_ip(text: str) -> AllowedIP:
    """Parse an item of AllowedIPs, with the sign that wg knows since v1.0.20250521."""
    sign = text[:1] if text[:1] in ("+", "-") else ""
    return AllowedIP(sign, values.interface_address(text[len(sign) :]))


def _table(text: str) -> Any:
    return values.table(text, rttables.lookup)


def _hook(text: str) -> str:
    return text


INTERFACE: Final = (
    Field("PrivateKey", "private_key", values.secret_key, spaced=True),
    Field("ListenPort", "listen_port", values.port, spaced=True),
    Field("FwMark", "fwmark", values.mark, spaced=True),
    Field("Address", "addresses", values.interface_address, Items.WORDS, blank=True),
    Field("DNS", "dns", values.dns, Items.WORDS, blank=True),
    Field("MTU", "mtu", values.mtu, blank=True),
    Field("Table", "table", _table, blank=True),
    Field("PreUp", "pre_up", _hook, Items.LINES, blank=True),
    Field("PostUp", "post_up", _hook, Items.LINES, blank=True),
    Field("PreDown", "pre_down", _hook, Items.LINES, blank=True),
    Field("PostDown", "post_down", _hook, Items.LINES, blank=True),
    Field("SaveConfig", "save_config", values.boolean),
)
PEER: Final = (
    Field("PublicKey", "public_key", values.public_key, spaced=True),
    Field("PresharedKey", "preshared_key", values.secret_key, spaced=True),
    Field("Endpoint", "endpoint", values.endpoint, spaced=True),
    Field("AllowedIPs", "allowed_ips", allowed_ip, Items.COMMAS, blank=True, spaced=True),
    Field("PersistentKeepalive", "persistent_keepalive", values.keepalive, spaced=True),
)


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known key that a mistyped one most likely means."""
    by_lower = {key.lower(): key for key in known}
    holding = [key for key in by_lower if len(word) > 2 and word.lower() in key]
    if len(holding) == 1:  # Port of ListenPort
        return by_lower[holding[0]]
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


@dataclass(slots=True)
class Section:
    """One [Interface] or [Peer] while it is read: values by field name, and where each was."""

    where: Where
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Where] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def put(self, item: Field, texts: Sequence[str], where: Where, key: str) -> None:
        """Add the texts of one key, named `key` in this file. Raises ConfigError."""
        try:
            parsed = [item.parse(text) for text in texts]
        except BadValue as error:
            raise ConfigError(error.problem, where=where, key=key, mend=error.mend) from None
        if item.items is not Items.ONE:
            self.values.setdefault(item.name, []).extend(parsed)
            self.places.setdefault(item.name, where)
            return
        if item.name in self.places:
            self.warnings.append(
                f"{where}: {key}: is given twice (first on line {self.places[item.name].line}); "
                "the last one counts"
            )
        self.places[item.name] = where
        self.values.pop(item.name, None)
        if parsed:
            self.values[item.name] = parsed[0]

    def place(self, name: str) -> Where:
        """Where a field was given, or else where the section begins."""
        return self.places.get(name, self.where)


def assemble(
    interface: Section | None, peers: Sequence[Section], keys: Mapping[str, str]
) -> tuple[InterfaceConfig, tuple[PeerConfig, ...], tuple[str, ...]]:
    """Return the interface, the peers and all warnings. `keys` maps field names to spellings.

    Raises ConfigError for what is missing.
    """
    warnings: list[str] = []
    for section in (*([interface] if interface else []), *peers):
        warnings += section.warnings
    made = InterfaceConfig() if interface is None else _interface(interface, keys, warnings)
    merged = _merge(peers, keys, warnings)
    _check_overlap(merged, keys, warnings)
    return made, tuple(config for config, _ in merged.values()), tuple(warnings)


def _interface(section: Section, keys: Mapping[str, str], warnings: list[str]) -> InterfaceConfig:
    given = dict(section.values)
    dns = given.pop("dns", [])
    domains, method = given.pop("match_domains", ()), given.pop("dns_method", DNSMethod.AUTO)
    if dns or domains:
        names = tuple(item for item in dns if isinstance(item, str))
        servers = tuple(item for item in dns if not isinstance(item, str))
        given["dns"] = DNSSettings(servers, names, domains, method)
        if not servers:
            warnings.append(
                f"{section.place('dns')}: {keys['dns']}: domains without a server are not used; "
                "name the server that knows them"
            )
    key = given.get("private_key")
    if key is not None:
        where = section.place("private_key")
        if not key:
            raise ConfigError(
                "is all zeros, which is no key",
                where=where,
                key=keys["private_key"],
                mend="make one with `wg genkey`",
            )
        if key.clamp():
            warnings.append(
                f"{where}: {keys['private_key']}: is not a clamped Curve25519 key; "
                "it is used, and shown by wg, clamped"
            )
    if given.get("mtu", IPV6_MTU) < IPV6_MTU:
        warnings.append(
            f"{section.place('mtu')}: {keys['mtu']}: below {IPV6_MTU} the kernel switches IPv6 off "
            "on the interface"
        )
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return InterfaceConfig(**given)


_Merged = dict[bytes, tuple[PeerConfig, Section]]


def _merge(sections: Sequence[Section], keys: Mapping[str, str], warnings: list[str]) -> _Merged:
    """Make peers of the sections, merging those of one key as `wg setconf` does.

    There a later section changes what it names and replaces the allowed IPs, unless it gives
    them with signs, which change the list.
    """
    merged: _Merged = {}
    for section in sections:
        given = dict(section.values)
        key = given.pop("public_key", None)
        if key is None:
            raise ConfigError(
                f"no {keys['public_key']} in this peer",
                where=section.where,
                key=None,
                mend=f"add its {keys['public_key']}, or remove the section",
            )
        items: list[AllowedIP] = given.pop("allowed_ips", [])
        if not given.get("preshared_key", True):
            del given["preshared_key"]  # all zeros means none
        for item in items:
            if item.given.ip != item.network.network_address:
                warnings.append(
                    f"{section.place('allowed_ips')}: {keys['allowed_ips']}: {item.given} has bits "
                    f"beyond its prefix; {item.network} is used"
                )
        before = merged.get(key)
        kept: dict[Network, None] = {}
        if before is not None:
            warnings.append(
                f"{section.where}: {keys['public_key']}: is that of the peer on line "
                f"{before[1].where.line} too; the two are merged, what comes later wins"
            )
            if any(item.sign for item in items):
                kept = dict.fromkeys(before[0].allowed_ips)
        for item in items:
            if item.sign == "-":
                kept.pop(item.network, None)
            else:
                kept[item.network] = None
        old = before[0] if before else PeerConfig(public_key=key)
        merged[key] = (replace(old, allowed_ips=tuple(kept), **given), section)
    return merged


def _check_overlap(merged: _Merged, keys: Mapping[str, str], warnings: list[str]) -> None:
    """Warn where two peers claim one network: it goes to the later."""
    owners: dict[Network, Section] = {}
    for config, section in merged.values():
        for network in config.allowed_ips:
            if network in owners:
                warnings.append(
                    f"{section.place('allowed_ips')}: {keys['allowed_ips']}: {network} belongs to "
                    f"the peer on line {owners[network].where.line} too; the later peer gets it"
                )
            owners[network] = section
