"""The network between workers and Redis is cut, in requests and in replies, or swallows them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from omnidaemon import App
from omnidaemon.settings import Settings
from tests.process.chaos import (
    NOISE_SECONDS,
    REPLIES,
    RESUME_SECONDS,
    SETTLED_SECONDS,
    TOPIC,
    Load,
    Workers,
    resumed,
)
from tests.process.cutting_proxy import CuttingProxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
Record = Callable[[str, object], None]
SENDERS = 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def workers(tmp_path: Path, proxy: CuttingProxy) -> Iterator[Workers]:
    """Workers that reach the server by way of the proxy."""
    made = Workers(tmp_path, f"redis://127.0.0.1:{proxy.port}/0", CHAOS_SILENT="2")
    yield made
    made.clean_up()


async def send_while_cut(load: Load, proxy: CuttingProxy, disturb: Callable[[], bool]) -> None:
    """Sends event by event through the proxy, many at once, until nothing is left to disturb."""
    url = f"redis://127.0.0.1:{proxy.port}/0"
    async with App("sender", transport=url, settings=Settings()) as sender:

        async def send() -> None:
            n = 0
            while not done:
                n += 1
                reply_to = REPLIES if n % 5 == 0 else None
                task = await sender.send(TOPIC, n, reply_to=reply_to, timeout=SETTLED_SECONDS)
                load.expected.add(task.id)
                if reply_to:
                    load.replying.add(task.id)
                await anyio.sleep(0.02)  # a steady load, not the largest

        done = False
        async with anyio.create_task_group() as group:
            for _ in range(SENDERS):
                group.start_soon(send)
            deadline = time.monotonic() + SETTLED_SECONDS
            while not done:
                await anyio.sleep(0.05)
                done = disturb()
                assert time.monotonic() < deadline, "the disturbance does not end"


@pytest.mark.parametrize("what", ["requests", "replies"])
async def test_cut_connections_lose_nothing_and_store_nothing_twice(
    what: str, workers: Workers, proxy: CuttingProxy, app: App, record_property: Record
) -> None:
    workers.start(2)
    await workers.ready()
    load = Load(app)
    chance = random.Random(0)
    turns = 0

    def disturb() -> bool:
        nonlocal turns
        if proxy.to_be_cut:
            return False
        turns += 1
        if turns > 30:
            return True
        if what == "requests":
            proxy.cut_requests(2)
        else:
            proxy.cut_replies(0, chance.randrange(1, 40), chance.randrange(1, 2_000))
        return False

    await send_while_cut(load, proxy, disturb)
    assert proxy.cuts >= 60
    await load.settled(workers)
    seconds = await resumed(app, workers)
    load.expected |= {event.id for event in await app.transport.browse(TOPIC, limit=1)}
    record_property("resumed after seconds", round(seconds, 3))
    assert seconds < RESUME_SECONDS + NOISE_SECONDS
    await load.check()
    workers.drain()
    # A settlement whose reply was lost is known when it is made again: none counts as lost.
    assert "had gone to another worker" not in workers.logs


async def test_a_network_that_swallows_everything_is_noticed_and_left_behind(
    workers: Workers, proxy: CuttingProxy, app: App, client: Any, record_property: Record
) -> None:
    workers.start(1)
    await workers.ready()
    load = Load(app)
    await load.publish(500)
    await load.progress(100, workers)
    proxy.swallow()
    assert await client.pubsub_numsub(f"omni-wake:{TOPIC}") == [(f"omni-wake:{TOPIC}", 0)]
    await workers.said("no answer for")  # that it is noticed at all: no socket says so
    deadline = time.monotonic() + SETTLED_SECONDS
    while proxy.swallowed < 3:  # that for commands, that of the leases, and that for wake-ups
        assert time.monotonic() < deadline, "no new connections"
        await anyio.sleep(0.02)
    proxy.heal()
    seconds = await load.moves(workers)
    record_property("resumed after seconds", round(seconds, 3))
    print(f"resumed after {seconds:.2f} s")
    # Who was connecting when it healed waits for that connection first, here for a second.
    assert seconds < RESUME_SECONDS + NOISE_SECONDS
    await load.settled(workers)
    # The connection on which workers are woken was swallowed, too, and they listen again.
    while await client.pubsub_numsub(f"omni-wake:{TOPIC}") != [(f"omni-wake:{TOPIC}", 1)]:
        assert time.monotonic() < deadline, "nobody listens"
        await anyio.sleep(0.02)
    for _ in range(3):
        await resumed(app, workers)
    for event in await app.transport.browse(TOPIC, limit=3):
        load.expected.add(event.id)
    await load.check()
    workers.drain()
