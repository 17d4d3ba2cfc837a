"""Patterns of care: memory, trails, repeats, retries and shares."""

from __future__ import annotations

import itertools
import sqlite3
import types
from collections.abc import Callable
from contextlib import closing
from typing import Any

import anyio
import httpx
import pytest

from omnidaemon import Envelope, TaskFailed
from omnidaemon.envelope import new_id
from omnidaemon.testing import run, serve
from omnidaemon.worker.worker import Worker
from tests.examples.conftest import shows


@shows("conversation")
def test_each_conversation_has_its_own_memory(publish: Callable[[], str]):
    assert publish().splitlines() == [
        "ada: add milk -> milk",
        "ben: add tea -> tea",
        "ada: add bread -> milk, bread",
        "ada: drop milk -> bread",
        "ben: what now? -> tea",
    ]


@shows("conversation")
def test_a_turn_that_is_run_again_is_remembered_once(pattern: types.ModuleType):
    async def crash_once(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("after the work")
        return result

    pattern.app.middleware = (crash_once,)

    async def body() -> None:
        async with serve(pattern.app):
            answer = await pattern.app.request("list.said", "add milk", timeout=60)
            assert answer == "milk"
        with closing(sqlite3.connect(pattern.HISTORY)) as db:
            assert db.execute("SELECT said FROM turns").fetchall() == [("add milk",)]

    run(body)


@shows("causation_chain")
def test_the_trail_tells_what_was_caused_by_what(publish: Callable[[], str]):
    story = ["order.placed", *2 * ["  stock.reserved", "    parcel.wanted"]]
    assert publish().splitlines() == story


@shows("causation_chain")
def test_the_trail_is_of_one_order_and_has_each_event_once(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            first = await pattern.app.send("order.placed", {"lamp": 1})
            await pattern.app.send("order.placed", {"bulb": 1})
            await served.settled()
            before = pattern.story(first.id)
            assert len(before) == 3
            await pattern.app.send("order.placed", {}, id=first.id)  # the same event again
            await served.settled()
            assert pattern.story(first.id) == before
            runs = await pattern.app.tasks.newest()
            assert {run.status for run in runs} == {"succeeded"}
            assert {run.attempts for run in runs} == {1}

    run(body)


@shows("idempotent_handler")
def test_a_payment_run_twice_and_sent_twice_is_booked_once(publish: Callable[[], str]):
    assert publish().splitlines() == [
        "{'receipt': 1, 'repeat': True}",
        "{'receipt': 1, 'repeat': True}",
        "[('ada', 1, 2950)]",
    ]


@shows("idempotent_handler")
def test_payments_run_at_the_same_time_are_booked_once_each(pattern: types.ModuleType):
    payments = [pattern.Payment(f"2026-{n % 3}", "ada", 100) for n in range(30)]
    got: list[dict[str, Any]] = []

    async def book(payment: Any) -> None:
        got.append(await anyio.to_thread.run_sync(pattern.book, payment, None))

    async def body() -> None:
        async with anyio.create_task_group() as group:
            for payment in payments:
                group.start_soon(book, payment)

    anyio.run(body)
    assert sum(not receipt["repeat"] for receipt in got) == 3
    with closing(pattern.open_books()) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (3,)


@pytest.fixture
def site(pattern: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the web answers, in order; and when it was asked, as (url, seconds of the loop)."""
    answers: list[Any] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        status, headers = answers.pop(0)
        answers.append(anyio.current_time())
        if status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(status, headers=headers, content=b"hello")

    class Client(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            super().__init__(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(pattern.httpx, "AsyncClient", Client)
    return answers


@shows("own_retry")
def test_the_server_says_when_to_come_again(pattern: types.ModuleType, site: list[Any]):
    site += [(None, {}), (503, {}), (429, {"Retry-After": "900"}), (200, {})]

    async def body() -> None:
        async with serve(pattern.app):
            task = await pattern.app.send("page.wanted", "https://example.com/")
            assert await task.result(timeout=3600) == {"status": 200, "bytes": 5}
            (record,) = (await task.results()).values()
            assert record.attempts == 3  # 429 was none

    run(body)
    waits = [later - earlier for earlier, later in itertools.pairwise(site)]
    assert 0.25 <= waits[0] <= 1
    assert 0.75 <= waits[1] <= 2
    assert 900 <= waits[2] <= 901


@shows("own_retry")
def test_what_would_be_answered_the_same_again_is_given_up(
    pattern: types.ModuleType, site: list[Any]
):
    site += [(410, {}), (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})]

    async def body() -> None:
        async with serve(pattern.app):
            with pytest.raises(TaskFailed, match="answered 410"):
                await pattern.app.request("page.wanted", "https://example.com/", timeout=60)
            old = Envelope("page.wanted", "https://example.com/", new_id(), created_at=1.0)
            with pytest.raises(TaskFailed, match="refused for its rate"):
                await (await pattern.app.publish(old)).result(timeout=60)

    run(body)


@shows("load_balancing")
def test_agents_of_one_name_share_and_another_name_gets_all(pattern: types.ModuleType, capsys):
    async def body() -> None:
        async with serve(pattern.app), anyio.create_task_group() as group:
            # A second worker, as in a second terminal.
            second = pattern.App("second")
            for agent in pattern.app.agents:
                second._add(agent)
            transport, store = pattern.app.transport, pattern.app.store
            with second.override(transport=transport, store=store):
                worker = Worker(second, grace=1)
                group.start_soon(worker.run)
                await worker.ready.wait()
                await pattern.main()
                worker.stop()

    anyio.run(body)
    digest, checksum = capsys.readouterr().out.splitlines()
    assert digest.startswith("digest: 16 of 16 files (")
    assert checksum.startswith("checksum: 16 of 16 files (")
    assert digest.count(" by ") == 2  # four slots, and work that takes longer than a look
