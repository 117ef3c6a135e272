"""Fixtures of the micro-benchmarks: `python -m pytest bench --benchmark-only`."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile loops.c with the core's own sources and options, and load it."""
    library = tmp_path_factory.mktemp("loops") / "loops.so"
    sources = [ROOT / "bench" / "loops.c", *sorted((ROOT / "native" / "src").glob("*.c"))]
    includes = [f"-I{ROOT / 'native' / part}" for part in ("include", "src")]
    subprocess.run(
        ["cc", "-std=gnu11", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden",
         "-fno-strict-aliasing", "-D_GNU_SOURCE", "-shared", *includes, *map(str, sources),
         "-lcrypto", "-lpthread", "-o", str(library)],
        check=True,
    )  # fmt: skip
    loaded = ctypes.CDLL(str(library))
    for name in ("bench_aead_new", "bench_table"):
        getattr(loaded, name).restype = ctypes.c_void_p
    return loaded


@pytest.fixture
def measured(benchmark: Any) -> Callable[..., Any]:
    """Benchmark a call that does `count` operations; nanoseconds each go into `extra_info`."""

    def run(count: int, call: Callable[..., Any], *arguments: Any) -> Any:
        result = benchmark(call, *arguments)
        stats = getattr(benchmark, "stats", None)
        if stats is not None:  # none with --benchmark-disable
            benchmark.extra_info["ns_each"] = round(stats.stats.median / count * 1e9, 1)
        return result

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print nanoseconds an operation, which the plugin's table has no column for."""
    session = getattr(config, "_benchmarksession", None)
    for one in getattr(session, "benchmarks", []):
        each = one.extra_info.get("ns_each")
        if each:
            rate = 1e9 / each
            terminalreporter.write_line(f"{one.name:48} {each:12,.1f} ns each {rate:16,.0f} a s")
