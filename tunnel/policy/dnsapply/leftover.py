"""What a crashed tunneld left of its resolvers on this machine, and whose files these are.

`recover` runs at each start of tunneld and of tunnelctl, so it must cost nothing where nothing was
left: it looks for two names, and imports what it needs only when it finds one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tunnel.policy.dnsapply.guardedfile import RUN, STATE, GuardedFile, is_mounted

RESOLV_CONF: Final = Path("/etc/resolv.conf")
RECORDS: Final = Path("/run/resolvconf")
RECORD_BEFORE, RECORD_AFTER = "tun.", ".tunneld"
"""Around an interface's name in resolvconf's records. Debian's resolvconf sorts tun* early."""
_LINKS: Final = Path("/sys/class/net")
_SECONDS: Final = 10
_MACHINE: Final = Path("/proc/1")
_OURS: Final = Path("/proc/thread-self/ns/net")
_NAMED: Final = Path("/run/netns")


def recover(
    log: Callable[[str], None],
    path: Path = RESOLV_CONF,
    *,
    run: Path = RUN,
    state: Path = STATE,
) -> None:
    """Take back what a crashed tunneld left. Raises TunnelError."""
    if GuardedFile(path, run=run, state=state).recover():
        log(f"put {path} back as it was before a tunneld that crashed")
    records = sorted(RECORDS.glob(f"*/{RECORD_BEFORE}*{RECORD_AFTER}"))
    names = {r.name.removeprefix(RECORD_BEFORE).removesuffix(RECORD_AFTER) for r in records}
    stale = [name for name in sorted(names) if not (_LINKS / name).exists()]
    if stale and not belongs_to_another(RECORDS):
        import subprocess

        for name in stale:
            words = ["resolvconf", "-d", f"{RECORD_BEFORE}{name}{RECORD_AFTER}"]
            done = subprocess.run(
                words, capture_output=True, timeout=_SECONDS, check=False, umask=0o022
            )
            if done.returncode == 0:
                log(f"took back the resolvers of {name}, whose tunneld crashed")


def belongs_to_another(path: Path) -> bool:
    """Tell whether the path is the machine's, and this is another network namespace of it.

    To compare with the machine's first process takes the right to look at it. Without that, a
    namespace with a name (`ip netns`) has a file of its own only where one is mounted.
    """
    target = path.resolve()  # links that are followed below /proc/1/root would come back here
    while not target.exists():
        target = target.parent
    try:
        if _MACHINE.joinpath("ns/net").samefile(_OURS):
            return False
        return target.samefile(_MACHINE / "root" / target.relative_to("/"))
    except OSError:
        return _has_a_name() and not is_mounted(target)


def _has_a_name() -> bool:
    """Tell whether this network namespace is one that `ip netns` made."""
    for path in _NAMED.glob("*"):
        with contextlib.suppress(OSError):
            if path.samefile(_OURS):
                return True
    return False
