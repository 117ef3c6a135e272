"""Key material that is never shown and is wiped when its owner is done with it.

`Secret` holds one key. `redact` is the second line of defence: it hides whatever looks like a key
in text that a person wrote (a value in the wrong place, a hook's command or output) before that
text reaches an error, a report or the log.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final

KEY_BYTES: Final = 32

# A key is 43 characters of base64 and '=', or 64 of hex. Somewhat shorter runs are hidden too, for
# a key with a typing mistake in it; much shorter ones would hide plain paths.
_KEY_LIKE: Final = re.compile(r"[A-Za-z0-9+/]{32,}=*")


class _Wiped(bytearray):
    """A buffer that is zeroed when nobody holds it any more, on whatever way out that was."""

    def __del__(self) -> None:
        self[:] = bytes(len(self))


class Secret:
    """32 secret bytes in a bytearray. repr and str hide them; `wipe` zeroes them.

    Comparison is constant-time. `reveal` gives the live buffer, not a copy: do not keep it. What
    nobody has wiped is zeroed when it is collected.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(data)}")
        self._data = _Wiped(data)

    def reveal(self) -> bytearray:
        """Return the live buffer."""
        return self._data

    def copy(self) -> Secret:
        """Return an independent copy, with an owner of its own to wipe it."""
        return Secret(self._data)

    def base64(self) -> str:
        """Return wg's text form; for key files and `wg showconf` only."""
        return base64.b64encode(self._data).decode("ascii")

    def clamp(self) -> bool:
        """Make a Curve25519 private key of the bytes (RFC 7748, section 5); True if it changed."""
        first, last = self._data[0], self._data[31]
        self._data[0] = first & 0b1111_1000
        self._data[31] = last & 0b0111_1111 | 0b0100_0000
        return (self._data[0], self._data[31]) != (first, last)

    def wipe(self) -> None:
        """Zero the bytes; the object stays usable as an all-zero key."""
        self._data[:] = bytes(len(self._data))

    def __bool__(self) -> bool:
        return any(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def redact(text: str) -> str:
    """Return the text with everything that looks like a key replaced by '(hidden)'."""
    return _KEY_LIKE.sub("(hidden)", text)
