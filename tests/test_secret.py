"""Secrets: hidden, compared, clamped and wiped."""

from __future__ import annotations

import copy
import pickle

import pytest

from tunnel.secret import Secret, redact

RAW = bytes(range(100, 132))


def test_nothing_prints_a_secret() -> None:
    secret = Secret(RAW)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret])):
        assert text in ("Secret(hidden)", "[Secret(hidden)]")


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies_behind_the_owners_back(copier: object) -> None:
    with pytest.raises(TypeError):
        copier(Secret(RAW))  # type: ignore[operator]


def test_equality_is_by_value() -> None:
    assert Secret(RAW) == Secret(bytearray(RAW))
    assert Secret(RAW) != Secret(bytes(32))
    assert Secret(RAW) != RAW
    with pytest.raises(TypeError):
        hash(Secret(RAW))


def test_wipe_zeroes_the_live_buffer() -> None:
    secret = Secret(RAW)
    buffer = secret.reveal()
    secret.wipe()
    assert buffer == bytes(32)
    assert not secret


def test_a_copy_has_a_life_of_its_own() -> None:
    secret = Secret(RAW)
    other = secret.copy()
    secret.wipe()
    assert other.reveal() == RAW


def test_what_nobody_wiped_is_zeroed_when_collected() -> None:
    secret = Secret(RAW)
    view = memoryview(secret.reveal())
    assert view == RAW
    secret.reveal().__del__()  # type: ignore[attr-defined]  # what collection runs
    assert view == bytes(32)


def test_revealing_a_temporary_still_gives_the_key() -> None:
    assert Secret(RAW).reveal() == RAW


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_only_32_bytes_are_a_key(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Secret(bytes(size))


@pytest.mark.parametrize(
    ("first", "last", "clamped_first", "clamped_last"),
    [
        (0xFF, 0xFF, 0xF8, 0x7F),
        (0x07, 0x80, 0x00, 0x40),
        (0x01, 0x40, 0x00, 0x40),
        (0x08, 0x3F, 0x08, 0x7F),
        (0x08, 0xC0, 0x08, 0x40),
    ],
)
def test_clamping(first: int, last: int, clamped_first: int, clamped_last: int) -> None:
    secret = Secret(bytes([first]) + bytes(30) + bytes([last]))
    assert secret.clamp()
    assert secret.reveal() == bytes([clamped_first]) + bytes(30) + bytes([clamped_last])
    assert not secret.clamp(), "clamped once is clamped"


def test_redact_hides_keys_in_both_spellings_and_leaves_the_rest() -> None:
    base64_key, hex_key = Secret(RAW).base64(), RAW.hex()
    shown = redact(f"wg set wg0 private-key <(echo {base64_key}) # {hex_key}")
    assert base64_key not in shown
    assert base64_key.rstrip("=") not in shown
    assert hex_key not in shown
    assert shown.startswith("wg set wg0 private-key <(echo (hidden)")
    assert redact("ip route add 2001:db8::/32 dev wg0") == "ip route add 2001:db8::/32 dev wg0"
