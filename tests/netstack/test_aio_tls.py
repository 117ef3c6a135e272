"""TLS over the stack's transports, both sides, on both loops."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.loops import Runner
from tests.netstack.certificates import NAME, contexts
from tests.netstack.pairs import BOB, settled, two_stacks

DATA = bytes(range(256)) * 8000


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_bytes_come_back_and_the_certificate_is_known(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(echo, None, 443, ssl=server)
            reader, writer = await alice.open_connection(
                BOB[0], 443, ssl=client, server_hostname=NAME
            )
            assert writer.get_extra_info("peercert")["subject"][0][0][1] == NAME
            assert writer.get_extra_info("cipher")
            assert writer.get_extra_info("peername") == (BOB[0], 443)

            async def send() -> None:
                for start in range(0, len(DATA), 50_000):
                    writer.write(DATA[start : start + 50_000])
                    await writer.drain()

            sending = asyncio.create_task(send())
            assert await reader.readexactly(len(DATA)) == DATA
            await sending
            writer.close()
            await writer.wait_closed()
            await settled(alice, bob)

    run(work())


@pytest.mark.parametrize("name", ["other.test", BOB[0]])
def test_a_wrong_name_is_refused(run: Runner, tmp_path: Path, name: str) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(echo, None, 443, ssl=server)
            with pytest.raises(ssl.SSLCertVerificationError):
                await alice.open_connection(BOB[0], 443, ssl=client, server_hostname=name)
            await settled(alice, bob)

    run(work())


def test_a_handshake_that_nobody_answers_ends_in_time(run: Runner, tmp_path: Path) -> None:
    _, client = contexts(tmp_path)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(mute, None, 443)
            with pytest.raises(TimeoutError, match="TLS handshake"):
                await alice.open_connection(BOB[0], 443, ssl=client, server_hostname=NAME,
                                            ssl_handshake_timeout=0.05)  # fmt: skip
            await settled(alice, bob)

    run(work())


def test_a_cancelled_handshake_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    _, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            accepted = asyncio.Event()
            await bob.start_server(lambda r, w: accepted.set(), None, 443)
            opening = asyncio.create_task(
                alice.open_connection(BOB[0], 443, ssl=client, server_hostname=NAME)
            )
            await accepted.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await settled(alice, bob)

    run(work())


def test_a_peer_that_speaks_no_tls_is_an_error(run: Runner, tmp_path: Path) -> None:
    _, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(echo, None, 80)
            with pytest.raises(ssl.SSLError):
                await alice.open_connection(BOB[0], 80, ssl=client, server_hostname=NAME)
            await settled(alice, bob)

    run(work())


def test_a_stream_goes_over_to_tls(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"OK\n")
        protocol = writer.transport.get_protocol()
        await bob.start_tls(writer.transport, protocol, server, server_side=True)

    async def work() -> None:
        nonlocal bob
        async with two_stacks() as (alice, bob_net):
            bob = bob_net
            await bob.start_server(upgrade, None, 25)
            reader, writer = await alice.open_connection(BOB[0], 25)
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"OK\n"
            transport = await alice.start_tls(
                writer.transport, writer.transport.get_protocol(), client, server_hostname=NAME
            )
            assert transport.get_extra_info("cipher")
            transport.close()

    from tunnel.netstack.aio import NetStack

    bob: NetStack
    run(work())


def test_a_streams_writer_goes_over_to_tls(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"OK to " + await reader.readline())
        await writer.start_tls(server)
        await echo(reader, writer)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(upgrade, None, 25)
            reader, writer = await alice.open_connection(BOB[0], 25)
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"OK to STARTTLS\n"
            await writer.start_tls(client, server_hostname=NAME)
            assert writer.get_extra_info("cipher")
            writer.write(DATA[:100_000])
            assert await reader.readexactly(100_000) == DATA[:100_000]
            writer.close()
            await writer.wait_closed()
            reader, writer = await alice.open_connection(BOB[0], 25)
            writer.write(b"STARTTLS\n")
            assert await reader.readline()
            with pytest.raises(ssl.SSLCertVerificationError):
                await writer.start_tls(client, server_hostname="other.test")
            await settled(alice, bob)

    run(work())
