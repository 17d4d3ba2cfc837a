"""What people do to agents on Redis from other processes: they flood, pause, delete, deploy."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from omnidaemon import App
from omnidaemon.messages import GroupInfo, Message
from omnidaemon.records import AgentMetrics, Metrics
from tests.process.chaos import NOISE_SECONDS
from tests.redis.servers import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
SECONDS = 60.0
SEEN_SECONDS = 1.0
"""Within which running workers see what somebody has done to an agent."""
Record = Callable[[str, object], None]

MODULE = """
import os
from pathlib import Path
import anyio
from omnidaemon import App, Context

app = App("operated")
here = Path.cwd()

@app.agent("flood", name="flood", consumers=100)
async def flood(n: int):
    return n

@app.agent("steady", name="steady", consumers=4)
async def steady(n: int):
    await anyio.sleep(0.01)
    return n

@app.agent("ask", name="ask")
async def ask(n: int):
    return os.getpid()

@app.agent("hold", name="hold", lease=1, consumers=9)
async def hold(n: int, ctx: Context):
    with (here / f"held-{os.getpid()}").open("a") as held:
        held.write(f"{n} {ctx.attempt}\\n")
    while not (here / "go").exists():
        await anyio.sleep(0.02)
    return ctx.attempt
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def worker(tmp_path: Path, start: Any, server: RedisServer) -> Callable[..., Any]:
    (tmp_path / "operated.py").write_text(MODULE, "utf-8")

    def begin(*options: str) -> Any:
        process = start("worker", "operated:app", *options, REDIS_URL=server.url)
        process.line("is ready")
        return process

    return begin


def runs_in(folder: Path) -> list[str]:
    """The runs of `hold`: what was sent, and the attempt."""
    return [line for held in folder.glob("held-*") for line in held.read_text().splitlines()]


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = SECONDS
) -> float:
    """Waits until it holds; the seconds that it took."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began >= seconds:
            pytest.fail(f"{what}: not within {seconds} s")
        await anyio.sleep(0.01)
    return time.monotonic() - began


async def group(app: App, topic: str) -> GroupInfo:
    (found,) = await app.transport.groups(topic)
    return found


async def totals(app: App, topic: str) -> AgentMetrics:
    return (await Metrics(app.store).totals(topic)).get(topic, {}).get(topic, AgentMetrics())


async def settled(app: App, topic: str) -> None:
    async def nothing_left() -> bool:
        found = await group(app, topic)
        return not (found.lag or found.leased or found.waiting)

    await until(nothing_left, f"{topic} settled")


async def test_fifteen_thousand_events_for_a_paused_agent_are_all_there_and_then_all_handled(
    worker: Any, app: App, client: Any
) -> None:
    worker()
    assert await app.transport.pause("flood", "flood")
    tasks = []
    for first in range(0, 15_000, 500):
        tasks += await app.send_many([("flood", n) for n in range(first, first + 500)])
    assert await client.xlen("omni-stream:flood") == 15_000
    assert (await group(app, "flood")).lag == 15_000
    assert (await totals(app, "flood")).processed == 0
    assert await app.transport.resume("flood", "flood")
    await settled(app, "flood")
    assert (await totals(app, "flood")).processed == 15_000
    assert await client.hlen("omni-records:results") == 15_000
    for n in (0, 7_499, 14_999):
        assert await tasks[n].result(timeout=SECONDS) == n


async def test_poison_ahead_of_good_events_delays_nothing_and_is_kept_with_its_cause(
    worker: Any, app: App, client: Any, record_property: Record
) -> None:
    worker()
    poison = [b"", b"{", b"null", b"\xff\xfe\x00", b"[" * 100_000]
    ids = [f"poison-{n}" for n in range(100)]
    await app.transport.publish(
        *(Message("steady", id_, poison[n % len(poison)]) for n, id_ in enumerate(ids))
    )
    foreign = [await client.xadd("omni-stream:steady", {"by": "hand"}) for _ in range(5)]
    began = time.monotonic()
    tasks = await app.send_many([("steady", n) for n in range(20)])
    assert [await task.result(timeout=SECONDS) for task in tasks] == list(range(20))
    record_property("handled after seconds", round(time.monotonic() - began, 3))
    await settled(app, "steady")
    letters = await app.transport.dead_letters("steady", limit=200)
    assert sorted(letter.id for letter in letters) == sorted([*ids, *foreign])
    causes = [msgspec.json.decode(letter.reason) for letter in letters]
    assert {cause["type"] for cause in causes} == {"DecodeError"}
    assert all(cause["message"] for cause in causes)
    counted = await totals(app, "steady")
    assert (counted.processed, counted.dead) == (20, 105)


async def test_twenty_deployments_during_one_long_run_charge_it_nothing(
    worker: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    task = await app.send("hold", 1)
    running = worker("--grace", "0")
    for _ in range(20):
        wait_for(tmp_path / f"held-{running.pid}")
        following = worker("--grace", "0")
        running.send(signal.SIGTERM)
        wait_for(tmp_path / f"held-{following.pid}")  # from hand to hand
        assert running.ended() == 0
        running = following
    (tmp_path / "go").touch()
    assert await task.result(timeout=SECONDS) == 1
    assert runs_in(tmp_path) == ["1 1"] * 21
    counted = await totals(app, "hold")
    assert (counted.processed, counted.failed, counted.dead) == (1, 0, 0)


async def test_pausing_and_resuming_is_seen_by_running_workers_within_a_second(
    worker: Any, app: App, record_property: Record
) -> None:
    for _ in range(2):
        worker()
    await app.send_many([("steady", n) for n in range(1_500)])

    async def some() -> bool:
        return (await totals(app, "steady")).processed > 100

    async def at_rest() -> bool:
        found = await group(app, "steady")
        return found.leased == 0

    async def further() -> bool:
        return (await totals(app, "steady")).processed > before

    await until(some, "the first runs")
    assert await app.transport.pause("steady", "steady")
    seconds = await until(at_rest, "paused")
    record_property("paused after seconds", round(seconds, 3))
    assert seconds < SEEN_SECONDS + NOISE_SECONDS
    before = (await totals(app, "steady")).processed
    for n in range(20):  # the workers live and work for others
        await app.request("ask", n, timeout=SECONDS)
    assert (await totals(app, "steady")).processed == before < 1_500
    assert await app.transport.resume("steady", "steady")
    seconds = await until(further, "resumed")
    record_property("resumed after seconds", round(seconds, 3))
    assert seconds < SEEN_SECONDS + NOISE_SECONDS
    await settled(app, "steady")
    assert (await totals(app, "steady")).processed == 1_500


async def test_deleting_an_agent_stops_it_everywhere_until_a_worker_is_started_for_it(
    worker: Any, app: App, client: Any
) -> None:
    for _ in range(2):
        worker()
    await app.send_many([("steady", n) for n in range(800)])

    async def some() -> bool:
        return (await totals(app, "steady")).processed > 100

    await until(some, "the first runs")
    assert await app.transport.remove_group("steady", "steady")
    # What ran when it was deleted settles nothing: nothing at all changes from here on.
    before = (await totals(app, "steady")).processed
    task = await app.send("steady", -1)
    for n in range(20):
        await app.request("ask", n, timeout=SECONDS)
    assert await client.xinfo_groups("omni-stream:steady") == []
    assert (await totals(app, "steady")).processed == before
    worker()
    assert await task.result(timeout=SECONDS) == -1


async def test_consumers_of_killed_workers_go_and_never_with_what_they_held(
    worker: Any, app: App, client: Any, tmp_path: Path
) -> None:
    victims = [worker(), worker()]
    tasks = await app.send_many([("hold", n) for n in range(8)])

    async def all_held() -> bool:
        return (await group(app, "hold")).leased == 8

    await until(all_held, "all held")
    survivor = worker()
    for victim in victims:
        victim.send(signal.SIGKILL)

    async def alone() -> bool:
        pending = await client.xpending("omni-stream:hold", "hold")
        assert pending["pending"] == 8  # whoever goes, nothing goes along
        names = [one["name"] for one in await client.xinfo_consumers("omni-stream:hold", "hold")]
        return {name.split("-")[0] for name in names} - {"~waiting", ""} == {str(survivor.pid)}

    await until(alone, "the dead are gone")
    (tmp_path / "go").touch()
    assert [await task.result(timeout=SECONDS) for task in tasks] == [1] * 8
