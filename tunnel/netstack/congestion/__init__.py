"""Congestion control: a small interface and the algorithms that implement it, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tunnel.netstack.congestion.bbr import BBR
from tunnel.netstack.congestion.control import AckSample, CongestionControl
from tunnel.netstack.congestion.cubic import Cubic
from tunnel.netstack.congestion.newreno import NewReno

ALGORITHMS: Final[dict[str, Callable[[int], CongestionControl]]] = {
    "bbr": BBR,
    "cubic": Cubic,
    "newreno": NewReno,
}

__all__ = ["ALGORITHMS", "BBR", "AckSample", "CongestionControl", "Cubic", "NewReno"]
