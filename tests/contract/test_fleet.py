"""The Fleet on every backend: what a process that runs nothing sees and does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from omnidaemon import App, Backoff, Reject
from omnidaemon.errors import AgentNotFound, TaskNotFound
from omnidaemon.fleet import Fleet
from omnidaemon.records import iso
from omnidaemon.worker.worker import Worker
from tests.contract.conftest import Backend

pytestmark = pytest.mark.anyio


def an_app(backend: Backend, name: str = "shop") -> App:
    """An app as another process would have it."""
    return App(name, transport=backend.transport(), store=backend.store())


@pytest.fixture
def app(backend: Backend) -> App:
    """Two agents of one topic: one that serves, one that rejects everything."""
    app = an_app(backend)

    @app.agent("orders", name="good", consumers=2, description="Serves", tools=["till"])
    async def good(n: int) -> int:
        return n + 1

    @app.agent("orders", name="bad", retries=0)
    async def bad(n: int) -> None:
        raise Reject(f"{n} is not for me")

    return app


@pytest.fixture
def fleet(backend: Backend) -> Fleet:
    """In a process that runs no agent."""
    return Fleet(an_app(backend, "elsewhere"))


@asynccontextmanager
async def working(app: App) -> AsyncIterator[Worker]:
    worker = Worker(app, grace=5)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await worker.ready.wait()
        yield worker
        worker.stop()


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(60):
        while not await look():
            await anyio.sleep(0.02)


async def dead(fleet: Fleet, count: int) -> None:
    async def look() -> bool:
        return len(await fleet.dead_letters("orders", limit=100)) == count

    await until(look)


async def test_agents_are_seen_with_their_group_while_they_run_and_afterwards(
    app: App, fleet: Fleet
) -> None:
    async with working(app):
        bad, good = await fleet.agents()
        assert (good.topic, good.name, good.status) == ("orders", "good", "running")
        shown = good.public()
        assert shown["config"]["consumer_count"] == 2
        assert shown["config"]["dlq_retry_limit"] == 3
        assert shown["config"]["reclaim_idle_ms"] == 60_000
        assert (shown["description"], shown["tools"]) == ("Serves", ["till"])
        assert bad.public()["config"]["dlq_retry_limit"] == 0
    assert [agent.status for agent in await fleet.agents("orders")] == ["stopped", "stopped"]
    assert (await fleet.agent("orders", "good")).record is not None
    assert await fleet.agents("others") == []
    with pytest.raises(AgentNotFound, match="'gone'; known are: bad, good"):
        await fleet.agent("orders", "gone")


async def test_a_paused_agent_queues_its_events_until_it_is_resumed(app: App, fleet: Fleet) -> None:
    async with working(app):
        await fleet.pause("orders", "good")
        assert (await fleet.agent("orders", "good")).status == "paused"
        task = await app.send("orders", 1)
        await dead(fleet, 1)  # the other agent goes on
        assert (await fleet.agent("orders", "good")).public()["lag"] == 1
        await fleet.resume("orders", "good")
        assert await task.result("good", timeout=10) == 2
    for change in (fleet.pause, fleet.resume):
        with pytest.raises(AgentNotFound, match="no agent 'gone'"):
            await change("orders", "gone")
        with pytest.raises(AgentNotFound, match="no topic 'gone'"):
            await change("gone", "gone")


async def test_dead_letters_tell_why_and_come_back_or_go(app: App, fleet: Fleet) -> None:
    async with working(app):
        tasks = [await app.send("orders", n) for n in range(3)]
        await dead(fleet, 3)
        letters = await fleet.dead_letters("orders", "bad")
        assert {letter.task_id for letter in letters} == {task.id for task in tasks}
        [first] = [letter for letter in letters if letter.task_id == tasks[0].id]
        assert (first.cause.type, first.cause.message) == ("Reject", "0 is not for me")
        assert first.event is not None
        assert first.event.content == 0
        assert first.public()["cause"].attempts == 1
        assert len(await fleet.dead_letters("orders", limit=2)) == 2
        assert await fleet.dead_letters("orders", "good") == []

        assert await fleet.replay("orders", [tasks[0].id]) == 1
        with pytest.raises(TaskNotFound, match="nothing was done"):
            await fleet.discard("orders", [tasks[1].id, "gone"])
        assert await fleet.discard("orders", [tasks[1].id]) == 1
        [position] = [x.position for x in letters if x.task_id == tasks[2].id]
        assert await fleet.discard("orders", [position], "bad") == 1

        async def replayed() -> bool:
            found = await fleet.dead_letters("orders")
            return [(x.task_id, x.cause.replays) for x in found] == [(tasks[0].id, 1)]

        await until(replayed)
        assert await fleet.replay("orders", []) == 0
        assert await fleet.discard("orders") == 1
    assert await fleet.dead_letters("orders") == []
    for look in (fleet.dead_letters, fleet.replay, fleet.discard):
        with pytest.raises(AgentNotFound, match="no topic 'gone'"):
            await look("gone")
        with pytest.raises(AgentNotFound, match="no agent 'gone'"):
            await look("orders", agent="gone")


async def test_deleting_an_agent_takes_its_group_and_only_if_told_its_dead_letters(
    app: App, fleet: Fleet
) -> None:
    async with working(app):
        await app.send("orders", 1)
        await dead(fleet, 1)
        gone = await fleet.delete_agent("orders", "good")
        assert (gone.storage_deleted, gone.group_deleted, gone.dlq_deleted) == (True, True, False)
        assert [agent.name for agent in await fleet.agents()] == ["bad"]
        with pytest.raises(AgentNotFound):
            await fleet.delete_agent("orders", "good")
        kept = await fleet.delete_agent("orders", "bad", group=False)
        assert (kept.storage_deleted, kept.group_deleted) == (True, False)
        [bad] = await fleet.agents()
        assert bad.record is None
        assert bad.public()["dead"] == 1
        gone = await fleet.delete_agent("orders", "bad", dead_letters=True)
        assert (gone.storage_deleted, gone.group_deleted, gone.dlq_deleted) == (False, True, True)
        assert await fleet.dead_letters("orders") == []
        health = await fleet.health()
        assert (health.status, health.agents) == ("running", [])


async def test_a_topic_goes_with_its_agents(app: App, fleet: Fleet) -> None:
    async with working(app):
        await app.send("orders", 1)
        await dead(fleet, 1)
    bad, good = await fleet.delete_topic("orders")
    assert (bad.agent, bad.storage_deleted, bad.group_deleted, bad.dlq_deleted) == (
        *("bad", True),
        *(True, True),
    )
    assert (good.agent, good.dlq_deleted) == ("good", False)
    assert await fleet.topics() == []
    assert await fleet.agents() == []
    with pytest.raises(AgentNotFound, match="no topic 'orders'"):
        await fleet.delete_topic("orders")


async def test_health_names_the_live_workers_and_what_they_listen_to(
    app: App, fleet: Fleet
) -> None:
    assert (await fleet.health()).status == "stopped"
    async with working(app) as worker:
        health = (await fleet.health()).public()
        assert health["status"] == "running"
        assert health["runner_id"] == worker.id
        assert health["event_bus_connected"]
        assert health["storage_healthy"]
        assert health["subscribed_topics"] == ["orders"]
        assert health["registered_agents_count"] == 2
        assert 0 <= health["uptime_seconds"] < 60
        assert [w["id"] for w in health["workers"]] == [worker.id]
    assert (await fleet.health()).status == "stopped"


async def test_statistics_and_numbers_add_up(app: App, fleet: Fleet) -> None:
    async with working(app):
        for n in range(3):
            await (await app.send("orders", n)).result("good", timeout=10)
        await dead(fleet, 3)
    await app.send("orders", 4)
    await app.send("lonely", 1, delay=3600)
    stats = await fleet.stats()
    assert (stats.events, stats.delayed, stats.dead) == (4, 1, 3)
    assert (stats.lag, stats.pending) == (2, 0)
    assert 0 < stats.size <= stats.memory
    [lonely, orders] = stats.public()["topics"]
    assert (lonely["name"], lonely["groups"]) == ("lonely", [])
    assert [group["name"] for group in orders["groups"]] == ["bad", "good"]
    newest, before = await fleet.events("orders", limit=2)
    assert newest.event is not None
    assert before.event is not None
    assert (newest.event.content, before.event.content) == (4, 2)
    assert (newest.public()["due_at"], newest.due) == (None, None)
    [later] = await fleet.events("lonely", delayed=True)
    assert later.due is not None
    assert (later.public()["stored_at"], later.public()["due_at"]) == (None, iso(later.due))
    numbers = await fleet.metrics("orders")
    assert numbers["orders"]["good"]["tasks_processed"] == 3
    assert numbers["orders"]["bad"] | {"avg_processing_time_sec": 0} == {
        "tasks_received": 3,
        "tasks_processed": 0,
        "tasks_failed": 3,
        "avg_processing_time_sec": 0,
    }
    assert await fleet.metrics("others") == {}
    assert list((await fleet.metrics(limit=1))["orders"]) == ["bad"]


async def test_what_is_cleared_is_gone_and_agents_that_run_are_written_down_again(
    app: App, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnidaemon.worker.worker.BEAT_SECONDS", 0.05)
    async with working(app):
        task = await app.send("orders", 1)
        await task.result("good", timeout=10)
        await dead(fleet, 1)
        assert await fleet.clear("metrics") == {"metrics": 2}
        assert (await fleet.metrics())["orders"]["good"]["tasks_received"] == 0
        assert await fleet.clear("results") == {"results": 2}
        assert await task.results() == {}
        await fleet.delete_agent("orders", "bad")
        await fleet.clear("agents")

        async def back() -> bool:
            return [a.name for a in await fleet.agents() if a.record is not None] == ["good"]

        await until(back)
        assert await (await app.send("orders", 1)).result(timeout=10) == 2


async def test_configuration_is_kept_for_other_processes(backend: Backend, fleet: Fleet) -> None:
    other = Fleet(an_app(backend))
    await fleet.set_config("model", {"name": "m", "size": [1, None]})
    await fleet.set_config("limit", 3)
    assert await other.get_config("model") == {"name": "m", "size": [1, None]}
    assert await other.get_config("gone", "default") == "default"
    assert await other.list_config() == {"limit": 3, "model": {"name": "m", "size": [1, None]}}
    assert (await other.clear("all"))["config"] == 2
    assert await fleet.list_config() == {}


async def test_an_agent_that_joins_a_running_worker_is_served_until_it_is_dropped(
    app: App, fleet: Fleet
) -> None:
    late = an_app_of_one(app)
    async with working(app) as worker:
        for agent in late.agents:
            await worker.add(agent)
        assert await (await app.send("later", 20)).result(timeout=10) == 40
        assert (await fleet.agent("later", "double")).record is not None
        worker.drop("later", "double")

        async def unserved() -> bool:
            return (await fleet.agent("later", "double")).public()["consumers"] == 0

        await until(unserved)
        await app.send("later", 21)
    assert (await fleet.agent("later", "double")).public()["lag"] == 1


async def test_an_agent_that_was_there_from_the_start_is_dropped_as_well(
    backend: Backend, fleet: Fleet
) -> None:
    app = an_app(backend)

    @app.agent("orders", name="short", lease=0.6)
    async def short(n: int) -> int:
        return n

    async with working(app) as worker:
        assert await app.request("orders", 1, timeout=10) == 1
        worker.drop("orders", "short")

        async def unserved() -> bool:
            return (await fleet.agent("orders", "short")).public()["consumers"] == 0

        await until(unserved)
        await app.send("orders", 2)
    assert (await fleet.agent("orders", "short")).public()["lag"] == 1


def an_app_of_one(app: App) -> Any:
    other = App("late", transport=app.transport, store=app.store)

    @other.agent("later", name="double", retries=0, backoff=Backoff(initial=0))
    def double(n: int) -> int:
        return n * 2

    return other
