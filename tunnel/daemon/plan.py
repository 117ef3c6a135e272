"""What tunneld decides before it makes anything: provider, configuration, policy, key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnel.daemon.options import Options
from tunnel.daemon.proxyplan import proxy_config
from tunnel.errors import ConfigError, TunnelError, UsageError

if TYPE_CHECKING:
    from tunnel.config import BindingConfig, Config
    from tunnel.errors import Where
    from tunnel.policy.binding import PathPolicy
    from tunnel.provider import PacketTunnelProvider
    from tunnel.settings import RoutingPolicy

CREDENTIAL: Final = "private_key"
"""The name of the credential that holds the private key (systemd.exec(5), LoadCredential=)."""
PLUGIN: Final = "policy:"
"""In a bind list, what stands before the name of an installed policy."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was decided before anything is made. `managed` is False without a --config."""

    options: Options
    config: Config
    policy: PathPolicy
    provider: type[PacketTunnelProvider]

    @property
    def managed(self) -> bool:
        """Whether addresses, MTU and routes are ours."""
        return self.options.config is not None


def make_plan(options: Options) -> Plan:
    """Read the configuration and resolve the words of the command line.

    Raises UsageError, ConfigError, or TunnelError for a provider that cannot be loaded.
    """
    from tunnel.daemon.plugins import load_provider

    provider = load_provider(options.provider)
    config = read_config(options, need_key=provider.uses_private_key)
    return Plan(options, config, make_policy(config, options), provider)


def read_config(options: Options, *, need_key: bool) -> Config:
    """Read the configuration, with what the command line says in place of the file's.

    Raises ConfigError.
    """
    from tunnel.config import InterfaceOverride, load_config, require_private_key
    from tunnel.daemon.filefor import config_beside

    if options.config is None:
        config = config_beside(options.name)
    else:
        config = _with_credential(load_config(options.config))
        if need_key:
            require_private_key(config)
    binding = config.binding
    if options.bind is not None:
        binding = replace(binding, bind=_words(options.bind))
    if options.prohibit is not None:
        binding = replace(binding, prohibit=_words(options.prohibit))
    if options.avoid is not None:
        binding = replace(binding, avoid=_words(options.avoid))
    interfaces = dict(config.interfaces)
    for name, kind in options.classify:
        interfaces[name] = replace(interfaces.get(name, InterfaceOverride()), type=kind)
    routing = _routing(config, options)
    made = replace(config, binding=binding, interfaces=interfaces, routing=routing)
    return replace(made, proxy=proxy_config(made, options))


def _with_credential(config: Config) -> Config:
    """Return the configuration with the private key that systemd hands over (LoadCredential=).

    It stands in for a key that the file does not have; the word none is no key. Raises ConfigError.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder or config.interface.private_key is not None:
        return config
    from tunnel.errors import Where
    from tunnel.keyfile import read_key_file
    from tunnel.values import BadValue

    path = Path(folder, CREDENTIAL)
    try:
        if not path.exists() or path.read_bytes().strip() == b"none":
            return config
        key, _ = read_key_file(path)
    except BadValue as error:
        raise ConfigError(error.problem, where=Where(path), key=None, mend=error.mend) from None
    return replace(config, interface=replace(config.interface, private_key=key))


def _routing(config: Config, options: Options) -> RoutingPolicy:
    """Return the file's demands with those of the command line."""
    said: dict[str, Any] = {
        key: getattr(options, key)
        for key in (
            "include_all_networks",
            "exclude_local_networks",
            "allow_inbound",
            "confirm",
            "lockdown_on_exit",
        )
        if getattr(options, key)
    }
    if not said:
        return config.routing
    if options.config is None:
        option = next(iter(said)).replace("_", "-")
        raise UsageError(f"--{option} needs --config; without it the routes are not tunneld's")
    try:
        routing = replace(config.routing, **said)
        routing.check_table(config.interface.table)
    except ConfigError as error:
        option = str(error.key).replace("_", "-")
        mend = error.mend.replace("_", "-")
        raise UsageError(f"--{option}: {error.problem.replace('_', '-')}; {mend}") from error
    return routing


def _words(spec: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in spec.split(","))


def make_policy(config: Config, options: Options) -> PathPolicy:
    """Return what the words of [binding] and of the command line come to.

    Raises UsageError, ConfigError, or TunnelError for a policy that cannot be loaded.
    """
    from tunnel.errors import Where
    from tunnel.policy.state import parse_type

    where = Where(config.source) if config.source else None
    for name, kind in options.classify:
        try:
            parse_type(kind, name)
        except TunnelError as error:
            raise UsageError(f"--classify: {error}") from error
    for name, override in config.interfaces.items():
        if override.type is not None:
            parse_type(override.type, name, where)
    lines = config.binding.lines
    of_file = [key for key in ("bind", "prohibit", "avoid") if getattr(options, key) is None]
    places = {key: Where(config.source, lines.get(key)) for key in of_file if config.source}
    return binding_policy(config.binding, places)


def rebound(binding: BindingConfig, request: Mapping[str, Any]) -> BindingConfig:
    """Return a binding with the lists that `tunnelctl set` names; an empty SPEC lifts one.

    Raises UsageError.
    """
    given: dict[str, Any] = {}
    for key in ("bind", "prohibit", "avoid"):
        spec = request.get(key)
        if spec is None:
            continue
        if not isinstance(spec, str):
            raise UsageError(f"{key}: send a SPEC as a string")
        given[key] = _words(spec) if spec else None if key == "bind" else ()
    if not given:
        raise UsageError("set: nothing to set; give --bind, --prohibit or --avoid")
    if "bind" in given:
        given["policy"] = None  # a list of what to bind to replaces whatever decided before
    return replace(binding, **given)


def binding_policy(binding: BindingConfig, where: Mapping[str, Where]) -> PathPolicy:
    """Return the policy of these words; `where` says which file a list comes from, if from one.

    Raises UsageError, ConfigError, or TunnelError for a policy that cannot be loaded.
    """
    import socket

    from tunnel.policy.binding import BindingPolicy, Combined, parse_spec

    present = [name for _, name in socket.if_nameindex()]

    def terms(key: str, words: tuple[str, ...]) -> Any:
        place = where.get(key)
        option = key if place is not None else f"--{key}"
        return parse_spec(words, present, option=option, where=place)

    bind = binding.bind or ()
    named = [word.removeprefix(PLUGIN) for word in bind if word.startswith(PLUGIN)]
    named += [binding.policy] if binding.policy is not None else []
    plain = tuple(word for word in bind if not word.startswith(PLUGIN))
    built_in = BindingPolicy(
        permitted=terms("bind", plain) if plain else None,
        prohibited=terms("prohibit", binding.prohibit),
        avoided=terms("avoid", binding.avoid),
    )
    if not named:
        return built_in
    from tunnel.daemon.plugins import load_policy

    others = tuple(load_policy(name) for name in dict.fromkeys(named))
    return Combined((built_in, *others)) if built_in.binds else _one(others)


def _one(policies: tuple[PathPolicy, ...]) -> PathPolicy:
    from tunnel.policy.binding import Combined

    return policies[0] if len(policies) == 1 else Combined(policies)


def with_key(plan: Plan) -> Plan:
    """Return the plan with a private key, made if need be; its public half is printed."""
    if not plan.provider.uses_private_key or plan.config.interface.private_key is not None:
        return plan
    from tunnel.daemon import keystore

    options = plan.options
    key = keystore.new_key() if options.ephemeral_key else keystore.kept_key(options.name)
    print(keystore.public_half(key), flush=True)
    interface = replace(plan.config.interface, private_key=key)
    return replace(plan, config=replace(plan.config, interface=interface))
