"""The TOML form: wg-quick's keys in snake_case, and tunneld's own tables beside them.

    [interface]             private_key or private_key_file, addresses, listen_port, ...
    [[peer]]                public_key, preshared_key(_file), endpoint, allowed_ips, ...
    [binding]               bind, prohibit, avoid: lists, or strings with commas; policy: a name;
                            hold_down, dwell, grace: seconds
    [routing]               table, fwmark, include_all_networks, exclude_local_networks,
                            enforce_routes, included_routes, excluded_routes, allow_inbound,
                            confirm, lockdown_on_exit
    [dns]                   servers, search, match_domains, method
    [interfaces.NAME]       type, expensive, constrained, ultra_constrained, dns
    [proxy]                 socks5, http: ADDR:PORT; credentials: a file; forward, expose: lists of
                            what --forward and --expose take

Seconds and bytes are numbers. A value may be written as wg-quick writes it, or as TOML would have
it (numbers, booleans, lists): both become the text that wg-quick's reader parses, so the two
forms cannot drift apart. An unknown key is an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tunnel import keyfile, places, sections, values
from tunnel.config import BindingConfig, Config, InterfaceOverride, ProxyConfig
from tunnel.errors import ConfigError, Where
from tunnel.secret import redact
from tunnel.sections import Field, Items, Section
from tunnel.settings import DNSMethod, Inbound, Network, RoutingPolicy, Table
from tunnel.tomllines import Lines
from tunnel.values import BadValue, quoted

INTERFACE_TYPES: Final = ("cellular", "wifi", "wired", "bluetooth", "loopback", "tunnel", "other")

_TOP: Final = ("interface", "peer", "binding", "routing", "dns", "interfaces", "proxy")
# The rule is "wg-quick's keys in snake_case"; what that makes awkward has its plain name as well.
_SPELLINGS: Final = {"address": "addresses", "fw_mark": "fwmark"}
_INTERFACE: Final = {item.name: item for item in sections.INTERFACE if item.name != "save_config"}
_PEER: Final = {item.name: item for item in sections.PEER}
_ROUTING: Final = {name: _INTERFACE[name] for name in ("table", "fwmark")}
_ROUTING_FLAGS: Final = (
    "include_all_networks", "exclude_local_networks", "enforce_routes", "lockdown_on_exit",
)  # fmt: skip
_ROUTING_LISTS: Final = ("included_routes", "excluded_routes")
_KEYS: Final = {name: name for name in (*_INTERFACE, *_PEER)}
_BINDING_LISTS: Final = ("bind", "prohibit", "avoid")
_BINDING_SECONDS: Final = ("hold_down", "dwell", "grace")
_BINDING: Final = (*_BINDING_LISTS, "policy", *_BINDING_SECONDS)
_DAY: Final = 86_400
_DNS: Final = ("servers", "search", "match_domains", "method")
_PROXY_PLACES: Final = ("socks5", "http")
_PROXY_FORWARDS: Final = {"forward": places.forward, "expose": places.expose}
_PROXY: Final = (*_PROXY_PLACES, "credentials", *_PROXY_FORWARDS)
_OVERRIDE: Final = ("type", "expensive", "constrained", "ultra_constrained", "dns")

_PLAIN: Final = re.compile(r"[A-Za-z0-9_+.-]{1,31}")
KeyPath = tuple[str | int, ...]


def parse(text: str, source: Path) -> Config:
    """Read the text of a .toml file. Key files it names are relative to `source`'s folder.

    A file without a private key is allowed. Raises ConfigError, which names file, line, key and
    the mend, and quotes no secret.
    """
    text = text.removeprefix("\ufeff")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib puts the place into its words, for instance "... (at line 3, column 8)".
        problem, _, place = redact(str(error)).partition(" (at line ")
        line = int(place.partition(",")[0]) if place else None
        raise ConfigError(
            problem, where=Where(source, line), key=None, mend="correct the TOML there"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(
            "has a number or a nesting beyond all measure",
            where=Where(source),
            key=None,
            mend="correct the TOML",
        ) from None
    return _Reader(document, Lines(text), source).read()


class _Reader:
    def __init__(self, document: dict[str, Any], lines: Lines, source: Path) -> None:
        self._document = document
        self._lines = lines
        self._source = source
        self._warnings: list[str] = []

    def read(self) -> Config:
        self._check_known((), self._document, _TOP)
        interface = Section(self._where("interface"))
        self._fill(interface, ("interface",), self._table("interface"), _INTERFACE)
        routing = self._routing(interface)
        self._dns(interface)
        peers = [self._peer(number) for number in range(len(self._peers()))]
        made, configs, warnings = sections.assemble(interface, peers, _KEYS)
        return Config(
            source=self._source,
            interface=made,
            peers=configs,
            binding=self._binding(),
            routing=routing,
            interfaces={name: self._override(name) for name in self._table("interfaces")},
            proxy=self._proxy(),
            warnings=(*self._warnings, *warnings),
        )

    # -- tables ------------------------------------------------------------------------------

    def _peers(self) -> Sequence[Any]:
        peers = self._document.get("peer", [])
        if isinstance(peers, list) and all(isinstance(peer, dict) for peer in peers):
            return peers
        raise self._error(("peer",), "is not a list of tables", "write [[peer]] above each peer")

    def _peer(self, number: int) -> Section:
        section = Section(self._where("peer", number))
        self._fill(section, ("peer", number), self._peers()[number], _PEER)
        return section

    def _routing(self, interface: Section) -> RoutingPolicy:
        table = self._table("routing")
        known = (*_ROUTING, *_ROUTING_FLAGS, *_ROUTING_LISTS, "allow_inbound", "confirm")
        self._check_known(("routing",), table, known)
        for name in table:
            if name in self._document.get("interface", {}):
                raise self._error(
                    ("routing", name), "is in [interface] too", "write it in one of the two"
                )
        kernel = {name: value for name, value in table.items() if name in _ROUTING}
        self._fill(interface, ("routing",), kernel, _ROUTING)
        given: dict[str, Any] = {}
        readers: dict[str, Callable[[KeyPath, Any], Any]] = {
            **dict.fromkeys(_ROUTING_FLAGS, self._flag),
            **dict.fromkeys(_ROUTING_LISTS, self._networks),
            "allow_inbound": self._inbound,
            "confirm": self._seconds,
        }
        for name in (name for name in table if name not in kernel):
            given[name] = readers[name](("routing", name), table[name])
        try:
            policy = RoutingPolicy(**given)
            policy.check_table(interface.values.get("table", Table.AUTO))
        except ConfigError as error:
            raise self._error(("routing", str(error.key)), error.problem, error.mend) from None
        return policy

    def _flag(self, path: KeyPath, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise self._error(path, f"{quoted(str(value))} cannot be taken", "write true or false")

    def _networks(self, path: KeyPath, value: Any) -> tuple[Network, ...]:
        texts = self._texts(path, value, Items.WORDS)
        if not texts:
            raise self._error(path, "is empty", "name networks, or leave it out")
        try:
            return tuple(dict.fromkeys(values.network(text) for text in texts))
        except BadValue as error:
            raise self._error(path, error.problem, error.mend) from None

    def _inbound(self, path: KeyPath, value: Any) -> tuple[Inbound, ...]:
        try:
            found = (values.inbound(text) for text in self._texts(path, value, Items.COMMAS))
            return tuple(dict.fromkeys(found))
        except BadValue as error:
            raise self._error(path, error.problem, error.mend) from None

    def _dns(self, interface: Section) -> None:
        table = self._table("dns")
        self._check_known(("dns",), table, _DNS)
        for name in table:
            if name in ("match_domains", "method"):
                continue
            for text in self._texts(("dns", name), table[name], Items.WORDS):
                try:
                    parsed = values.address(text) if name == "servers" else values.dns(text)
                except BadValue as error:
                    raise self._error(("dns", name), error.problem, error.mend) from None
                interface.values.setdefault("dns", []).append(parsed)
            interface.places.setdefault("dns", self._where("dns", name))
        if "match_domains" in table:
            path = ("dns", "match_domains")
            domains = table["match_domains"]
            domains = domains.split(",") if isinstance(domains, str) else domains
            if not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
                raise self._error(path, "has a value of the wrong kind", "write a list of strings")
            try:
                given = tuple(dict.fromkeys(map(values.match_domain, domains)))
            except BadValue as error:
                raise self._error(path, error.problem, error.mend) from None
            if not any(not isinstance(item, str) for item in interface.values.get("dns", [])):
                raise self._error(path, "has no servers to go with", "give servers as well")
            interface.values["match_domains"] = given
        if "method" in table:
            methods = {method.value: method for method in DNSMethod}
            if table["method"] not in tuple(methods):
                mend = f"write one of {', '.join(methods)}"
                raise self._error(("dns", "method"), "is no way to set resolvers", mend)
            interface.values["dns_method"] = methods[table["method"]]

    def _binding(self) -> BindingConfig:
        table = self._table("binding")
        self._check_known(("binding",), table, _BINDING)
        given: dict[str, Any] = {
            "lines": {name: self._where("binding", name).line for name in table}
        }
        for name, value in table.items():
            path = ("binding", name)
            if name in _BINDING_SECONDS:
                given[name] = self._seconds(path, value)
            elif name == "policy":
                (given[name],) = self._texts(path, value, Items.ONE)
            elif value != [] or name == "bind":  # nothing prohibited is something to say
                given[name] = tuple(self._texts(path, value, Items.COMMAS))
                if not all(given[name]) or not given[name]:
                    raise self._error(
                        path,
                        "is empty or has an empty item",
                        "name types, attributes or interfaces, or leave it out",
                    )
        return BindingConfig(**given)

    def _seconds(self, path: KeyPath, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _DAY:
            raise self._error(
                path, f"{quoted(str(value))} cannot be taken", f"write seconds, 0 to {_DAY}"
            )
        return float(value)

    def _override(self, name: str) -> InterfaceOverride:
        path: KeyPath = ("interfaces", name)
        table = self._table("interfaces", name)
        self._check_known(path, table, _OVERRIDE)
        try:
            values.interface_name(name)
        except BadValue as error:
            raise self._error(path, error.problem, error.mend) from None
        given: dict[str, Any] = {}
        for key, value in table.items():
            if key == "dns":
                given[key] = tuple(self._texts((*path, key), value, Items.WORDS))
                self._check_addresses((*path, key), given[key])
            elif (value in INTERFACE_TYPES) if key == "type" else isinstance(value, bool):
                given[key] = value
            else:
                mend = "write true or false"
                if key == "type":
                    mend = "write one of " + ", ".join(INTERFACE_TYPES)
                raise self._error((*path, key), f"{quoted(str(value))} cannot be taken", mend)
        return InterfaceOverride(**given)

    def _proxy(self) -> ProxyConfig:
        table = self._table("proxy")
        self._check_known(("proxy",), table, _PROXY)
        given: dict[str, Any] = {}
        for name, value in table.items():
            path = ("proxy", name)
            if name == "credentials":
                given[name] = self._file(path, value)
                continue
            try:
                if name in _PROXY_PLACES:
                    (given[name],) = map(places.place, self._texts(path, value, Items.ONE))
                else:
                    read = _PROXY_FORWARDS[name]
                    given[name] = tuple(map(read, self._texts(path, value, Items.COMMAS)))
            except BadValue as error:
                raise self._error(path, error.problem, error.mend) from None
        return ProxyConfig(**given)

    def _check_addresses(self, path: KeyPath, texts: Sequence[str]) -> None:
        for text in texts:
            try:
                values.address(text)
            except BadValue as error:
                raise self._error(path, error.problem, error.mend) from None

    # -- keys --------------------------------------------------------------------------------

    def _fill(
        self, section: Section, path: KeyPath, table: Mapping[str, Any], fields: Mapping[str, Field]
    ) -> None:
        """Put every key of a table into a section."""
        files = {f"{name}_file": name for name in ("private_key", "preshared_key")}
        known = [*fields, *(file for file, name in files.items() if name in fields)]
        spelled = {other: name for other, name in _SPELLINGS.items() if name in fields}
        self._check_known(path, table, known, spelled)
        for key, value in table.items():
            here = (*path, key)
            name = files.get(key, spelled.get(key, key))
            for other in (name, *(k for k, v in (files | spelled).items() if v == name)):
                if other in table and other != key:
                    raise self._error(here, f"{other} is there too", "write one of the two")
            if key in files:
                self._read_key(section, name, here, value)
                continue
            item = fields[name]
            section.put(item, self._texts(here, value, item), self._where(*here), key)

    def _file(self, path: KeyPath, value: Any) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._error(path, "is not the name of a file", "write its path in quotes")
        return self._source.parent / value

    def _read_key(self, section: Section, name: str, path: KeyPath, value: Any) -> None:
        file = self._file(path, value)
        try:
            section.values[name], open_to_all = keyfile.read_key_file(file)
        except BadValue as error:
            raise self._error(path, error.problem, error.mend) from None
        section.places[name] = self._where(*path)
        if open_to_all:
            self._warnings.append(
                f"{self._where(*path)}: {path[-1]}: {file} is open to every user; chmod 600 it"
            )

    def _texts(self, path: KeyPath, value: Any, form: Field | Items) -> list[str]:
        """Return a value as the texts that wg-quick's reader would parse."""
        items = form if isinstance(form, Items) else form.items
        listed = value if isinstance(value, list) and items is not Items.ONE else [value]
        texts = []
        for item in listed:
            # bool is an int in Python, but `mtu = true` is nonsense.
            if isinstance(item, bool) or not isinstance(item, str | int):
                kinds = (
                    "a string or a number" if items is Items.ONE else "strings, or a list of them"
                )
                raise self._error(path, "has a value of the wrong kind", f"write {kinds}")
            if isinstance(item, str) and "\0" in item:
                raise self._error(path, "holds a zero byte", "remove it")
            texts.append(str(item).strip())
        splitter = form if isinstance(form, Field) else Field("", "", str, items, blank=True)
        if items is Items.ONE and not splitter.blank and texts == [""]:
            raise self._error(path, "has no value", "write one, or remove the line")
        return [text for joined in texts for text in splitter.split(joined)]

    def _table(self, *path: str) -> Mapping[str, Any]:
        found: Any = self._document
        for key in path:
            found = found.get(key, {})
        if not isinstance(found, dict):
            raise self._error(path, "is not a table", f"write [{'.'.join(path)}] above its keys")
        return found

    def _check_known(
        self,
        path: KeyPath,
        table: Mapping[str, Any],
        known: Sequence[str],
        spelled: Mapping[str, str] | None = None,
    ) -> None:
        for key in table:
            if key in known or key in (spelled or {}):
                continue
            meant = sections.closest(key, known)
            named = quoted(key) if meant else "this"
            mend = f"write {meant}" if meant else "use one of " + ", ".join(known)
            where = self._where(*path, key)
            raise ConfigError(f"{named} is not a known key", where=where, key=None, mend=mend)

    def _where(self, *path: str | int) -> Where:
        return Where(self._source, self._lines.find(path))

    def _error(self, path: KeyPath, problem: str, mend: str) -> ConfigError:
        word = str(path[-1])
        key = word if _PLAIN.fullmatch(word) else quoted(word)
        return ConfigError(problem, where=self._where(*path), key=key, mend=mend)
