"""The native engine for Python: the importer of `tunnel._core`, with `primitives` and `flow`.

See native/include/tunnel_core.h for what each call does; this module adds types, errors and
conversions. Workers of the engine move packets without the interpreter lock; Python installs keys,
sends handshake messages and reads events when `Engine.event_fd` is readable.

Errors: ValueError for arguments that can never be right, EngineError, which names the call and
carries the errno, for everything else. Times are nanoseconds of CLOCK_BOOTTIME, 0 for "never".
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from tunnel._core import ffi, lib
from tunnel.primitives import (
    AuthenticationError as AuthenticationError,
    Buffer,
    EngineError as EngineError,
    ParsedPacket as ParsedPacket,
    address_of,
    check,
    hchacha20 as hchacha20,
    octets,
    open_ as open_,
    parse as parse,
    seal as seal,
    sized,
    wipe as wipe,
)
from tunnel.settings import Address, Network

NO_UDP_SEGMENT: Final[int] = lib.TC_NO_UDP_SEGMENT
NO_UDP_GRO: Final[int] = lib.TC_NO_UDP_GRO
NO_COALESCE_TCP: Final[int] = lib.TC_NO_COALESCE_TCP
NO_COALESCE_UDP: Final[int] = lib.TC_NO_COALESCE_UDP
NO_AVX512: Final[int] = lib.TC_NO_AVX512
NO_AVX2: Final[int] = lib.TC_NO_AVX2
NO_IFMA: Final[int] = lib.TC_NO_IFMA
NO_UPLINK_QUEUE: Final[int] = lib.TC_NO_UPLINK_QUEUE
REAL_TIME: Final[int] = lib.TC_REAL_TIME
LINK_VNET_HDR: Final[int] = lib.TC_LINK_VNET_HDR
LINK_USO: Final[int] = lib.TC_LINK_USO
KEY_PREVIOUS: Final[int] = lib.TC_KEY_PREVIOUS
KEY_CURRENT: Final[int] = lib.TC_KEY_CURRENT
KEY_NEXT: Final[int] = lib.TC_KEY_NEXT
KEY_ALL: Final[int] = KEY_PREVIOUS | KEY_CURRENT | KEY_NEXT
MAX_WORKERS: Final[int] = lib.TC_MAX_WORKERS
MAX_PATHS: Final[int] = lib.TC_MAX_PATHS
_EVENTS_A_READ: Final = 256
_COUNTERS: Final[int] = lib.TC_COUNTERS


class EventKind(Enum):
    """What happened: TC_EVENT_* of tunnel_core.h."""

    MESSAGE = lib.TC_EVENT_MESSAGE
    COOKIE_WANTED = lib.TC_EVENT_COOKIE_WANTED
    HANDSHAKE_NEEDED = lib.TC_EVENT_HANDSHAKE_NEEDED
    KEY_CONFIRMED = lib.TC_EVENT_KEY_CONFIRMED
    ACTIVE = lib.TC_EVENT_ACTIVE
    ENDPOINT = lib.TC_EVENT_ENDPOINT
    LINK_FAILED = lib.TC_EVENT_LINK_FAILED
    OUTER_FAILED = lib.TC_EVENT_OUTER_FAILED


_KINDS: Final = {kind.value: kind for kind in EventKind}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An outer UDP address. `source` is the local address that the peer last used."""

    address: Address
    port: int
    path: int = 0
    scope: int = 0
    source: Address | None = None
    source_interface: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """`value` is an errno for failures, `data` a handshake message; `path` of OUTER_FAILED."""

    kind: EventKind
    peer: int | None = None
    value: int = 0
    data: bytes = b""
    endpoint: Endpoint | None = None
    path: int = 0


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer's state; the fields are those of tc_peer_info, `keys` a set of KEY_* bits."""

    endpoint: Endpoint | None
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    last_sent: int
    last_received: int
    unanswered_since: int
    unacked_since: int
    key_created: int
    staged: int
    keys: int


def _fill_endpoint(target: Any, endpoint: Endpoint | None) -> None:
    ffi.memmove(target, bytes(ffi.sizeof("tc_endpoint")), ffi.sizeof("tc_endpoint"))
    if endpoint is None:
        return
    if not 0 < endpoint.port <= 0xFFFF or not 0 <= endpoint.path < MAX_PATHS:
        raise ValueError(f"endpoint: port {endpoint.port} or path {endpoint.path} out of range")
    target.family = endpoint.address.version
    target.path = endpoint.path
    target.port = endpoint.port
    target.scope = endpoint.scope
    packed = endpoint.address.packed
    ffi.memmove(target.address, packed, len(packed))
    if endpoint.source is not None:
        target.src_interface = endpoint.source_interface
        packed = endpoint.source.packed
        ffi.memmove(target.src, packed, len(packed))


def _read_endpoint(source: Any) -> Endpoint | None:
    family = source.family
    if not family:
        return None
    src = address_of(family, source.src)
    return Endpoint(
        address=address_of(family, source.address),
        port=source.port,
        path=source.path,
        scope=source.scope,
        source=src if int(src) else None,
        source_interface=source.src_interface,
    )


class Engine:
    """One engine. Not started at first; a context manager that closes it."""

    def __init__(self, workers: int = 1, *, flags: int = 0, ring_slots: int = 4096) -> None:
        """`flags` are NO_* bits; `ring_slots` a power of two from 64 to 65536."""
        options = ffi.new("tc_options *", {"workers": workers, "flags": flags})
        options.ring_slots = ring_slots
        handle = ffi.new("tc_engine **")
        check("new", lib.tc_engine_new(options, handle))
        self._handle = ffi.gc(handle[0], lib.tc_engine_free)
        self.workers = workers
        self.event_fd: int = lib.tc_engine_event_fd(self._handle)
        self._events = ffi.new(f"tc_event[{_EVENTS_A_READ}]")
        self._info = ffi.new("tc_peer_info *")
        self._endpoint = ffi.new("tc_endpoint *")
        self._values = ffi.new(f"uint64_t[{_COUNTERS}]")
        self._names = _counter_names()

    @property
    def handle(self) -> Any:
        """What the core's calls take, for HostedLink; None once closed."""
        return self._handle

    def start(self) -> None:
        """Start the workers."""
        check("start", lib.tc_engine_start(self._handle))

    def stop(self) -> None:
        """Stop the workers; keys and peers stay."""
        check("stop", lib.tc_engine_stop(self._handle))

    def close(self) -> None:
        """Stop, wipe every key and free everything. Safe to call again."""
        if self._handle is not None:
            ffi.release(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read_events(self) -> list[Event]:
        """Return the events that wait, at most 256: `event_fd` stays readable while more do."""
        count = lib.tc_engine_events(self._handle, self._events, _EVENTS_A_READ)
        return [_read_event(self._events[i]) for i in range(count)]

    def now(self) -> int:
        """Return the engine's clock in nanoseconds."""
        return int(lib.tc_engine_now(self._handle))

    def advance_clock(self, nanoseconds: int) -> None:
        """Move the clock forward, as a suspend would. For tests."""
        lib.tc_engine_advance_clock(self._handle, nanoseconds)

    def set_identity(self, public_key: bytes | None) -> None:
        """Set the static public key that mac1 is checked against; None refuses all messages."""
        key = ffi.NULL if public_key is None else sized("public key", public_key, 32)
        check("identity", lib.tc_engine_identity(self._handle, key))

    def set_cookie_secret(self, secret: Buffer) -> None:
        """Set the secret that cookies are made from."""
        key = sized("cookie secret", secret, 32)
        check("cookie_secret", lib.tc_engine_cookie_secret(self._handle, key))

    def counters(self) -> dict[str, int]:
        """Return all counters by name (native/src/counters.h says what each means)."""
        count = lib.tc_engine_counters(self._handle, self._values, _COUNTERS)
        return dict(zip(self._names, ffi.unpack(self._values, count), strict=True))

    # ---- links and outer sockets ----

    def attach_link(self, worker: int, fd: int, flags: int, mtu: int) -> None:
        """Give a worker its link, in place of one it may have. The caller keeps the descriptor."""
        check("attach_link", lib.tc_link_attach(self._handle, worker, fd, flags, mtu))

    def detach_link(self, worker: int) -> None:
        """Take a worker's link away. To be called before the descriptor is closed."""
        check("detach_link", lib.tc_link_detach(self._handle, worker))

    def attach_port(self, fd: int, flags: int) -> None:
        """Give the engine the userspace stack's link. The caller keeps the descriptor."""
        check("attach_port", lib.tc_port_attach(self._handle, fd, flags))

    def detach_port(self) -> None:
        """Take that link away. To be called before the descriptor is closed."""
        check("detach_port", lib.tc_port_detach(self._handle))

    def claim(self, protocol: int, port: int) -> None:
        """Give received packets of a port of TCP (6) or UDP (17), or of an echo identifier (1), to
        the userspace stack. EngineError EEXIST where they are its already.
        """
        check("claim", lib.tc_claim(self._handle, protocol, port, 1))

    def unclaim(self, protocol: int, port: int) -> None:
        """Give them to the link again. EngineError ENOENT where they are not the stack's."""
        check("unclaim", lib.tc_claim(self._handle, protocol, port, 0))

    def set_mtu(self, mtu: int) -> None:
        """Set the links' MTU, the bound of padding."""
        check("set_mtu", lib.tc_link_mtu(self._handle, mtu))

    def attach_outer(self, worker: int, path: int, fd4: int, fd6: int) -> None:
        """Give a worker its sockets of a path, -1 for a family that is missing."""
        check("attach_outer", lib.tc_outer_attach(self._handle, worker, path, fd4, fd6))

    def detach_outer(self, path: int) -> None:
        """Take a path's sockets from all workers. To be called before they are closed."""
        check("detach_outer", lib.tc_outer_detach(self._handle, path))

    def connect_outer(self, endpoint: Endpoint, fd: int) -> None:
        """Let what goes to `endpoint` leave by a socket that is connected so; -1: no longer."""
        _fill_endpoint(self._endpoint, endpoint)
        check("connect_outer", lib.tc_outer_connect(self._handle, self._endpoint, fd))

    # ---- peers ----

    def add_peer(self) -> int:
        """Return the identifier of a new peer."""
        return check("add_peer", lib.tc_peer_add(self._handle))

    def remove_peer(self, peer: int) -> None:
        """Forget a peer, its keys, staged packets and allowed IPs."""
        check("remove_peer", lib.tc_peer_remove(self._handle, peer))

    def peer_info(self, peer: int) -> PeerInfo:
        """Return a peer's counters, timestamps, endpoint and keys."""
        info = self._info
        check("peer_info", lib.tc_peer_info_get(self._handle, peer, info))
        return PeerInfo(
            endpoint=_read_endpoint(info.endpoint),
            rx_bytes=info.rx_bytes,
            tx_bytes=info.tx_bytes,
            rx_packets=info.rx_packets,
            tx_packets=info.tx_packets,
            last_sent=info.last_sent,
            last_received=info.last_received,
            unanswered_since=info.unanswered_since,
            unacked_since=info.unacked_since,
            key_created=info.key_created,
            staged=info.staged,
            keys=info.keys,
        )

    def set_endpoint(self, peer: int, endpoint: Endpoint | None) -> None:
        """Set where a peer is; None for nowhere."""
        _fill_endpoint(self._endpoint, endpoint)
        check("set_endpoint", lib.tc_peer_endpoint(self._handle, peer, self._endpoint))

    def install(
        self,
        peer: int,
        local_index: int,
        remote_index: int,
        send_key: Buffer,
        receive_key: Buffer,
        initiator: bool,
    ) -> None:
        """Install a session's keys, which are copied. EngineError EEXIST for a used index."""
        keys = ffi.new("tc_keypair *")
        try:
            keys.local_index = local_index
            keys.remote_index = remote_index
            keys.initiator = initiator
            ffi.memmove(keys.send_key, sized("send key", send_key, 32), 32)
            ffi.memmove(keys.receive_key, sized("receive key", receive_key, 32), 32)
            check("install", lib.tc_peer_install(self._handle, peer, keys))
        finally:
            lib.tc_wipe(ffi.cast("uint8_t *", keys), ffi.sizeof("tc_keypair"))

    def erase_keys(self, peer: int, which: int = KEY_ALL) -> None:
        """Wipe a peer's keys; `which` is a set of KEY_* bits."""
        check("erase_keys", lib.tc_peer_erase_keys(self._handle, peer, which))

    def flush(self, peer: int) -> bool:
        """Send what is staged, or a keepalive. False without a usable key or an endpoint."""
        result = lib.tc_peer_flush(self._handle, peer)
        if result in (-errno.ENOKEY, -errno.EDESTADDRREQ):
            return False
        check("flush", result)
        return True

    def drop_staged(self, peer: int) -> None:
        """Drop the packets that wait for a key; the next one asks for a handshake anew."""
        check("drop_staged", lib.tc_peer_drop_staged(self._handle, peer))

    def idle(self, peer: int) -> None:
        """Ask for an ACTIVE event at the peer's next packet."""
        check("idle", lib.tc_peer_idle(self._handle, peer))

    def touch(self, peer: int, size: int) -> None:
        """Account for an authenticated handshake message of `size` bytes from the peer."""
        check("touch", lib.tc_peer_touch(self._handle, peer, size))

    def send_to_peer(self, peer: int, data: bytes, ds: int = 0) -> bool:
        """Send a handshake message to the peer's endpoint. False when the network refuses it."""
        return _sent(
            "send_to_peer", lib.tc_peer_send(self._handle, peer, octets(data), len(data), ds)
        )

    def send(self, endpoint: Endpoint, data: bytes, ds: int = 0) -> bool:
        """Send a handshake message to an address. False when the network refuses it."""
        _fill_endpoint(self._endpoint, endpoint)
        return _sent("send", lib.tc_send(self._handle, self._endpoint, octets(data), len(data), ds))

    # ---- allowed IPs ----

    def allow(self, peer: int, network: Network) -> None:
        """Give a network to a peer, taking it from another that may have it."""
        check("allow", lib.tc_allowed_add(self._handle, peer, *_network(network)))

    def disallow(self, peer: int, network: Network) -> None:
        """Take a network from a peer. EngineError ENOENT when it does not have exactly this one."""
        check("disallow", lib.tc_allowed_remove(self._handle, peer, *_network(network)))

    def clear_allowed(self, peer: int) -> None:
        """Take all networks from a peer."""
        check("clear_allowed", lib.tc_allowed_clear(self._handle, peer))

    def find_allowed(self, address: Address) -> int | None:
        """Return the peer whose longest prefix holds the address."""
        peer = lib.tc_allowed_find(self._handle, address.version, octets(address.packed))
        return None if peer < 0 else int(peer)


def _counter_names() -> list[str]:
    names = (lib.tc_counter_name(i) for i in range(_COUNTERS))
    return [ffi.string(name).decode("ascii") for name in names if name != ffi.NULL]


def _network(network: Network) -> tuple[int, Any, int]:
    return network.version, octets(network.network_address.packed), network.prefixlen


def _sent(call: str, result: int) -> bool:
    if result < 0 and result not in (-errno.EINVAL, -errno.ENOENT):
        return False  # counted by reason
    check(call, result)
    return True


def _read_event(event: Any) -> Event:
    return Event(
        kind=_KINDS[event.kind],
        peer=None if event.peer == lib.TC_NO_PEER else event.peer,
        value=event.value,
        data=bytes(ffi.buffer(event.data, event.length)) if event.length else b"",
        endpoint=_read_endpoint(event.endpoint),
        path=event.endpoint.path,
    )
