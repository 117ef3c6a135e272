"""Fakes for tests and for other people's providers: virtual time, a lossy network, an engine.

VirtualClock   time that moves when it is told to
LossyNetwork   datagrams between addresses, lost, doubled, delayed and overtaken by a seed
FakeEngine     the native engine's calls in Python, one packet at a time, all calls recorded
"""

from tunnel.testing.clock import VirtualClock as VirtualClock
from tunnel.testing.engine import FakeEngine as FakeEngine
from tunnel.testing.network import Datagram as Datagram, LossyNetwork as LossyNetwork

__all__ = ["Datagram", "FakeEngine", "LossyNetwork", "VirtualClock"]
