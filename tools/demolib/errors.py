"""What ends a demonstration early: one clear line."""

from __future__ import annotations


class DemoError(Exception):
    """Something that the demonstration needs did not happen, or is not there."""
