"""The userspace stack on asyncio: the shell around the cores of `tunnel.netstack`."""

from tunnel.netstack.aio.net import NetStack as NetStack

__all__ = ["NetStack"]
