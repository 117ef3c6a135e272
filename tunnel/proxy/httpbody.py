"""What of an HTTP/1 message's bytes is its head, and what its body (RFC 9112, sections 2 and 7).

Both take what comes, in pieces of any size, and say what follows from it.
"""

from __future__ import annotations

import re
from typing import Final

from tunnel.proxy.httphead import BadHead

HEAD_BYTES: Final = 65_536
_LINE_BYTES: Final = 4096  # of a chunk's size, with extensions that nobody needs
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class Head:
    """Collects a head's lines. Empty lines before it are skipped (RFC 9112, section 2.2).

    `bad` is the status of a head that is none; `rest` is what came behind it.
    """

    __slots__ = ("_bad", "rest")

    def __init__(self, bad: str = "400 Bad Request") -> None:
        self._bad = bad
        self.rest = b""

    def receive(self, data: bytes) -> list[bytes] | None:
        """Return the lines, without their ends, once all are there. Raises BadHead."""
        data = self.take() + data
        empty = _EMPTY_LINES.match(data)
        if empty is not None:
            data = data[empty.end() :]
        end = data.find(b"\r\n\r\n")
        size = len(data) if end < 0 else end
        if size >= HEAD_BYTES:
            at_fault = self._bad.startswith("4")
            raise BadHead("431 Request Header Fields Too Large" if at_fault else self._bad)
        if _BARE_LF.search(data, 0, size):
            raise BadHead(self._bad)
        if end < 0:
            self.rest = data
            return None
        self.rest = data[end + 4 :]
        return data[:end].split(b"\r\n")

    def take(self) -> bytes:
        """Take the rest."""
        rest, self.rest = self.rest, b""
        return rest


class Body:
    """A request's body: passes on what belongs to it and not a byte more.

    `length` None is for one in chunks, which are written anew, without extensions and trailers.
    """

    __slots__ = ("_ending", "_left", "_line", "_trailers", "over")

    def __init__(self, length: int | None) -> None:
        self._left = length or 0  # bytes of the body, or of the chunk
        self._line: bytes | None = b"" if length is None else None  # what came of one; chunks only
        self._ending = False  # the chunk's CRLF is to come
        self._trailers = 0  # bytes of them, with that of the last chunk's line
        self.over = length == 0

    def receive(self, data: bytes | memoryview) -> bytes | memoryview:
        """Return what is to go on. Raises BadHead for chunks that are none."""
        if self._line is None:
            data = data[: self._left]
            self._left -= len(data)
            self.over = not self._left
            return data
        return self._chunks(self._line + bytes(data))

    def _chunks(self, data: bytes) -> bytes:
        out = []
        at = 0
        while at < len(data) and not self.over:
            if self._left:
                out.append(data[at : at + self._left])
                at += len(out[-1])
                self._left -= len(out[-1])
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                break
            out.append(self._take(data[at:end]))
            at = end
        self._line = data[at:]
        if len(self._line) > _LINE_BYTES and not self.over:
            raise BadHead("400 Bad Request")
        return b"".join(out)

    def _take(self, line: bytes) -> bytes:
        """Take a line: the end of a chunk, the size of one, or a trailer."""
        if self._ending:
            self._ending = False
            if line != b"\r\n":
                raise BadHead("400 Bad Request")
            return line
        if self._trailers:
            self._trailers += len(line)
            if not line.endswith(b"\r\n") or self._trailers > HEAD_BYTES:
                raise BadHead("400 Bad Request")
            self.over = line == b"\r\n"
            return b"0\r\n\r\n" if self.over else b""
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise BadHead("400 Bad Request")
        self._left = int(found[1], 16)
        if not self._left:
            self._trailers = len(line)
            return b""
        self._ending = True
        return b"%x\r\n" % self._left
