"""What records tell of earlier runs, and what finds them, on every backend."""

from __future__ import annotations

import msgspec
import pytest

from omnidaemon import App, Backoff, Context
from omnidaemon.attempts import remembering
from omnidaemon.errors import StoreError
from omnidaemon.fleet import Fleet
from omnidaemon.messages import Ack, Delivery, Release, Settlement, Verdict, Write
from omnidaemon.records import RESULTS, Results, RunRecord, read_run, run_write, tenant_changes
from omnidaemon.run_index import CAUSES, CORRELATIONS, FAILURES, RunIndex, index_changes
from tests.contract.conftest import Backend
from tests.contract.test_fleet import an_app, until, working

pytestmark = pytest.mark.anyio

AT_ONCE = Backoff(initial=0)


async def ended(app: App, task_id: str, agent: str, replays: int = 0) -> RunRecord:
    """The agent's record once the task is over, after so many replays."""
    found: list[RunRecord] = []

    async def over() -> bool:
        found[:] = [
            run
            for run in await Results(app.store).of_task(task_id)
            if run.agent == agent and run.status != "failed" and run.replays == replays
        ]
        return bool(found)

    await until(over)
    return found[0]


@pytest.fixture
def app(backend: Backend) -> App:
    """Its agent fails until it is told otherwise, and says each time that it did."""
    app = an_app(backend)
    runs: list[int] = []

    @app.agent("orders", name="shaky", retries=2, backoff=AT_ONCE)
    async def shaky(n: int) -> int:
        runs.append(n)
        if len(runs) < 5:
            raise ValueError(f"failure {len(runs)} " + "x" * 1_000)
        return n

    return app


async def test_a_record_remembers_earlier_runs_through_retries_and_replays(
    app: App, backend: Backend
) -> None:
    fleet = Fleet(an_app(backend, "elsewhere"))
    async with working(app):
        task = await app.send("orders", 1)
        dead = await ended(app, task.id, "shaky")
        assert [(one.attempt, one.replays, one.status) for one in dead.history] == [
            (1, 0, "failed"),
            (2, 0, "failed"),
        ]
        assert dead.status == "dead"
        await fleet.replay("orders", [task.id])
        done = await ended(app, task.id, "shaky", replays=1)
    assert (done.status, done.attempts, done.replays) == ("succeeded", 2, 1)
    assert [(one.attempt, one.replays, one.status) for one in done.history] == [
        (1, 0, "failed"),
        (2, 0, "failed"),
        (3, 0, "dead"),
        (1, 1, "failed"),
    ]
    first, last = done.history[0], done.history[-1]
    assert first.cause is not None
    assert (first.cause.type, first.cause.message[:10]) == ("ValueError", "failure 1 ")
    assert (len(first.cause.message), first.cause.traceback) == (500, "")
    assert first.retry_at is not None
    assert first.started_at <= first.finished_at <= last.started_at <= done.started_at
    assert {one.worker for one in done.history} == {done.worker}


async def test_what_is_handed_back_asks_no_store(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.store()

    async def away(collection: str, *keys: str) -> object:
        raise StoreError("away")

    async def settle(batch: list[Settlement]) -> list[Verdict]:
        return ["applied"] * len(batch)

    monkeypatch.setattr(store, "read", away)
    again = Delivery("orders", "mail", "t1", "1", b"", attempt=2, token=1)
    assert await remembering(store, settle)([Settlement(again, Release())]) == ["applied"]


async def test_the_news_of_a_run_are_what_its_record_says(backend: Backend) -> None:
    store = backend.store()
    await store.write(run_write(RunRecord("t1", "orders", "mail", "failed"), 60))
    write = run_write(RunRecord("t1", "orders", "mail", "succeeded", attempts=2, worker="w"), 60)
    delivery = Delivery("orders", "mail", "t1", "1", b"", attempt=2, token=1)
    settled: list[Settlement] = []

    async def settle(batch: list[Settlement]) -> list[Verdict]:
        settled.extend(batch)
        return ["applied"] * len(batch)

    told = Settlement(delivery, Ack(), changes=(write,), notice="t1", news=write.value)
    await remembering(store, settle)([told, msgspec.structs.replace(told, news=None)])
    first = settled[0].changes[0]
    assert isinstance(first, Write)
    assert [one.news for one in settled] == [first.value, None]
    assert first.value is not None
    run = read_run(first.value)
    assert run is not None
    assert [one.status for one in run.history] == ["failed"]


async def test_a_record_remembers_a_bounded_number_of_runs(backend: Backend) -> None:
    app = an_app(backend)

    @app.agent("orders", name="never", retries=14, backoff=AT_ONCE)
    async def never(n: int) -> None:
        raise ValueError("no")

    async with working(app):
        task = await app.send("orders", 1)
        dead = await ended(app, task.id, "never")
    assert dead.attempts == 15
    assert [one.attempt for one in dead.history] == list(range(5, 15))


async def test_a_record_that_cannot_be_read_for_a_while_is_read_before_the_settlement(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, refusals = app.store.read, [1, 2]

    async def refusing(collection: str, *keys: str) -> object:
        if collection == RESULTS and refusals:
            refusals.pop()
            raise StoreError("away")
        return await read(collection, *keys)

    monkeypatch.setattr(app.store, "read", refusing)
    async with working(app):
        task = await app.send("orders", 1)
        dead = await ended(app, task.id, "shaky")
    assert not refusals
    assert [one.attempt for one in dead.history] == [1, 2]


async def test_failures_are_found_until_they_have_succeeded(app: App, backend: Backend) -> None:
    index = RunIndex(backend.store())
    async with working(app):
        task = await app.send("orders", 1)
        await ended(app, task.id, "shaky")
        found = await index.failed("dead", limit=10)
        assert [run.task_id for run in found.runs] == [task.id]
        assert (await index.failed("failed", limit=10)).runs == []
        await Fleet(app).replay("orders")
        await ended(app, task.id, "shaky", replays=1)
    for status in ("failed", "dead"):
        assert (await index.failed(status, limit=10)).looked == 0  # type: ignore[arg-type]


async def test_runs_are_found_by_what_caused_them_and_by_correlation(backend: Backend) -> None:
    app = an_app(backend)

    @app.agent("orders", name="split", reply_to="done")
    async def split(n: int, ctx: Context) -> int:
        if n:
            await ctx.send("parts", n)
        return n

    @app.agent("parts", name="part")
    async def part(n: int) -> None:
        return None

    @app.agent("done", name="note")
    async def note(n: int) -> None:
        return None

    index = RunIndex(backend.store())
    odd = "a/b=*c%/ ключ"
    async with working(app):
        alone = await app.send("orders", 0)
        kin = await app.send("orders", 2, correlation_id=odd)

        async def all_there() -> bool:
            return len(await app.tasks.newest()) == 5

        await until(all_there)
    caused = await index.caused_by(kin.id, limit=10)
    assert sorted(run.topic for run in caused.runs) == ["done", "parts"]
    assert {run.causation_id for run in caused.runs} == {kin.id}
    assert [run.topic for run in (await index.caused_by(alone.id, limit=10)).runs] == ["done"]
    first = await index.correlated(odd, limit=2)
    rest = await index.correlated(odd, limit=2, before=first.place)
    assert sorted(run.topic for run in (*first.runs, *rest.runs)) == ["done", "orders", "parts"]
    assert rest.place is None
    assert [run.topic for run in (await index.correlated(alone.id, limit=9)).runs] == ["done"]
    assert (await index.correlated("a", limit=9)).looked == 0  # a slash ends no name

    await app.tasks.remove(kin.id)
    assert len((await index.correlated(odd, limit=9)).runs) == 2
    assert len(await app.store.browse(CORRELATIONS)) == 3  # the removed one's is gone
    await Fleet(app).clear("results")
    for collection in (CAUSES, CORRELATIONS, FAILURES):
        assert await app.store.browse(collection) == []


async def test_a_run_that_succeeds_at_once_and_belongs_to_nothing_leaves_no_entry(
    backend: Backend,
) -> None:
    app = an_app(backend)

    @app.agent("orders", name="plain")
    async def plain(n: int) -> int:
        return n

    async with working(app):
        assert await app.request("orders", 1, timeout=10) == 1
    for collection in (CAUSES, CORRELATIONS, FAILURES):
        assert await app.store.browse(collection) == []
    [run] = await app.tasks.newest()
    assert run.history == ()


async def test_entries_expire_with_their_record(backend: Backend) -> None:
    store = backend.store()
    run = RunRecord("a", "orders", "mail", "dead", causation_id="b", correlation_id="c")
    await store.write(run_write(run, backend.lease), *index_changes(run, backend.lease))
    index = RunIndex(store)
    assert len((await index.caused_by("b", limit=9)).runs) == 1
    await backend.elapse(backend.lease * 1.1)
    for found in (
        await index.caused_by("b", limit=9),
        await index.correlated("c", limit=9),
        await index.failed("dead", limit=9),
    ):
        assert found.looked == 0


async def test_an_entry_that_an_id_used_again_left_behind_finds_nothing(backend: Backend) -> None:
    store = backend.store()
    old = RunRecord("a", "orders", "mail", "dead", causation_id="b", correlation_id="c")
    await store.write(run_write(old, 60), *index_changes(old, 60))
    new = RunRecord("a", "orders", "mail", "succeeded")
    await store.write(run_write(new, 60), *index_changes(new, 60))
    index = RunIndex(store)
    for found in (
        await index.caused_by("b", limit=9),
        await index.correlated("c", limit=9),
        await index.failed("dead", limit=9),
    ):
        assert found.runs == []


async def test_tenants_runs_are_found_a_page_at_a_time(backend: Backend) -> None:
    store = backend.store()
    for n in range(5):
        run = RunRecord(f"t{n}", "orders", "mail", "succeeded", tenant_id="ab"[n % 2])
        await store.write(run_write(run, 60), *tenant_changes(run, 60, ()))
    index = RunIndex(store)
    first = await index.of_tenant("a", None, limit=2)
    rest = await index.of_tenant("a", None, limit=2, before=first.place)
    assert [run.task_id for run in (*first.runs, *rest.runs)] == ["t4", "t2", "t0"]
    assert (await index.of_tenant("a", "bills", limit=2)).looked == 0
