"""What comes with the notice of a settlement: the record of the run, so that nobody asks for it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omnidaemon import App, TaskFailed
from omnidaemon.drivers import redis_ears
from omnidaemon.messages import Ack, Message, Settlement
from omnidaemon.records import RESULTS, Results
from omnidaemon.stores.base import Store
from omnidaemon.transports.redis import RedisTransport
from omnidaemon.worker.worker import Worker
from tests.redis.servers import RedisServer

pytestmark = pytest.mark.anyio


async def settled(transport: RedisTransport, count: int, news: bytes) -> None:
    """Publishes as many events and settles them in one batch."""
    await transport.publish(*(Message("orders", f"e{n}", b"{}") for n in range(count)))
    async with transport.subscribe("orders", "mail", lease=30) as mail:
        held = await mail.receive(count, wait=0)
        await mail.settle([Settlement(d, Ack(), notice=d.id, news=news) for d in held])


@pytest.mark.parametrize(
    ("count", "news", "comes"),
    [
        (1, b'{"n": 1,\n"m": "two\\nlines"}\n', True),
        (1, b"\x00\xff\n\n", True),
        (4, b"news", True),
        (5, b"news", False),  # under load one message for all of them costs less
        (1, b"x" * 4_097, False),
    ],
)
async def test_news_of_few_and_small_settlements_come_with_the_notice(
    transport: RedisTransport, server: RedisServer, count: int, news: bytes, comes: bool
) -> None:
    async with RedisTransport(server.url) as other, other.watch("e0") as watch:
        await settled(transport, count, news)
        with anyio.fail_after(60):
            assert await watch.wait(30) == (news if comes else None)
        assert await watch.wait(0) is None  # once


async def test_a_notice_without_news_leaves_no_older_ones(
    transport: RedisTransport, server: RedisServer, client: Any
) -> None:
    ids = [f"{n:024d}-abcdefabcdef" for n in range(2)]  # one channel, as of one publisher
    async with (
        RedisTransport(server.url) as other,
        other.watch(ids[0]) as first,
        other.watch(ids[1]) as watch,
    ):
        await first.wait(0)  # connecting rings as well
        channel = other.keys.done(ids[0])
        await client.publish(channel, f"{ids[1]}\nold")
        await client.publish(channel, " ".join(ids))
        with anyio.fail_after(60):
            await first.wait(30)  # by now both were heard, in their order
        assert await watch.wait(0) is None


async def test_news_that_nobody_has_taken_go_with_the_watch(
    transport: RedisTransport, server: RedisServer
) -> None:
    async with RedisTransport(server.url) as other:
        async with other.watch("e0") as watch, other.watch("e0") as second:
            await settled(transport, 1, b"news")
            with anyio.fail_after(60):
                assert await watch.wait(30) == b"news"
                assert await second.wait(30) is None  # told, and to look by itself
            other.here.ears._news["omni-done:e0 e0"] = b"late"
        assert other.here.ears._news == {}


async def test_listening_waits_for_no_server_that_is_away(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_ears, "_CONFIRM_SECONDS", 3_600)
    async with RedisTransport(server.url) as other:
        server.stop()
        with anyio.fail_after(60):
            # The connection fails while the first waits, and is away when the second comes.
            async with other.watch("e0"), other.watch("e1"):
                server.start()
                while not other.here.ears.up:
                    await anyio.sleep(0.01)
            async with other.watch("e2") as watch, RedisTransport(server.url) as transport:
                await settled(transport, 3, b"news")
                while await watch.wait(30) != b"news":
                    pass  # that it is connected again rings as well


class Counted:
    """A store that counts how often results are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def browse(self, collection: str, **options: Any) -> Any:
        self.asked += collection == RESULTS
        return await self._store.browse(collection, **options)


async def test_a_request_is_answered_without_asking_for_its_record(server: RedisServer) -> None:
    app = App("asks", transport=server.url)

    @app.agent("echo")
    async def echo(content: Any) -> Any:
        return content

    @app.agent("echo")
    async def other(content: Any) -> None:
        raise RuntimeError("not this one")

    async with app:
        worker = Worker(app)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await worker.ready.wait()
            counted = Counted(app.store)
            app.tasks._results = Results(counted)
            answers = [await app.request("echo", n, timeout=60) for n in range(20)]
            worker.stop()
    assert answers == list(range(20))
    # Now and then a run takes longer than 50 ms, or the other agent's failure is told first.
    assert counted.asked < 20


async def test_a_request_that_fails_for_good_says_why(server: RedisServer) -> None:
    app = App("asks", transport=server.url)

    @app.agent("echo", retries=0)
    async def echo(content: Any) -> Any:
        raise RuntimeError("out of paper")

    async with app:
        worker = Worker(app)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await worker.ready.wait()
            with pytest.raises(TaskFailed, match="out of paper"):
                await app.request("echo", 1, timeout=60)
            worker.stop()
