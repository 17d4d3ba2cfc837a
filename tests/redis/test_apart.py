"""Workers whose events and whose records lie in different backends: the promises are the same."""

from __future__ import annotations

import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from omnidaemon import App, Backoff, Context, Reject, TaskFailed
from omnidaemon.drivers.json_file import NAME
from omnidaemon.errors import ConnectionLost
from omnidaemon.messages import Release, Settlement
from omnidaemon.records import Metrics, Results
from omnidaemon.settings import Settings
from omnidaemon.worker.worker import Worker

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent.parent
PAIRS = [
    ("redis", "json"),
    ("redis", "sqlite"),
    ("redis", "redis of another prefix"),
    ("sqlite", "json"),
    ("memory", "json"),
]
SHARED_PAIRS = [pair for pair in PAIRS if pair[0] != "memory"]


class Pair(NamedTuple):
    """Where events are, and where records are."""

    transport: str
    store: str

    def app(self, name: str = "pair") -> App:
        """An app on both, as another process would have."""
        return App(name, transport=self.transport, store=self.store, settings=Settings())


@pytest.fixture(params=PAIRS, ids="+".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """The pair, empty; a server is started where one is needed."""
    urls = {
        "json": f"json:{tmp_path}/records",
        "sqlite": f"sqlite://{tmp_path}/pair.db",
        "memory": f"memory://{tmp_path}",
    }
    if "redis" in request.param:
        server = request.getfixturevalue("server")
        urls["redis"] = f"{server.url}?prefix=events"
        urls["redis of another prefix"] = f"{server.url}?prefix=records"
    transport, store = request.param
    return Pair(urls[transport], urls[store])


@asynccontextmanager
async def working(app: App):
    """A worker for the app, stopped at the end."""
    async with anyio.create_task_group() as group:
        worker = Worker(app, grace=5)
        group.start_soon(worker.run)
        await worker.ready.wait()
        try:
            yield worker
        finally:
            worker.stop()


def works(app: App, replies: list[int]) -> None:
    """Adds agents that succeed, fail once, and fail for good."""

    @app.agent("work", consumers=4, retries=2, backoff=Backoff(initial=0.01))
    async def work(n, ctx: Context):
        if n == 13:
            raise Reject("thirteen")
        if n % 5 == 0 and ctx.attempt == 1:
            raise ValueError("once")
        return n

    @app.agent("answers")
    async def answers(n):
        replies.append(n)


async def test_events_results_counters_retries_and_dead_letters_are_right(pair):
    app, replies = pair.app(), []
    works(app, replies)
    async with working(app):
        assert app.transport.backend != app.store.backend
        tasks = [await app.send("work", n, reply_to="answers") for n in range(20)]
        for n, task in enumerate(tasks):
            if n == 13:
                with pytest.raises(TaskFailed, match="thirteen"):
                    await task.result(timeout=60)
            else:
                assert await task.result(timeout=60) == n
        with anyio.fail_after(60):
            while len(replies) < 19:
                await anyio.sleep(0.01)
        [letter] = await app.transport.dead_letters("work")
        assert letter.id == tasks[13].id
        async with pair.app("another") as other:
            runs = {run.task_id: run for run in await Results(other.store).newest("work")}
            assert len(runs) == 20
            assert runs[tasks[13].id].status == "dead"
            assert [runs[tasks[n].id].attempts for n in (1, 5, 10)] == [1, 2, 2]
            totals = (await Metrics(other.store).totals("work"))["work"]["work"]
            assert (totals.processed, totals.failed, totals.dead) == (19, 5, 1)
    assert sorted(replies) == [n for n in range(20) if n != 13]


async def test_a_run_that_lost_its_lease_writes_nothing(pair, caplog):
    app = pair.app()
    started, gate = anyio.Event(), anyio.Event()

    @app.agent("work", lease=1)
    async def work(content):
        started.set()
        await gate.wait()
        return "late"

    async with working(app):
        renew = app.transport.renew
        away = True

        async def renew_if_there(consumer, deliveries):
            if away:
                raise ConnectionLost("away")
            return await renew(consumer, deliveries)

        app.transport.renew = renew_if_there
        task = await app.send("work", 1)
        await started.wait()
        async with app.transport.subscribe("work", "work", lease=3) as other:
            [taken] = await other.receive(1, 30)
            away = False
            gate.set()
            with anyio.fail_after(60):
                while "nothing of this run is kept" not in caplog.text:
                    await anyio.sleep(0.01)
            assert await task.results() == {}
            assert await Metrics(app.store).totals() == {}
            await other.settle([Settlement(taken, Release())])
        assert await task.result(timeout=60) == "late"
        assert (await Metrics(app.store).totals())["work"]["work"].processed == 1


CRASHING = """
import os, signal, sys
import anyio
from omnidaemon import App
from omnidaemon.messages import Write
from omnidaemon.records import RESULTS
from omnidaemon.settings import Settings
from omnidaemon.worker.worker import Worker

transport, store, name = sys.argv[1:]
app = App("pair", transport=transport, store=store, settings=Settings())

@app.agent("work", lease=1, reply_to="answers")
async def work(content):
    print("run by", name, flush=True)
    return name

async def main():
    write = app.store.write
    async def write_and_die(*changes):
        await write(*changes)
        if any(isinstance(c, Write) and c.collection == RESULTS for c in changes):
            os.kill(os.getpid(), signal.SIGKILL)
    app.store.write = write_and_die
    await Worker(app).run()

anyio.run(main)
"""


@pytest.mark.parametrize("pair", SHARED_PAIRS, ids="+".join, indirect=True)
async def test_a_crash_between_record_and_settlement_repeats_the_run_and_replaces_its_record(pair):
    app, replies = pair.app(), []

    @app.agent("work", lease=1, reply_to="answers")
    async def work(content):
        return "survivor"

    @app.agent("answers")
    async def answers(content):
        replies.append(content)

    async with app:
        task = await app.send("work", 1)
        with anyio.fail_after(60):
            crashed = await anyio.run_process(
                [sys.executable, "-c", CRASHING, *pair, "first"], cwd=ROOT, check=False
            )
        assert crashed.returncode == -signal.SIGKILL, crashed.stderr
        assert crashed.stdout == b"run by first\n"
        [run] = (await task.results()).values()
        assert bytes(run.result) == b'"first"'
        assert await app.transport.browse("answers") == []  # not settled: nothing was published
        async with working(app):
            with anyio.fail_after(60):
                while not replies:
                    await anyio.sleep(0.01)
        [run] = await Results(app.store).of_task(task.id)
        assert bytes(run.result) == b'"survivor"'
        assert replies == ["survivor"]
        # Twice, and no order could avoid that: the record's write was the only one to know.
        assert (await Metrics(app.store).totals())["work"]["work"].processed == 2


def overwrite(file: Path, start: bytes) -> None:
    """Changes how it begins, in place: meanwhile the worker may append to it."""
    with file.open("r+b") as there:
        there.write(start)


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if pair[1] == "json"], ids="+".join, indirect=True
)
async def test_while_the_store_is_away_settlements_wait_and_nothing_runs_again(pair):
    app, runs = pair.app(), []

    @app.agent("work", lease=1)
    async def work(content):
        runs.append(content)
        return content

    file = Path(pair.store.removeprefix("json:")) / NAME
    async with working(app) as worker:
        start = file.read_bytes()[:4]
        overwrite(file, b"away")
        task = await app.send("work", 1)
        with anyio.fail_after(60):
            while "is damaged" not in (worker._record().detail or ""):
                await anyio.sleep(0.01)
        assert worker._record().state == "degraded"
        await anyio.sleep(2.5)  # more than two leases: who would take it over has done so
        assert runs == [1]
        overwrite(file, start)
        assert await task.result(timeout=60) == 1
        assert runs == [1]
        assert (await Metrics(app.store).totals())["work"]["work"].processed == 1
