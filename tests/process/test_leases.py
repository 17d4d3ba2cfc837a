"""Leases of real processes: what computes keeps them, what is frozen or dead loses them."""

import signal
import time

import anyio
import msgspec
import pytest

from omnidaemon import App
from omnidaemon.records import RESULTS, Metrics
from omnidaemon.settings import Settings
from tests.started import SECONDS, freeze

pytestmark = [pytest.mark.anyio]

MODULE = """
import os, signal, time
from pathlib import Path
import anyio
from omnidaemon import App, Context

app = App("leases", transport=PLACE)
here = Path.cwd()

@app.agent("compute", lease=4)
async def compute(seconds: float, ctx: Context):
    with (here / "runs").open("a") as runs:
        runs.write(f"{os.getpid()}\\n")
    until = time.monotonic() + seconds
    n = 0
    while time.monotonic() < until:
        n += 1
    return {"pid": os.getpid()}

@app.agent("sleep", lease=4)
async def sleep(seconds: float):
    with (here / "sleeps").open("a") as sleeps:
        sleeps.write(f"{os.getpid()}\\n")
    await anyio.sleep(seconds)
    return os.getpid()

@app.agent("wait", lease=1)
async def wait(content, ctx: Context):
    mark = here / f"started-{os.getpid()}"
    mark.touch()
    while not (here / "go").exists():
        await anyio.sleep(0.02)
    return os.getpid()

@app.agent("kill", lease=1)
async def kill(content):
    with (here / "kills").open("a") as kills:
        kills.write(f"{os.getpid()}\\n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def app(tmp_path, place):
    (tmp_path / "leases.py").write_text(MODULE.replace("PLACE", repr(place)))
    return App("test", transport=place, settings=Settings())


def worker(start, *options):
    process = start("worker", "leases:app", *options)
    process.line("is ready")
    return process


async def test_a_handler_of_more_than_ten_leases_runs_once_computing_or_waiting(
    app, start, tmp_path
):
    for _ in range(3):
        worker(start)
    async with app:
        tasks = [await app.send("compute", 41.0), await app.send("sleep", 41.0)]
        for task in tasks:
            await task.result(timeout=2 * SECONDS)
        assert len((tmp_path / "runs").read_text().splitlines()) == 1
        assert len((tmp_path / "sleeps").read_text().splitlines()) == 1
        totals = await Metrics(app.store).totals()
        for name in ("compute", "sleep"):
            assert (totals[name][name].processed, totals[name][name].failed) == (1, 0)


async def test_a_worker_frozen_past_its_lease_settles_nothing_when_it_wakes(
    app, start, tmp_path, wait_for
):
    frozen = worker(start)
    async with app:
        task = await app.send("wait", None)
        wait_for(tmp_path / f"started-{frozen.pid}")
        freeze(frozen.pid, tmp_path)
        try:
            other = worker(start)
            wait_for(tmp_path / f"started-{other.pid}")  # taken over: the lease has ended
            (tmp_path / "go").touch()
            assert await task.result(timeout=SECONDS) == other.pid
        finally:
            frozen.send(signal.SIGCONT)
        frozen.line("had gone to another worker")
        assert await task.result(timeout=SECONDS) == other.pid
        totals = (await Metrics(app.store).totals())["wait"]["wait"]
        assert (totals.processed, totals.failed) == (1, 0)
        assert len(await app.store.browse(RESULTS)) == 1


async def test_a_message_that_kills_its_workers_ends_as_a_dead_letter(app, start, tmp_path):
    worker(start, "--processes", "2")
    async with app:
        task = await app.send("kill", None)
        deadline = time.monotonic() + 2 * SECONDS
        letters = []
        while not letters and time.monotonic() < deadline:
            letters = await app.transport.dead_letters("kill")
            await anyio.sleep(0.1)
        assert [letter.id for letter in letters] == [task.id]
        assert "5 workers vanished" in msgspec.json.decode(letters[0].reason)["message"]
    assert len((tmp_path / "kills").read_text().splitlines()) == 5
