"""The relay's statistics as a table."""

from __future__ import annotations

from typing import Any

_ROWS = (
    ("datagrams", "datagrams"),
    ("bytes", "bytes of payload"),
    ("lost", "lost"),
    ("dropped", "dropped at the queue"),
    ("reordered", "reordered"),
    ("duplicated", "duplicated"),
    ("corrupted", "corrupted"),
    ("sent", "sent on"),
    ("failed", "failed to send"),
    ("queue_highest", "queue, highest, bytes"),
    ("queue_average", "queue, average, bytes"),
    ("seconds", "seconds, first to last"),
)


def render(found: dict[str, Any]) -> str:
    """Return the table of a report; what need not be said is left out."""
    lines = [f"{'':24}{'up':>16}{'down':>16}"]
    for key, title in _ROWS:
        up, down = found["up"][key], found["down"][key]
        if key == "failed" and not (up or down):
            continue
        digits = 3 if key == "seconds" else 0
        lines.append(f"{title:24}{up:>16,.{digits}f}{down:>16,.{digits}f}")
    clients = f"clients: {found['clients_seen']}, {found['clients']} of them at work"
    if found["refused"]:
        clients += f"; {found['refused']} datagrams of further ones refused"
    lines.append(clients)
    if found["overrun"]:
        lines.append(
            f"{found['overrun']} datagrams came faster than this machine could take them: they are"
            " lost, and not counted above"
        )
    return "\n".join(lines)
