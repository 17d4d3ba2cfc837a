"""`omnidaemon top`: rates between looks, and a screen on which a failure cannot be overlooked."""

from __future__ import annotations

import io
import time
from typing import Any

import anyio
import pytest
from rich.console import Console

from omnidaemon import App
from omnidaemon.cli.top_sample import Failure, Line, Sample, Sampler
from omnidaemon.cli.top_view import screen
from omnidaemon.messages import GroupInfo
from omnidaemon.records import AgentMetrics
from omnidaemon.testing import run, serve
from omnidaemon.views import AgentState


def line(
    name: str, *, dead: int = 0, lag: int = 0, waiting: int = 0, workers: int = 1, **rates: Any
) -> Line:
    group = GroupInfo("orders", name, lag, 0, waiting, dead, workers, 60.0, False, time.time())
    agent = AgentState("orders", name, None, group)
    done, failed = rates.get("done", 0.0), rates.get("failed", 0.0)
    return Line(agent, AgentMetrics(processed=10, seconds=1.0), done, failed)


def failure(agent: str, message: str = "no answer", **fields: Any) -> Failure:
    given = {"kind": "dead", "count": 1, "type": "OSError", "task_id": "t-1", "at": time.time()}
    return Failure(topic="orders", agent=agent, message=message, **{**given, **fields})


def drawn(sample: Sample, width: int, height: int, **options: Any) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    shown = screen(sample, where="redis:localhost", width=width, height=height, **options)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def sample_of(lines: list[Line], failures: list[Failure]) -> Sample:
    return Sample(time.time(), [], lines, failures)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("agents", [1, 10, 200])
def test_what_failed_is_on_the_screen_however_many_agents_there_are(
    width: int, agents: int
) -> None:
    lines = [line("charge", dead=3), *(line(f"agent-{n}") for n in range(agents))]
    failures = [failure("charge", "connection refused " * 20, count=3), failure("b"), failure("c")]
    shown = drawn(sample_of(lines, failures), width, 24, keys="q quits")
    assert len(shown) <= 24
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert "orders/charge  given up, 3×" in text
    assert "OSError: connection refused" in text
    assert shown[-1] == "q quits"
    assert next(one for one in shown if one.startswith("! ")).startswith("! orders/charge")
    if agents == 200:
        assert "more agents" in text


def test_a_narrow_screen_shows_what_matters_and_a_wide_one_more() -> None:
    sample = sample_of([line("charge", done=41.25, failed=0.5, lag=1200, waiting=2)], [])
    narrow, wide = drawn(sample, 80, 24), drawn(sample, 120, 24)
    for shown in (narrow, wide):
        (row,) = [one for one in shown if one.startswith("! orders/charge")]
        assert {"1,200", "41.2", "0.5"} <= set(row.split())
    assert not any("mean" in one for one in narrow)
    assert any("100 ms" in one for one in wide)


def test_trouble_with_looking_is_said_and_the_last_numbers_stay() -> None:
    shown = drawn(sample_of([line("charge")], []), 80, 24, trouble="redis cannot be reached")
    assert shown[1] == "redis cannot be reached"
    assert any("orders/charge" in one for one in shown)


def test_nothing_that_moves_the_cursor_gets_onto_the_screen() -> None:
    shown = drawn(sample_of([line("charge", dead=1)], [failure("charge", "\x1b[2J[red]x")]), 80, 24)
    assert "\x1b" not in "".join(shown)
    assert any("[red]x" in one for one in shown)


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        (line("a"), 0),
        (line("a", lag=5), 0),
        (line("a", lag=5, workers=0), 1),
        (line("a", dead=1), 2),
        (line("a", waiting=1), 2),
        (line("a", failed=0.1), 2),
    ],
    ids=["idle", "busy", "nobody takes them", "dead letters", "retries", "fails now"],
)
def test_an_agent_is_in_trouble_when_it_fails_or_nobody_serves_it(
    found: Line, trouble: int
) -> None:
    assert found.trouble == trouble


def test_rates_are_of_the_last_seconds_and_failures_have_their_causes() -> None:
    app = App("shop")

    @app.agent("orders", name="charge", retries=0)
    async def charge(amount: int) -> int:
        if amount < 0:
            raise ValueError(f"cannot charge {amount}")
        return amount

    @app.agent("orders", name="mail", retries=1)
    async def mail(amount: int) -> None:
        if amount == -1:
            raise ConnectionError("the mail server is away")

    @app.agent("a.first", name="of-all")
    async def first_by_name(event: object) -> None: ...

    async def body() -> None:
        async with serve(app) as served:
            sampler = Sampler(app, None)
            began = anyio.current_time()
            first = await sampler.look()
            assert [one.done_rate for one in first.lines] == [None, None, None]
            for amount in (1, 2, 3, 4, 5, 6, 7, 8, -2, -3):
                await app.send("orders", amount)
            await served.settled()
            await anyio.sleep(began + 4 - anyio.current_time())
            second = await sampler.look()
            rates = {one.agent.name: one.done_rate for one in second.lines}
            assert rates["charge"] == pytest.approx(2.0, abs=0.1)
            assert rates["mail"] == pytest.approx(2.5, abs=0.1)
            assert second.lines[0].agent.name == "charge"
            assert second.lines[0].failed_rate == pytest.approx(0.5, abs=0.1)
            (given_up,) = second.failures
            assert (given_up.agent, given_up.kind, given_up.count) == ("charge", "dead", 2)
            assert given_up.message == "cannot charge -3"
            await anyio.sleep(20)
            await sampler.look()
            quiet = await sampler.look()
            assert quiet.total("done_rate") == 0
            assert quiet.total("failed_rate") == 0
            assert quiet.lines[0].agent.name == "charge"  # its dead letters are still there

    run(body)
