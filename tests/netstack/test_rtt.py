"""RFC 6298 by its own paragraph numbers."""

from __future__ import annotations

from tunnel.netstack.rtt import INITIAL_RTO, MAX_RTO, MILLISECOND, MIN_RTO, RoundTrip


def test_2_1_before_a_sample_the_timeout_is_a_second() -> None:
    assert RoundTrip().timeout == INITIAL_RTO == 1_000 * MILLISECOND


def test_2_2_the_first_sample_sets_both() -> None:
    trip = RoundTrip()
    trip.sample(100 * MILLISECOND)
    assert (trip.smoothed, trip.variation) == (100 * MILLISECOND, 50 * MILLISECOND)
    assert trip.timeout == 300 * MILLISECOND


def test_2_3_later_samples_move_by_an_eighth_and_a_quarter() -> None:
    trip = RoundTrip()
    trip.sample(100 * MILLISECOND)
    trip.sample(180 * MILLISECOND)
    assert trip.variation == (3 * 50 + 80) * MILLISECOND // 4
    assert trip.smoothed == (7 * 100 + 180) * MILLISECOND // 8


def test_the_timeout_has_a_floor() -> None:
    trip = RoundTrip()
    for _ in range(100):
        trip.sample(MILLISECOND)
    assert trip.timeout == MIN_RTO


def test_5_5_backing_off_doubles_up_to_a_minute_and_5_7_a_sample_ends_it() -> None:
    trip = RoundTrip()
    trip.sample(100 * MILLISECOND)
    seen = [trip.timeout // MILLISECOND]
    for _ in range(12):
        trip.back_off()
        seen.append(trip.timeout // MILLISECOND)
    assert seen[:4] == [300, 600, 1200, 2400]
    assert seen[-1] == MAX_RTO // MILLISECOND
    trip.sample(100 * MILLISECOND)
    assert trip.timeout < 300 * MILLISECOND


def test_the_minimum_is_kept() -> None:
    trip = RoundTrip()
    for value in (30, 10, 20):
        trip.sample(value * MILLISECOND)
    assert (trip.minimum, trip.latest) == (10 * MILLISECOND, 20 * MILLISECOND)
