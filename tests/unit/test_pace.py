"""How many deliveries a consumer fetches ahead of its free slots, told on a clock of the test's."""

import pytest

from omnidaemon.worker import consumer
from omnidaemon.worker.consumer import PREFETCH_FAST, PREFETCH_MOST, _Pace


class Clock:
    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(consumer, "time", clock)
    return clock


def runs(pace, clock, count, *, seconds, every):
    for _ in range(count):
        clock.now += every
        pace.finished(seconds)


def test_nothing_is_fetched_ahead_before_the_first_run_has_ended(clock):
    assert _Pace(consumers=100).prefetch() == 0


def test_nothing_is_fetched_ahead_of_slow_runs(clock):
    pace = _Pace(consumers=100)
    runs(pace, clock, 100, seconds=0.06, every=0.0006)
    assert pace.prefetch() == 0


def test_what_will_start_within_50_ms_is_fetched_ahead_and_no_more_than_the_most(clock):
    pace = _Pace(consumers=1)
    for _ in range(50):
        runs(pace, clock, 5, seconds=0.001, every=0.001)
        pace.prefetch()
    assert 45 <= pace.prefetch() <= 55
    for _ in range(50):
        runs(pace, clock, 1000, seconds=0.00001, every=0.00001)
        pace.prefetch()
    assert pace.prefetch() == PREFETCH_MOST


def test_short_runs_are_fetched_ahead_however_rarely_their_turn_comes(clock):
    pace = _Pace(consumers=1)
    for _ in range(50):  # ten a second, each of 50 us: 200 other agents are busy as well
        runs(pace, clock, 1, seconds=0.00005, every=0.1)
        pace.prefetch()
    assert pace.prefetch() == PREFETCH_FAST


def test_runs_of_20_ms_that_come_rarely_are_fetched_ahead_by_their_length(clock):
    pace = _Pace(consumers=2)
    runs(pace, clock, 1, seconds=0.02, every=1.0)
    assert pace.prefetch() == 5


def test_after_a_stall_nothing_is_fetched_ahead_until_a_run_has_ended(clock):
    pace = _Pace(consumers=1)
    runs(pace, clock, 100, seconds=0.00005, every=0.01)
    assert pace.prefetch() == PREFETCH_FAST
    pace.stalled()
    clock.now += 10
    assert pace.prefetch() == 0
    runs(pace, clock, 1, seconds=0.00005, every=0.1)
    assert pace.prefetch() == PREFETCH_FAST
