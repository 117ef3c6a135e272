"""Puts guard.py's table into the kernel and takes it out, with the sysctl that goes with it.

src_valid_mark belongs to the whole namespace: whoever needs it first notes the value that was
there, later ones take over that note, and only the last one to need it restores it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from tunnel.errors import TunnelError
from tunnel.policy import guard
from tunnel.policy.slot import Slot

NFT_TIMEOUT = 10.0
_SRC_VALID_MARK = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")


def put(slot: Slot, text: str) -> bool:
    """Put the table there; False where there is no nft command. Raises TunnelError."""
    if not slot.note().src_valid_mark:
        with contextlib.suppress(OSError):
            others = slot.others().values()
            former = next((note.src_valid_mark for note in others if note.src_valid_mark), None)
            value = former or _SRC_VALID_MARK.read_text().strip()
            slot.record(replace(slot.note(), src_valid_mark=value))
            _SRC_VALID_MARK.write_text("1")
    return _nft(text)


def remove(slot: Slot) -> None:
    """Remove the table, whether it is there or not, and restore the sysctl. Raises TunnelError."""
    former = slot.note().src_valid_mark
    slot.record(replace(slot.note(), src_valid_mark=""))
    if former and not any(note.src_valid_mark for note in slot.others().values()):
        with contextlib.suppress(OSError):
            _SRC_VALID_MARK.write_text(former)
    _nft(guard.removal(slot.number))


def listing(slot: Slot) -> str:
    """Return the table as the kernel has it, without counts; empty where it is not there."""
    command = _command()
    if command is None:
        return ""
    words = [command, "-s", "list", "table", "inet", guard.table_name(slot.number)]
    return subprocess.run(words, text=True, capture_output=True, timeout=NFT_TIMEOUT).stdout


def _command() -> str | None:
    return shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")


def _nft(text: str) -> bool:
    """Run one nft transaction; False where there is no nft. Raises TunnelError."""
    command = _command()
    if command is None:
        return False
    done = subprocess.run(
        [command, "-f", "-"], input=text, text=True, capture_output=True, timeout=NFT_TIMEOUT
    )
    if done.returncode:
        raise TunnelError(f"nft refused the tunnel's table: {done.stderr.strip().splitlines()[0]}")
    return True
