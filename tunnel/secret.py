"""Key material that is never shown and is wiped when its owner is done with it."""

from __future__ import annotations

import base64
import hmac
from typing import Final

KEY_BYTES: Final = 32


class Secret:
    """32 secret bytes in a bytearray. repr and str hide them; `wipe` zeroes them.

    Comparison is constant-time. `reveal` gives the live buffer, not a copy: do not keep it.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(data)}")
        self._data = bytearray(data)

    def reveal(self) -> bytearray:
        """Return the live buffer."""
        return self._data

    def copy(self) -> Secret:
        """Return an independent copy, with an owner of its own to wipe it."""
        return Secret(self._data)

    def base64(self) -> str:
        """Return wg's text form; for key files and `wg showconf` only."""
        return base64.b64encode(self._data).decode("ascii")

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
