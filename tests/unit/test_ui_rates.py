"""How much is done per second: samples of the counters, and the plot of them."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
import pytest

from omnidaemon import App, stores
from omnidaemon.admin import Admin, ui_rates
from omnidaemon.admin.ui_rates import BARS, Bar, Counted, Rates, plotted
from omnidaemon.errors import StoreError
from omnidaemon.messages import Count
from omnidaemon.records import METRICS

pytestmark = pytest.mark.anyio


class Counters:
    """Counters of one agent, and the time."""

    def __init__(self, name: str) -> None:
        self.store: Any = stores.connect(f"memory://{name}")
        self.now = 1_000_000.0
        self.rates = Rates(self.store, lambda: self.now)

    async def add(self, seconds: float, agent: str = "a/x", **amounts: float) -> None:
        """What happens within so many seconds, at whose end somebody looks."""
        for name, amount in amounts.items():
            await self.store.write(Count(METRICS, agent, name, amount))
        self.now += seconds
        await self.rates.sample()


@pytest.fixture
def counters(request: pytest.FixtureRequest) -> Counters:
    return Counters(request.node.name)


async def test_rates_are_means_since_the_first_look(counters: Counters) -> None:
    await counters.add(0, processed=1000)
    assert counters.rates.per_second() == {}
    await counters.add(10, processed=20, failed=5)
    await counters.add(10, agent="a/new", processed=40)
    found = counters.rates.per_second()
    assert found["a", "x"] == Counted(1.0, 0.25, 0.0)
    assert found["a", "new"] == Counted(2.0, 0.0, 0.0)


async def test_rates_are_of_the_last_minute_alone(counters: Counters) -> None:
    await counters.add(0)
    await counters.add(5, processed=10_000)
    for _ in range(13):
        await counters.add(5, processed=5)
    assert counters.rates.per_second()["a", "x"].processed == pytest.approx(1.0)


async def test_counters_that_were_cleared_count_from_nothing(counters: Counters) -> None:
    await counters.add(0, processed=1000, failed=10)
    await counters.store.clear(METRICS)
    await counters.add(10, processed=30)
    assert counters.rates.per_second()["a", "x"] == Counted(3.0, 0.0, 0.0)


async def test_what_happened_between_two_looks_is_spread_over_the_bars_in_between(
    counters: Counters,
) -> None:
    await counters.add(0)
    await counters.add(20, processed=200, dead=4)
    await counters.add(2)
    bars = counters.rates.bars()
    assert len(bars) == BARS
    assert [bar.rates for bar in bars[-4:]] == [Counted(10.0, 0.0, 0.2)] * 4
    assert {bar.rates for bar in bars[:-4]} == {None}
    assert sum(bar.rates.processed * 5 for bar in bars if bar.rates) == pytest.approx(200)


async def test_a_clock_that_is_set_back_breaks_nothing(counters: Counters) -> None:
    await counters.add(0)
    await counters.add(-100, processed=10)
    await counters.add(10, processed=10)
    assert any(bar.rates for bar in counters.rates.bars())


async def test_what_is_older_than_the_plot_is_forgotten(counters: Counters) -> None:
    for _ in range(1000):
        await counters.add(5, processed=1)
    assert len(counters.rates._sums) <= BARS + 5
    assert len(counters.rates._agents) <= 15
    assert all(bar.rates is not None for bar in counters.rates.bars())


async def test_the_app_that_is_served_by_itself_samples_while_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ui_rates, "EVERY_SECONDS", 0.001)
    app = App("served", transport="memory")
    admin = Admin(app, auth="none")
    real, calls, enough = app.store.totals, count(1), anyio.Event()

    async def totals(*args: Any, **options: Any) -> Any:
        number = next(calls)
        if number == 2:
            raise StoreError("the disk is gone for a moment")
        if number == 4:
            enough.set()
        return await real(*args, **options)

    monkeypatch.setattr(app.store, "totals", totals)
    to_app, from_server = anyio.create_memory_object_stream[Any](2)
    to_server, from_app = anyio.create_memory_object_stream[Any](2)
    async with to_app, from_server, to_server, from_app, anyio.create_task_group() as group:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        group.start_soon(admin, scope, from_server.receive, to_server.send)
        await to_app.send({"type": "lifespan.startup"})
        assert await from_app.receive() == {"type": "lifespan.startup.complete"}
        await enough.wait()
        await to_app.send({"type": "lifespan.shutdown"})
        assert await from_app.receive() == {"type": "lifespan.shutdown.complete"}


@pytest.mark.parametrize(
    ("known", "minutes"), [(0, 2), (1, 2), (24, 2), (25, 5), (60, 5), (61, 10), (BARS, 10)]
)
def test_the_plot_is_as_long_as_what_is_known(known: int, minutes: int) -> None:
    empty: list[Bar] = [Bar(0.0, None)] * (BARS - known)
    plot = plotted([*empty, *[Bar(0.0, Counted(1.0))] * known])
    assert plot.minutes == minutes
    assert len(plot.columns) == known
    assert plot.known == (known > 0)


@pytest.mark.parametrize("highest", [0.001, 0.1, 0.7, 1.0, 9.99, 10.1, 47_000.0])
def test_the_highest_bar_reaches_almost_to_the_top(highest: float) -> None:
    plot = plotted([Bar(0.0, Counted(highest * 0.75, highest * 0.25))])
    (column,) = plot.columns
    assert column.good + column.bad <= 100.01
    assert highest < 0.05 or column.good + column.bad > 60
    assert column.good == pytest.approx(column.bad * 3, abs=0.05)
