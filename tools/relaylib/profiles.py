"""Paths by name. Each figure has a source, or is said to be our choice.

The satellite's rates were looked up; what RFCs, standards and papers are quoted for was written
down from memory, so look it up before you build on it. Two things that real paths do are left out:
rates that change, and losses that come in bursts.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.relaylib.settings import Link, Path


@dataclass(frozen=True)
class Profile:
    """A path with a name; `about` is one line."""

    name: str
    path: Path
    about: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "satellite",
            # Delay: up to the geostationary orbit and down again is 240 to 279 ms (RFC 2488,
            # section 2); measured round trips are 600 ms and more (Ookla, Q3 2021: medians of
            # Viasat 629 ms, HughesNet 744 ms), the rest being coding and waiting for a slot.
            # Rate: the same medians, 19 Mbit/s down and 3 up.
            # Loss: one bit in 10^7 (RFC 2488) is 0.12 % of datagrams of 1,500 bytes.
            # Jitter and queue (half a second at the rate): our choice.
            Path(
                Link(delay=310, jitter=20, loss=0.12, rate=3, queue=190_000),
                Link(delay=310, jitter=20, loss=0.12, rate=19, queue=1_190_000),
            ),
            "geostationary internet access: 620 ms there and back, 3 Mbit/s up, 19 down",
        ),
        Profile(
            "lte",
            # Delay and rate: medians of Huang et al., "A close examination of performance and power
            # characteristics of 4G LTE networks" (MobiSys 2012): 69.5 ms there and back, 12.7
            # Mbit/s down, 5.6 up.
            # Jitter: one retransmission by HARQ takes 8 ms (3GPP TS 36.321, FDD).
            # Loss: the radio link repeats until it is through; 10^-6 remains (3GPP TS 23.203, table
            # 6.1.7, QCI 8 and 9). It also delivers in order.
            # Queue: deep, hundreds of kilobytes and more (Jiang et al., "Tackling bufferbloat in
            # 3G/4G networks", IMC 2012); the very number is our choice.
            Path(
                Link(delay=35, jitter=8, loss=0.0001, rate=5.6, queue=500_000),
                Link(delay=35, jitter=8, loss=0.0001, rate=12.7, queue=1_000_000),
            ),
            "a phone's network: 70 ms there and back, 5.6 Mbit/s up, 12.7 down, deep queues",
        ),
        Profile(
            "lossy-wifi",
            # Loss: a frame is sent seven times (IEEE 802.11, dot11ShortRetryLimit); where half of
            # all fail, as on many links of Aguayo et al., "Link-level measurements from an 802.11b
            # mesh network" (SIGCOMM 2004), 0.5^7 = 0.8 % remain; 1 % is 0.52^7.
            # Duplicates: an acknowledgment that is lost makes one, which 802.11 removes but not
            # always; reordering: where block acknowledgments give up. Both, and all else: our
            # choice.
            Path(
                Link(delay=6, jitter=5, loss=1, rate=20, queue=250_000, reorder=0.2, duplicate=0.1),
                Link(delay=6, jitter=5, loss=1, rate=20, queue=250_000, reorder=0.2, duplicate=0.1),
            ),
            "at the edge of an access point's reach: 1 % lost, 20 Mbit/s, some out of order",
        ),
    )
}
