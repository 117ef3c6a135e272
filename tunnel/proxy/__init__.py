"""Proxies and forwards: ways into a tunnel for programs that know nothing of it."""
