"""The core's primitives as a shared library: what the module does not export is tested from here.

Compiled from native/src when a test first asks for it, so that tests see the sources as they are.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parent.parent / "native"
KERNEL_FILES = (
    "aead_kernel",
    "chacha_avx512",
    "chacha_avx2",
    "poly_avx512",
    "poly_ifma",
    "poly_pair",
)
PRIMITIVES = ("mac", "limiter", "replay", "checksum", "wipe", *KERNEL_FILES)
SOURCES = (
    *(NATIVE / "src" / f"{name}.c" for name in PRIMITIVES),
    NATIVE / "tests" / "ifma_emulator.c",  # in the place of has_ifma.c
)


class Endpoint(ctypes.Structure):
    """`tc_endpoint` of tunnel_core.h."""

    _fields_ = (
        ("family", ctypes.c_uint8),
        ("path", ctypes.c_uint8),
        ("port", ctypes.c_uint16),
        ("scope", ctypes.c_uint32),
        ("src_interface", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 16),
        ("src", ctypes.c_uint8 * 16),
    )


class Replay(ctypes.Structure):
    """`tc_replay` of replay.h."""

    _fields_ = (("newest", ctypes.c_uint64), ("bitmap", ctypes.c_uint64 * 128))


class ChachaRun(ctypes.Structure):
    """`tc_chacha_run` of aead_kernel.h."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("counters", ctypes.c_uint32 * 4),
        ("in_", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("bytes", ctypes.c_uint32),
    )


class PolyMessage(ctypes.Structure):
    """`tc_poly_message` of poly_pair.h."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data", ctypes.c_char_p),
        ("length", ctypes.c_uint32),
        ("end", ctypes.c_uint64 * 2),
        ("tag", ctypes.c_void_p),
    )


class PolyPair(ctypes.Structure):
    """`tc_poly_pair` of poly_pair.h."""

    _fields_ = (
        ("lanes", ctypes.c_uint64 * 9 * 2),
        ("messages", ctypes.POINTER(PolyMessage)),
        ("next", ctypes.c_size_t),
        ("limit", ctypes.c_size_t),
    )


class Kernel(ctypes.Structure):
    """`tc_aead_kernel` of aead_kernel.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("lanes", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("least", ctypes.c_uint32),
        ("make_keys", ctypes.c_void_p),
        (
            "crypt",
            ctypes.CFUNCTYPE(
                None, ctypes.POINTER(ChachaRun), ctypes.c_size_t, ctypes.POINTER(PolyPair)
            ),
        ),
        ("authenticate", ctypes.CFUNCTYPE(None, ctypes.POINTER(PolyMessage), ctypes.c_size_t)),
    )


KERNELS = ("avx512ifma", "avx512", "avx2")


@functools.cache
def native_library() -> ctypes.CDLL:
    """Return the library; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "primitives.so"
        subprocess.run(
            [
                compiler,
                *("-shared", "-fPIC", "-O2", "-std=gnu11", "-D_GNU_SOURCE"),
                *(f"-I{NATIVE / name}" for name in ("include", "src")),
                *(str(source) for source in SOURCES),
                *("-lcrypto", "-o", str(path)),
            ],
            check=True,
        )
        library = ctypes.CDLL(str(path))  # stays mapped when the file goes
    word, pointer = ctypes.c_uint64, ctypes.c_void_p
    for name in KERNELS:
        getattr(library, f"tc_kernel_{name}").restype = ctypes.POINTER(Kernel)
    for name, result, arguments in (
        ("tc_mac_new", pointer, ()),
        ("tc_mac_free", None, (pointer,)),
        ("tc_mac_key", ctypes.c_int, (pointer, ctypes.c_char_p, ctypes.c_char_p, pointer)),
        ("tc_mac1_valid", ctypes.c_bool, (pointer, ctypes.c_char_p, pointer, ctypes.c_size_t)),
        (
            "tc_mac2_valid",
            ctypes.c_bool,
            (pointer, ctypes.c_char_p, pointer, pointer, ctypes.c_size_t),
        ),
        ("tc_cookie", ctypes.c_int, (pointer, ctypes.c_char_p, pointer, pointer)),
        ("tc_poly_pair_init", None, (pointer, pointer)),
        ("tc_poly_pair_advance", ctypes.c_bool, (pointer,)),
        ("tc_limiter_new", pointer, (word,)),
        ("tc_limiter_free", None, (pointer,)),
        ("tc_limiter_allow", ctypes.c_bool, (pointer, pointer, word)),
        ("tc_replay_accept", ctypes.c_bool, (pointer, word)),
        ("tc_checksum_add", word, (word, ctypes.c_char_p, ctypes.c_size_t)),
        ("tc_checksum_copy", word, (word, pointer, ctypes.c_char_p, ctypes.c_size_t)),
        ("tc_checksum_fold", ctypes.c_uint16, (word,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
