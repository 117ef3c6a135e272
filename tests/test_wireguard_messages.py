"""Wire layouts: sizes, types, and what is not a message. Scapy reads our bytes independently."""

from __future__ import annotations

import pytest

from providers.wireguard.messages import CookieReply, Initiation, Response, parse, sender_of

INITIATION = Initiation(0x01020304, b"e" * 32, b"s" * 48, b"t" * 28, b"1" * 16, b"2" * 16)
RESPONSE = Response(0x01020304, 0x05060708, b"e" * 32, b"n" * 16, b"1" * 16, b"2" * 16)
COOKIE = CookieReply(0x05060708, b"n" * 24, b"c" * 32)
MESSAGES = [(INITIATION, 148), (RESPONSE, 92), (COOKIE, 64)]
IDS = ["initiation", "response", "cookie reply"]


@pytest.mark.parametrize(("message", "size"), MESSAGES, ids=IDS)
def test_there_and_back(message, size):
    packed = message.pack()
    assert len(packed) == size
    assert parse(packed) == message


@pytest.mark.parametrize(("message", "size"), MESSAGES, ids=IDS)
@pytest.mark.parametrize("delta", [-1, 1, 16])
def test_any_other_size_is_refused(message, size, delta):
    assert parse((message.pack() + bytes(16))[: size + delta]) is None


@pytest.mark.parametrize(("message", "size"), MESSAGES, ids=IDS)
@pytest.mark.parametrize("position", [1, 2, 3])
def test_the_three_bytes_after_the_type_must_be_zero(message, size, position):
    packed = bytearray(message.pack())
    packed[position] = 1
    assert parse(bytes(packed)) is None


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0", bytes(148), b"\4" + bytes(147)])
def test_what_is_not_a_message(data):
    assert parse(data) is None


def test_sender_of():
    assert sender_of(INITIATION.pack()) == sender_of(RESPONSE.pack()) == 0x01020304


def test_scapy_reads_the_same_fields():
    wireguard = pytest.importorskip("scapy.contrib.wireguard")
    first = wireguard.Wireguard(INITIATION.pack())[wireguard.WireguardInitiation]
    assert first.sender_index == INITIATION.sender
    assert bytes(first.unencrypted_ephemeral) == INITIATION.ephemeral
    assert bytes(first.encrypted_static) == INITIATION.static
    assert bytes(first.encrypted_timestamp) == INITIATION.timestamp
    assert (bytes(first.mac1), bytes(first.mac2)) == (INITIATION.mac1, INITIATION.mac2)
    second = wireguard.Wireguard(RESPONSE.pack())[wireguard.WireguardResponse]
    assert (second.sender_index, second.receiver_index) == (RESPONSE.sender, RESPONSE.receiver)
    assert bytes(second.unencrypted_ephemeral) == RESPONSE.ephemeral
    assert bytes(second.encrypted_nothing) == RESPONSE.empty
    cookie = wireguard.Wireguard(COOKIE.pack())[wireguard.WireguardCookieReply]
    assert cookie.receiver_index == COOKIE.receiver
    assert bytes(cookie.nonce) == COOKIE.nonce
    assert bytes(cookie.encrypted_cookie) == COOKIE.cookie
