"""A client of the UAPI socket, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(path: Path, text: str) -> str:
    async with client(path) as (reader, writer):
        writer.write(text.encode())
        return (await reader.readuntil(b"\n\n")).decode()
