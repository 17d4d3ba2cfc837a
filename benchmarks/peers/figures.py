"""The arithmetic: medians over rounds, percentiles, ratios, how many messages make a good run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

Figures = dict[str, float]

LEAST = 1_000  # messages in a drain
MOST = 400_000


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs."""
    return {field: statistics.median(run[field] for run in runs) for field in runs[0]}


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent are not above."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def messages(rate: float, seconds: float, most: int = 0) -> int:
    """How many messages take about so many seconds at this rate, to the hundred."""
    wanted = max(LEAST, min(MOST, round(rate * seconds, -2)))
    return int(min(wanted, most) if most else wanted)


def best(figures: Mapping[str, float], names: Iterable[str], *, high: bool) -> float | None:
    """The best figure of those named, None where none of them has one."""
    found = [figures[name] for name in names if name in figures]
    if not found:
        return None
    return max(found) if high else min(found)


def ratio(value: float, base: float | None) -> float | None:
    """How many times the base."""
    return value / base if base else None
