"""What tunneld decides before it makes anything: provider, configuration, policy, key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunnel.daemon.options import Options
from tunnel.errors import TunnelError, UsageError

if TYPE_CHECKING:
    from tunnel.config import Config
    from tunnel.policy.binding import BindingPolicy
    from tunnel.provider import PacketTunnelProvider


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was decided before anything is made. `managed` is False without a --config."""

    options: Options
    config: Config
    policy: BindingPolicy
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
    return Plan(options, config, _policy(config, options), provider)


def read_config(options: Options, *, need_key: bool) -> Config:
    """Read the configuration, with what the command line says in place of the file's.

    Raises ConfigError.
    """
    from tunnel.config import InterfaceOverride, load_config
    from tunnel.daemon.filefor import config_beside

    if options.config is None:
        config = config_beside(options.name)
    else:
        config = load_config(options.config, need_key=need_key)
    binding = config.binding
    if options.bind is not None:
        binding = replace(binding, bind=_words(options.bind))
    if options.prohibit is not None:
        binding = replace(binding, prohibit=_words(options.prohibit))
    interfaces = dict(config.interfaces)
    for name, kind in options.classify:
        interfaces[name] = replace(interfaces.get(name, InterfaceOverride()), type=kind)
    return replace(config, binding=binding, interfaces=interfaces)


def _words(spec: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in spec.split(","))


def _policy(config: Config, options: Options) -> BindingPolicy:
    import socket

    from tunnel.errors import Where
    from tunnel.policy.binding import BindingPolicy, parse_spec
    from tunnel.policy.state import parse_type

    present = [name for _, name in socket.if_nameindex()]
    where = Where(config.source) if config.source else None

    def terms(key: str, words: tuple[str, ...], said: str | None) -> Any:
        if said is not None:
            return parse_spec(words, present, option=f"--{key}")
        return parse_spec(words, present, option=key, where=where)

    for name, kind in options.classify:
        try:
            parse_type(kind, name)
        except TunnelError as error:
            raise UsageError(f"--classify: {error}") from error
    for name, override in config.interfaces.items():
        if override.type is not None:
            parse_type(override.type, name, where)
    binding = config.binding
    return BindingPolicy(
        permitted=None if binding.bind is None else terms("bind", binding.bind, options.bind),
        prohibited=terms("prohibit", binding.prohibit, options.prohibit),
        avoided=terms("avoid", binding.avoid, None),
    )


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
