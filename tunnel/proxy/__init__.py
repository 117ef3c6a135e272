"""Proxies and forwards: ways into a tunnel for programs that know nothing of it."""

from __future__ import annotations

from tunnel import compiled

compiled.install()
