"""Which AEAD `--crypto` chooses."""

from __future__ import annotations

import pytest

from tunnel.daemon.options import CRYPTO
from tunnel.engine import NO_AVX2, NO_AVX512
from tunnel.errors import MissingFacilityError
from tunnel.primitives import CRYPTO_CHOICES, crypto_flags, crypto_name


def test_the_command_line_offers_what_there_is() -> None:
    assert CRYPTO == CRYPTO_CHOICES


@pytest.mark.parametrize("choice", ["avx512", "avx2"])
def test_a_kernel_is_taken_where_the_processor_has_it(choice: str) -> None:
    if crypto_name(NO_AVX512 if choice == "avx2" else 0) != choice:
        pytest.skip(f"this processor has no {choice}")
    assert crypto_name(crypto_flags(choice)) == choice


def test_without_vector_kernels_libcrypto_remains() -> None:
    assert crypto_flags("libcrypto") == NO_AVX512 | NO_AVX2
    assert crypto_name(crypto_flags("libcrypto")) == "libcrypto"


def test_what_the_processor_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.primitives.crypto_name", lambda flags=0: "libcrypto")
    with pytest.raises(MissingFacilityError, match=r"avx2.*does not have it.*libcrypto"):
        crypto_flags("avx2")
