"""Which AEAD `--crypto` chooses, and which fallbacks `--without` forces."""

from __future__ import annotations

import pytest

from tunnel.daemon.options import CRYPTO, WITHOUT
from tunnel.engine import NO_AVX2, NO_AVX512, NO_COALESCE_TCP, NO_IFMA, NO_UDP_GRO
from tunnel.errors import MissingFacilityError
from tunnel.primitives import (
    CRYPTO_CHOICES,
    WITHOUT_CHOICES,
    crypto_flags,
    crypto_name,
    without_flags,
)


def test_the_command_line_offers_what_there_is() -> None:
    assert CRYPTO == CRYPTO_CHOICES
    assert WITHOUT == WITHOUT_CHOICES


def test_fallbacks_of_the_engine_can_be_forced_together() -> None:
    assert without_flags(()) == without_flags(WITHOUT[:3]) == 0
    assert without_flags(["udp-gro", "coalesce-tcp", "udp-gro"]) == NO_UDP_GRO | NO_COALESCE_TCP
    assert without_flags(WITHOUT) == without_flags(["tun-uso", *WITHOUT[3:]])


@pytest.mark.parametrize(
    ("choice", "without"), [("avx512ifma", 0), ("avx512", NO_IFMA), ("avx2", NO_AVX512)]
)
def test_a_kernel_is_taken_where_the_processor_has_it(choice: str, without: int) -> None:
    if crypto_name(without) != choice:
        pytest.skip(f"this processor has no {choice}")
    assert crypto_name(crypto_flags(choice)) == choice


def test_without_vector_kernels_libcrypto_remains() -> None:
    assert crypto_flags("libcrypto") == NO_AVX512 | NO_AVX2
    assert crypto_name(crypto_flags("libcrypto")) == "libcrypto"


def test_what_the_processor_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.primitives.crypto_name", lambda flags=0: "libcrypto")
    with pytest.raises(MissingFacilityError, match=r"avx2.*does not have it.*libcrypto"):
        crypto_flags("avx2")
