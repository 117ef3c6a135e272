from __future__ import annotations

from random import Random

import pytest

from tunnel.netstack.sequence import MODULUS, unwrap, wrap


@pytest.mark.parametrize(
    ("wire", "near", "position"),
    [
        (0, 0, 0),
        (5, MODULUS, MODULUS + 5),
        (MODULUS - 1, MODULUS, MODULUS - 1),
        (MODULUS - 1, 0, -1),
        (0, MODULUS - 1, MODULUS),
        (1 << 31, 0, -(1 << 31)),
    ],
)
def test_unwrap_takes_the_closest_position(wire: int, near: int, position: int) -> None:
    assert unwrap(wire, near) == position


def test_unwrap_undoes_wrap_within_half_the_space() -> None:
    random = Random(1)
    for _ in range(10_000):
        near = random.randrange(1 << 48)
        position = near + random.randrange(-(1 << 31), 1 << 31)
        assert unwrap(wrap(position), near) == position
