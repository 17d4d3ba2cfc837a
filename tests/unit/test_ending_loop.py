"""A loop that ends by cancelling all its tasks, as `asyncio.run` does, in whatever order."""

import asyncio
import random

import pytest

from omnidaemon import App
from omnidaemon.testing import VirtualClockLoop
from omnidaemon.worker.worker import Worker


async def held_after_the_end(seed: int) -> list[tuple[int, int]]:
    """The attempts and crashes of what ran when all tasks were cancelled, the inner ones first."""
    app = App("ending", transport="memory")

    @app.agent("work", consumers=4)
    async def work(content: object) -> None:
        await asyncio.sleep(3600)

    before = asyncio.all_tasks()
    worker = Worker(app)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await app.send_many([("work", n) for n in range(4)])
    await asyncio.sleep(0.1)
    tasks = sorted(asyncio.all_tasks() - before, key=lambda task: task.get_name())
    random.Random(seed).shuffle(tasks)
    tasks.sort(key=lambda task: "consuming" not in task.get_name())
    for task in tasks:
        task.cancel()
    await asyncio.wait([running])
    async with app.transport.subscribe("work", "work", lease=60) as subscription:
        held = await subscription.receive(10, wait=60)
    return [(delivery.attempt, delivery.crashes) for delivery in held]


@pytest.mark.parametrize("seed", range(3))
def test_what_runs_when_a_loop_ends_is_handed_back_uncharged(seed: int) -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        assert runner.run(held_after_the_end(seed)) == [(1, 0)] * 4
