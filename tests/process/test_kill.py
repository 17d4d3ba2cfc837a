"""Workers killed at any moment: every event ends settled exactly once per group."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import anyio
import pytest

from omnidaemon import App
from omnidaemon.settings import Settings
from tests.process.chaos import Load, Workers

# SOAK_SECONDS=3600 kills for an hour, as `nox -s soak` does.
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
ROUND_SECONDS = 30.0
KILLS = 30 if SOAK_SECONDS else 12
EVENTS = 10_000 if SOAK_SECONDS else 2_500

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240 + 2 * SOAK_SECONDS)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_killing_workers_at_random_loses_nothing_and_settles_once(
    place: str, tmp_path: Path
) -> None:
    for seed in range(1 + int(SOAK_SECONDS / ROUND_SECONDS)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        # A round has keys, or a file, of its own.
        url = f"{place}-{seed}.db" if place.startswith("sqlite") else f"{place}?prefix=r{seed}"
        kept = 10 * EVENTS  # all of them, so that they can be counted in the end
        workers = Workers(folder, url, OMNIDAEMON_RETENTION=str(kept))
        app = App("publisher", transport=url, settings=Settings(retention=kept))
        try:
            await one_round(app, workers, random.Random(seed))
        finally:
            workers.clean_up()


async def one_round(app: App, workers: Workers, chance: random.Random) -> None:
    async with app:
        workers.start(3)
        await workers.ready()  # a worker that is killed before it has begun shows nothing
        load = Load(app)
        await load.publish(EVENTS)
        for kill in range(KILLS):
            # Spread over the load, however fast the machine is.
            await load.progress(int(len(load.expected) * 0.9 * kill / KILLS), workers)
            await anyio.sleep(chance.uniform(0.0, 0.1))
            victim = chance.randrange(len(workers.running))
            workers.running[victim].send_signal(signal.SIGKILL)
            workers.running[victim].wait()
            workers.replace(victim)
        await load.settled(workers)
        await load.check()
        workers.drain()
