"""Sealing and opening one packet, in the core's own batches and by a call from Python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tunnel import open_, seal
from tunnel.engine import NO_AVX2, NO_AVX512, NO_IFMA
from tunnel.primitives import crypto_name

SIZES = (64, 512, 1420)
BATCH, BATCHES = 64, 16
KEY = bytes(range(32))
CHOICES = {
    "avx512ifma": 0,
    "avx512": NO_IFMA,
    "avx2": NO_AVX512,
    "libcrypto": NO_AVX512 | NO_AVX2,
}


@pytest.fixture(params=CHOICES)
def flags(request: pytest.FixtureRequest) -> int:
    choice: int = CHOICES[request.param]
    if crypto_name(choice) != request.param:
        pytest.skip(f"this processor has no {request.param}")
    return choice


@pytest.fixture(params=SIZES)
def batch(
    request: pytest.FixtureRequest, loops: ctypes.CDLL, flags: int
) -> Iterator[ctypes.c_void_p]:
    made = ctypes.c_void_p(loops.bench_aead_new(request.param, flags))
    assert made.value
    yield made
    loops.bench_aead_free(made)


@pytest.mark.benchmark(group="seal")
def test_seal_in_core(
    loops: ctypes.CDLL, measured: Callable[..., Any], batch: ctypes.c_void_p
) -> None:
    count = BATCH * BATCHES
    assert measured(count, loops.bench_seal, batch, BATCHES) == count


@pytest.mark.benchmark(group="open")
def test_open_in_core(
    loops: ctypes.CDLL, measured: Callable[..., Any], batch: ctypes.c_void_p
) -> None:
    # Opening in the place of the plaintext: what was sealed stays as it is, so it opens again.
    count = BATCH * BATCHES
    assert measured(count, loops.bench_open, batch, BATCHES) == count


@pytest.mark.benchmark(group="seal")
@pytest.mark.parametrize("size", SIZES)
def test_seal_from_python(measured: Callable[..., Any], size: int) -> None:
    assert len(measured(1, seal, KEY, 1, bytes(size))) == size + 16


@pytest.mark.benchmark(group="open")
@pytest.mark.parametrize("size", SIZES)
def test_open_from_python(measured: Callable[..., Any], size: int) -> None:
    assert measured(1, open_, KEY, 1, seal(KEY, 1, bytes(size))) == bytes(size)
