"""What a connection can be told to do, with the defaults that fit a tunnel."""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.netstack.rtt import SECOND


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes in bytes, times in nanoseconds."""

    segment: int = 1360  # the MSS that we announce: the tunnel's MTU less 60 (IPv6 and TCP)
    peer_segment: int = 536  # the peer's where it announces none (RFC 9293, 3.7.1); 1220 for IPv6
    send_buffer: int = 8 << 20  # repairs hold data back for round trips
    receive_buffer: int = 65_535  # at first
    receive_most: int = 6 << 20  # what autotuning may reach
    congestion: str = "bbr"
    pacing: bool = True
    timestamps: bool = True
    selective: bool = True
    scaling: bool = True
    ecn: bool = False
    nodelay: bool = False
    connect_timeout: int = 180 * SECOND  # R2 of a SYN: at least 3 minutes (RFC 9293, 3.8.3)
    user_timeout: int = 924 * SECOND  # data unacknowledged (RFC 5482); as long as the kernel tries
    announce_user_timeout: bool = False
    patience: int = 0  # how long the first acknowledgments may wait for data to go with
    keepalive: int = 0  # idle time before the first probe; 0 is off (RFC 9293, 3.8.4)
    keepalive_interval: int = 75 * SECOND
    keepalive_count: int = 9
    time_wait: int = 60 * SECOND  # 2 MSL

    @property
    def window_shift(self) -> int:
        """The smallest shift with which the largest buffer can be told (RFC 7323, 2.3)."""
        return min(max((self.receive_most >> 16).bit_length(), 0), 14) if self.scaling else 0
