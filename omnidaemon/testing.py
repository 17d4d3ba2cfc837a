"""Runs an app inside a test: on the memory transport, with a clock that need not be waited for.

`async with serve(app):` runs a worker while its block lasts; `run(body)` runs an async function
from a plain test on a virtual clock, so that an hour of backoff passes in no time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from omnidaemon import stores, transports, webhooks
from omnidaemon.app import App
from omnidaemon.binding import threads
from omnidaemon.errors import ResultTimeout
from omnidaemon.posting import Answer, Post, Sender
from omnidaemon.worker.worker import Worker

T = TypeVar("T")
_boards = count(1)


class Served:
    """An app that is being served in this test.

    Attributes:
        app: The app.
        worker: The worker that runs it.
        posts: What was posted to webhooks, each attempt; none of it leaves the test unless `serve`
            was given something that sends it.
    """

    def __init__(self, app: App, worker: Worker, posts: list[Post]) -> None:
        self.app = app
        self.worker = worker
        self.posts = posts

    async def settled(self, *, timeout: float = 60.0) -> None:
        """Waits until every event that agents listen to is settled by all of them, webhooks posted.

        Raises:
            ResultTimeout: Something is still open after `timeout` seconds of the loop's clock.
        """
        deadline = anyio.current_time() + timeout
        while open_groups := await self._open():
            if anyio.current_time() >= deadline:
                raise ResultTimeout(f"not settled after {timeout} s: {', '.join(open_groups)}")
            await anyio.sleep(0.01)

    async def _open(self) -> list[str]:
        # Topic by topic: what one publishes while another is looked at would be missed.
        before = await self.app.transport.topics()
        found = await self._open_groups()
        return found or (["something new"] if await self.app.transport.topics() != before else [])

    async def _open_groups(self) -> list[str]:
        found = []
        served = {agent.topic for agent in self.app.agents}
        if self.app.settings.webhooks:
            served.add(webhooks.TOPIC)
        for topic in served:
            for group in await self.app.transport.groups(topic):
                if group.lag or group.leased or group.waiting:
                    found.append(
                        f"{topic}/{group.name} ({group.lag} unread, {group.leased} running, "
                        f"{group.waiting} waiting)"
                    )
        return found


@asynccontextmanager
async def serve(
    app: App, *, url: str | None = None, grace: float = 1.0, post: Sender | None = None
) -> AsyncIterator[Served]:
    """Runs a worker for the app while the block lasts.

    Args:
        app: The app; inside the block it publishes to where the worker listens.
        url: The transport and store; by default a memory board of this test's own.
        grace: Seconds that handlers which still run at the end get.
        post: Answers what is posted to webhooks: `async def post(post: Post) -> Answer`, of
            `omnidaemon.posting`. By default each is answered with 200. `HttpSender(allow)` sends.
    """
    posts: list[Post] = []

    async def remember(attempt: Post) -> Answer:
        posts.append(attempt)
        return Answer(200) if post is None else await post(attempt)

    place = url or f"memory://test-{next(_boards)}"
    transport, store = transports.connect(place), stores.connect(place)
    with app.override(transport=transport, store=store):
        worker = Worker(app, grace=grace, post=remember)
        async with anyio.create_task_group() as group:
            await _started(worker, group)
            try:
                yield Served(app, worker, posts)
            finally:
                worker.stop()
        await app.close()


async def _started(worker: Worker, group: TaskGroup) -> None:
    group.start_soon(worker.run)
    await worker.ready.wait()


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps to the next timer when nothing else is to be done.

    With anyio's pytest plugin: `("asyncio", {"loop_factory": VirtualClockLoop})`. While a sync
    handler runs in its thread the clock does not jump; threads that a handler starts by itself do
    not hold it. On trio, `("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})` is
    much the same, but that clock jumps while threads run.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """The machine's monotonic clock, and what was skipped."""
        return super().time() + self._ahead

    def _jump(self, seconds: float) -> None:
        self._ahead += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer, unless a handler's thread will have something to say before."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or threads.running:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._jump(timeout)
        return ready


def run(test: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Runs an async function on a virtual clock, on asyncio, and returns what it returns."""
    return anyio.run(test, *args, backend_options={"loop_factory": VirtualClockLoop})
