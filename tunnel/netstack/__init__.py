"""The userspace TCP/IP stack. Its state machines run compiled, where they can: tunnel.compiled."""

from __future__ import annotations

from tunnel import compiled

compiled.install()
