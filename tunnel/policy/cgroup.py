"""Control groups: a captive portal's opening may be for one (cgroup2).

Which group a socket belongs to is asked by the firewall (`socket cgroupv2`), but no routing rule
can ask for it. So each socket that is made in the group from now on gets a mark, which routing
rules do know: by a BPF program of four instructions that the kernel runs where a socket is made
(linux/bpf.h: BPF_CGROUP_INET_SOCK_CREATE), and which is gone when its file descriptor is closed,
with this process at the latest. Marks that nftables sets come too late: the route, and the source
address with it, were chosen before.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import Final

from tunnel.errors import MissingFacilityError, PrivilegeError, UsageError
from tunnel.settings import ControlGroup

_MOUNTS: Final = Path("/proc/self/mountinfo")
_LEVEL_MAX: Final = 255
_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280,
                   "armv7l": 386, "i686": 357, "ppc64le": 361, "s390x": 351}  # fmt: skip
# linux/bpf.h
_PROG_LOAD, _LINK_CREATE = 5, 28
_TYPE_CGROUP_SOCK, _INET_SOCK_CREATE = 9, 2
_MARK_OFFSET: Final = 16  # of `mark` in struct bpf_sock
_LOAD: Final = struct.Struct("=IIQQIIQII16sII")
_LINK: Final = struct.Struct("=IIII")


def control_group(name: str, mounts: Path = _MOUNTS) -> ControlGroup:
    """Return the control group that is meant: its folder, or its path as in /proc/PID/cgroup.

    Raises UsageError where there is none, or where it is the root, which everything is in, and
    MissingFacilityError where no cgroup2 is mounted.
    """
    points = [_unescaped(p) for p in _mount_points(mounts.read_text(encoding="utf-8"))]
    if not points:
        raise MissingFacilityError("--cgroup: there is no cgroup2 file system here; mount one")
    place = Path(os.path.normpath(name))
    for point in points:
        inside = place.is_relative_to(point)
        path = place.relative_to(point) if inside else Path(str(place).lstrip("/"))
        folder = point / path
        if not folder.is_dir() or ".." in path.parts:
            continue
        level = len(path.parts)
        if level == 0:
            raise UsageError("--cgroup: everything is in the root; name a group below it")
        if level > _LEVEL_MAX:
            raise UsageError(f"--cgroup: {name} lies too deep; name one of {_LEVEL_MAX} levels")
        return ControlGroup(str(folder), str(path), folder.stat().st_ino, level)
    raise UsageError(
        f"--cgroup: there is no control group {name!r}; name it as /proc/PID/cgroup does"
    )


def mark_sockets(group: ControlGroup, mark: int) -> int:
    """Give every socket that is made in the group from now on a mark; return a descriptor.

    It ends when that is closed. Raises MissingFacilityError, PrivilegeError, UsageError.
    """
    code = b"".join(
        struct.pack("=BBhi", operation, registers, offset, value)
        for operation, registers, offset, value in (
            (0xB7, 2, 0, mark),  # r2 = mark
            (0x63, 1 | 2 << 4, _MARK_OFFSET, 0),  # *(u32 *)(r1 + offset) = r2
            (0xB7, 0, 0, 1),  # r0 = 1: the socket may be made
            (0x95, 0, 0, 0),  # exit
        )
    )
    program = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"MIT")
    folder = -1
    try:
        folder = os.open(group.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        loaded = _bpf(
            _PROG_LOAD,
            _LOAD.pack(
                _TYPE_CGROUP_SOCK, len(code) // 8, ctypes.addressof(program),
                ctypes.addressof(licence), 0, 0, 0, 0, 0, b"tunneld", 0, _INET_SOCK_CREATE,
            ),
        )  # fmt: skip
        try:
            return _bpf(_LINK_CREATE, _LINK.pack(loaded, folder, _INET_SOCK_CREATE, 0))
        finally:
            os.close(loaded)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise UsageError(f"--cgroup: {group.path} is gone; name one that is there") from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PrivilegeError(
                "--cgroup: may not mark a control group's sockets; run tunneld with CAP_BPF too"
            ) from error
        raise MissingFacilityError(
            f"--cgroup: the kernel cannot mark a control group's sockets ({error.strerror}; "
            "CONFIG_CGROUP_BPF); open it for a user instead"
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)


def _mount_points(text: str) -> list[str]:
    """Return where cgroup2 is mounted with its root, as mountinfo writes it (proc(5))."""
    points = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        if tail.split(" ", 1)[0] == "cgroup2":
            points.append(head.split(" ")[4])
    return points


def _unescaped(point: str) -> Path:
    return Path(point.encode().decode("unicode_escape"))


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    library = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(attributes, len(attributes))
    done: int = library.syscall(number, command, room, len(attributes))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done
