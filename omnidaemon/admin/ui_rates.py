"""How much is done per second: the counters, sampled in this process, and the plot of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise

import anyio
from msgspec import Struct

from omnidaemon.errors import OmniDaemonError
from omnidaemon.records import AgentMetrics, Metrics
from omnidaemon.stores.base import Store

logger = logging.getLogger("omnidaemon.admin")

EVERY_SECONDS = 5.0
BAR_SECONDS = 5
BARS = 120
RATE_SECONDS = 60.0
"""Rates are means over so long; only for so long the counters of each agent are kept."""

AgentKey = tuple[str, str]


class Counted(Struct, frozen=True):
    """Runs that succeeded, runs that failed, and deliveries given up."""

    processed: float = 0.0
    failed: float = 0.0
    dead: float = 0.0

    def since(self, earlier: Counted) -> Counted:
        """What was added; counters that were cleared meanwhile count from then."""
        if self.processed < earlier.processed or self.failed < earlier.failed:
            return self
        return Counted(
            self.processed - earlier.processed,
            self.failed - earlier.failed,
            max(0.0, self.dead - earlier.dead),
        )

    def plus(self, other: Counted) -> Counted:
        """The sums."""
        return Counted(
            self.processed + other.processed, self.failed + other.failed, self.dead + other.dead
        )

    def times(self, factor: float) -> Counted:
        """A share."""
        return Counted(self.processed * factor, self.failed * factor, self.dead * factor)


class Bar(Struct, frozen=True):
    """What was done per second within some seconds.

    Attributes:
        at: Unix time of its beginning.
        rates: Per second; None if nobody looked then.
    """

    at: float
    rates: Counted | None


class Rates:
    """Samples the counters: regularly where this process serves the API, else while pages are open.

    Args:
        store: Where the counters are.
        clock: Unix time, in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._metrics = Metrics(store)
        self._clock = clock
        self._sums: deque[tuple[float, Counted]] = deque()
        self._agents: deque[tuple[float, dict[AgentKey, Counted]]] = deque()
        self.latest: dict[AgentKey, AgentMetrics] = {}

    async def keep_sampling(self) -> None:
        """Looks every few seconds, until cancelled."""
        while True:
            try:
                with anyio.move_on_after(EVERY_SECONDS):
                    await self.sample()
            except OmniDaemonError as error:
                logger.debug("the counters cannot be sampled now: %s", error)  # health says it
            await anyio.sleep(EVERY_SECONDS)

    async def sample(self) -> None:
        """Reads the counters, and forgets what is too old for the plot."""
        by_topic = await self._metrics.totals()
        now = self._clock()
        self.latest = {(t, name): m for t, agents in by_topic.items() for name, m in agents.items()}
        counted = {
            key: Counted(metrics.processed, metrics.failed, metrics.dead)
            for key, metrics in self.latest.items()
        }
        total = Counted()
        for one in counted.values():
            total = total.plus(one)
        self._sums.append((now, total))
        self._agents.append((now, counted))
        while self._sums[0][0] < now - (BARS + 2) * BAR_SECONDS - EVERY_SECONDS:
            self._sums.popleft()
        while len(self._agents) > 2 and self._agents[1][0] <= now - RATE_SECONDS:
            self._agents.popleft()

    def per_second(self) -> dict[AgentKey, Counted]:
        """Of each agent, over the last minute or what is known of it."""
        if len(self._agents) < 2:
            return {}
        (start, before), (end, now) = self._agents[0], self._agents[-1]
        seconds = max(end - start, 0.001)
        # An agent without counters at the start had done nothing yet.
        return {
            key: counted.since(before.get(key, Counted())).times(1 / seconds)
            for key, counted in now.items()
        }

    def bars(self) -> list[Bar]:
        """The plot's: whole ones, the oldest first, up to now."""
        end = self._clock() // BAR_SECONDS * BAR_SECONDS
        start = end - BARS * BAR_SECONDS
        found: list[Counted | None] = [None] * BARS
        for (began, before), (ended, after) in pairwise(self._sums):
            if ended <= began:
                continue  # the clock was set back
            added = after.since(before)
            first = max(0, int((began - start) // BAR_SECONDS))
            last = min(BARS - 1, int((ended - start) // BAR_SECONDS))
            for index in range(first, last + 1):
                bar = start + index * BAR_SECONDS
                overlap = min(ended, bar + BAR_SECONDS) - max(began, bar)
                if overlap > 0:
                    share = added.times(overlap / (ended - began) / BAR_SECONDS)
                    found[index] = (found[index] or Counted()).plus(share)
        return [Bar(start + index * BAR_SECONDS, rates) for index, rates in enumerate(found)]


class Column(Struct, frozen=True):
    """A bar as it is drawn, in the units of the plot, which is 100 high.

    Attributes:
        x: Its left edge.
        good: The height of what succeeded.
        bad: The height of what failed, above.
        dead: Whether something was given up.
        text: What it says when pointed at.
    """

    x: int
    good: float
    bad: float
    dead: bool
    text: str


class Plot(Struct, frozen=True):
    """What the template draws.

    Attributes:
        columns: Those with something to show.
        width: In units; a bar takes ten.
        top: Runs per second at the upper edge.
        minutes: How long ago it begins.
        known: Whether anything has been sampled.
        text: The same for those who do not see it.
    """

    columns: list[Column]
    width: int
    top: float
    minutes: int
    known: bool
    text: str


_WINDOWS = (24, 60, BARS)


def plotted(bars: list[Bar]) -> Plot:
    """The plot of these bars: of the last two or five minutes, while no more is known."""
    empty = next((index for index, bar in enumerate(bars) if bar.rates is not None), len(bars))
    bars = bars[-next((some for some in _WINDOWS if some >= len(bars) - empty), BARS) :]
    known = [bar.rates for bar in bars if bar.rates is not None]
    highest = max((rates.processed + rates.failed for rates in known), default=0.0)
    top = _round_up(highest)
    columns = []
    for index, bar in enumerate(bars):
        rates = bar.rates
        if rates is None or not (rates.processed or rates.failed or rates.dead):
            continue
        good, bad = rates.processed / top * 100, rates.failed / top * 100
        text = f"{rates.processed:.2g}/s succeeded, {rates.failed:.2g}/s failed"
        if rates.dead:
            text += f", {rates.dead * BAR_SECONDS:.0f} given up"
        at = time.strftime("%H:%M:%S", time.gmtime(bar.at))
        columns.append(
            Column(index * 10, round(good, 2), round(bad, 2), rates.dead > 0, f"{at} UTC: {text}")
        )
    minutes = len(bars) * BAR_SECONDS // 60
    text = f"Runs per second over the last {minutes} minutes, at most {highest:.2g}"
    return Plot(columns, len(bars) * 10, top, minutes, bool(known), text)


def _round_up(value: float) -> float:
    """A round number that is not less, and not much more."""
    power = 0.1
    while True:
        for factor in (1, 1.5, 2, 3, 4, 5, 6, 8):
            if factor * power >= value:
                return factor * power
        power *= 10
