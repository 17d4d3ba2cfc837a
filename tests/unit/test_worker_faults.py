"""A worker when things around it fail: stores that go away, other backends, other encodings."""

import logging
import time
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from omnidaemon import App, Backoff, Context, PayloadError, Reject, TaskFailed
from omnidaemon.errors import (
    ConfigurationError,
    ConnectionLost,
    StoreError,
    TaskNotFound,
    TransportError,
)
from omnidaemon.messages import Message, Release, Settlement, Write
from omnidaemon.records import RESULTS, Metrics, Roster
from omnidaemon.settings import Settings
from omnidaemon.stores.memory import MemoryStore
from omnidaemon.testing import VirtualClockLoop, serve
from omnidaemon.transports.base import Limits
from omnidaemon.transports.memory import MemoryTransport
from omnidaemon.worker.consumer import SETTLE_SECONDS
from omnidaemon.worker.worker import Worker

pytestmark = pytest.mark.anyio
RUN = [0]


def board(name):
    """A memory URL that only this test run has."""
    return f"memory://{name}-{RUN[0]}"


@pytest.fixture(autouse=True)
def another_run():
    RUN[0] += 1


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    if request.param == "trio":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualClockLoop}


class Flaky:
    """Fails the next calls of one method, as a backend that is away would."""

    def __init__(self, target, name, error):
        self.calls = 0
        self.failures = 0
        self._inner = getattr(target, name)
        self._error = error
        setattr(target, name, self)

    async def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise self._error
        return await self._inner(*args, **kwargs)


async def working(app, group):
    """Starts a worker in the task group."""
    worker = Worker(app, grace=5)
    group.start_soon(worker.run)
    await worker.ready.wait()
    return worker


async def test_a_finished_run_is_never_repeated_because_its_store_is_away():
    runs = []
    transport = MemoryTransport(board("flaky-bus"))
    store = MemoryStore(board("flaky-store"))
    app = App("flaky", transport=transport, store=store, settings=Settings())

    @app.agent("work", lease=5)
    async def work(content):
        runs.append(content)
        return content

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        write = Flaky(store, "write", StoreError("the disk is full"))
        write.failures = 10_000
        task = await app.send("work", 1)
        await anyio.sleep(300)
        assert runs == [1]
        assert worker._record().state == "degraded"
        assert "the disk is full" in worker._record().detail
        await app.send_many([("work", n) for n in range(2, 3000)])
        await anyio.sleep(300)
        assert len(runs) < 600  # what was being received meanwhile, and no further work
        write.failures = 0
        assert await task.result(timeout=60) == 1
        while (await Metrics(store).totals())["work"]["work"].processed < 2999:
            await anyio.sleep(1)
        assert sorted(runs) == list(range(1, 3000))
        await anyio.sleep(10)
        [beat] = await Roster(store).workers()
        assert beat.state == "running"
        worker.stop()


@pytest.mark.timeout(20)  # it went on for ever, and held off what ends tests
@pytest.mark.parametrize("stops_first", [True, False])
async def test_a_cancelled_worker_ends_although_its_store_is_away(stops_first):
    store = MemoryStore(board("gone-store"))
    app = App("gone", transport=board("gone-bus"), store=store, settings=Settings())

    @app.agent("work")
    async def work(content):
        return content

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        write = Flaky(store, "write", StoreError("the disk is full"))
        write.failures = 10_000_000
        await app.send("work", 1)
        await anyio.sleep(300)
        if stops_first:
            worker.stop()
            await anyio.sleep(1)  # within the grace, which nobody counts once all is cancelled
        began = anyio.current_time()
        group.cancel_scope.cancel()
    assert anyio.current_time() - began < 2 * SETTLE_SECONDS


async def test_receiving_goes_on_when_the_transport_is_back():
    transport = MemoryTransport(board("away"))
    app = App("away", transport=transport, store=board("away"), settings=Settings())

    @app.agent("work")
    async def work(content):
        return content

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        consumer = worker._consumers[0]
        receive = Flaky(consumer._subscription, "receive", TransportError("the broker is away"))
        settle = Flaky(consumer._subscription, "settle", ConnectionLost("cut"))
        receive.failures = 5
        settle.failures = 4
        task = await app.send("work", "first")
        assert await task.result(timeout=100) == "first"
        assert await app.request("work", "second", timeout=100) == "second"
        assert settle.failures == receive.failures == 0
        totals = (await Metrics(app.store).totals())["work"]["work"]
        assert totals.processed == 2
        worker.stop()


@pytest.mark.parametrize("name", ["receive", "settle"])
async def test_a_backend_that_was_away_for_long_is_asked_again_within_two_seconds(name):
    transport = MemoryTransport(board("long-away"))
    app = App("long-away", transport=transport, store=board("long-away"), settings=Settings())

    @app.agent("work", consumers=2)
    async def work(content):
        return content

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        [consumer] = [one for one in worker._consumers if one.agent.topic == "work"]
        flaky = Flaky(consumer._subscription, name, ConnectionLost("away"))
        flaky.failures = 10_000
        await app.send_many([("work", n) for n in range(3)])
        await anyio.sleep(300)
        tried = flaky.calls
        await anyio.sleep(300)
        assert flaky.calls - tried >= 300 / 1.5
        for _ in range(50):  # at any moment between two tries
            await anyio.sleep(0.37)
            tried = flaky.calls
            await anyio.sleep(2)
            assert flaky.calls > tried
        flaky.failures = 0
        worker.stop()


async def test_one_settlement_that_a_store_chokes_on_does_not_hold_up_the_others():
    transport = MemoryTransport(board("choke-bus"))
    store = MemoryStore(board("choke-store"))
    app = App("choke", transport=transport, store=store, settings=Settings())

    @app.agent("work", consumers=5)
    async def work(content):
        return content

    inner = store.write
    poisoned = True

    async def write(*changes):
        if poisoned and any(b"poison" in (getattr(c, "value", None) or b"") for c in changes):
            raise StoreError("cannot store that")
        await inner(*changes)

    store.write = write
    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        tasks = await app.send_many([("work", "good"), ("work", "poison"), ("work", "fine")])
        assert await tasks[0].result(timeout=100) == "good"
        assert await tasks[2].result(timeout=100) == "fine"
        poisoned = False
        assert await tasks[1].result(timeout=100) == "poison"
        worker.stop()


async def test_at_the_end_of_the_grace_what_cannot_be_settled_is_left_to_its_lease():
    transport = MemoryTransport(board("left"))
    app = App("left", transport=transport, store=board("left"), settings=Settings())

    @app.agent("work", lease=30)
    async def work(content):
        return content

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        consumer = worker._consumers[0]
        Flaky(consumer._subscription, "settle", ConnectionLost("cut")).failures = 10**9
        await app.send("work", 1)
        await anyio.sleep(1)
        worker.stop()
    [info] = await transport.groups("work")
    assert info.leased == 1  # and after its lease another worker runs it


# On the machine's clock: a clock that jumps would let leases end while the database thread works.
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("bus", "store"), [("memory", "sqlite"), ("sqlite", "memory")])
async def test_where_the_store_is_another_backend_the_promises_are_the_same(bus, store, tmp_path):
    urls = {"memory": board("mixed"), "sqlite": f"sqlite://{tmp_path}/mixed.db"}
    app = App("mixed", transport=urls[bus], store=urls[store], settings=Settings())
    replies = []

    @app.agent("work", consumers=4, backoff=Backoff(initial=0.01))
    async def work(n, ctx: Context):
        if n % 5 == 0 and ctx.attempt == 1:
            raise ValueError("once")
        return n

    @app.agent("answers")
    async def answers(n):
        replies.append(n)

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        assert app.transport.backend != app.store.backend
        tasks = [await app.send("work", n, reply_to="answers") for n in range(20)]
        for n, task in enumerate(tasks):
            assert await task.result(timeout=600) == n
        totals = (await Metrics(app.store).totals("work"))["work"]["work"]
        assert (totals.processed, totals.failed) == (20, 4)
        while len(replies) < 20:
            await anyio.sleep(0.1)
        worker.stop()
    assert sorted(replies) == list(range(20))


async def test_a_run_that_lost_its_lease_writes_nothing_in_another_store():
    bus = MemoryTransport(board("fenced-bus"))
    store = MemoryStore(board("fenced-store"))
    app = App("fenced", transport=bus, store=store, settings=Settings())
    gate = anyio.Event()

    @app.agent("work", lease=10)
    async def work(content):
        await gate.wait()
        return "late"

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        renew = Flaky(bus, "renew", ConnectionLost("away"))
        renew.failures = 10**9
        task = await app.send("work", 1)
        await anyio.sleep(1)
        async with bus.subscribe("work", "work", lease=10) as other:
            [taken] = await other.receive(1, 60)
            assert taken.crashes == 1
            renew.failures = 0
            gate.set()
            await anyio.sleep(5)
            assert await task.results() == {}
            await other.settle([Settlement(taken, Release())])
        assert await task.result(timeout=60) == "late"
        worker.stop()


async def test_the_wire_may_be_msgpack():
    settings = Settings(wire="msgpack")
    app = App("packed", transport=board("packed"), settings=settings)
    got = []

    @app.agent("work")
    async def work(content: dict[str, int], ctx: Context):
        got.append((ctx.wire, ctx.envelope.content))
        return content["n"] + 1

    @app.agent("answers")
    async def answers(n: int):
        got.append(n)

    async with serve(app, url=board("packed")) as served:
        task = await app.send("work", {"n": 1}, reply_to="answers")
        assert await task.result(timeout=5) == 2
        await served.settled()
        body = (await app.transport.browse("work"))[0].body
    assert body[:1] not in b"{ "
    assert got == [("msgpack", {"n": 1}), 2]


async def test_a_sync_handler_past_its_timeout_keeps_its_slot_and_fails_at_its_end():
    app = App("abandon", transport=board("abandon"), settings=Settings())
    running = most = 0

    @app.agent("work", timeout=0.01, timeout_mode="abandon", retries=1, backoff=Backoff(initial=0))
    def work(content):
        nonlocal running, most
        running += 1
        most = max(most, running)
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        running -= 1

    async with serve(app, url=board("abandon")):
        task = await app.send("work", 1)
        with pytest.raises(TaskFailed, match=r"timeout of 0\.01"):
            await task.result()
    assert most == 1


async def test_a_message_whose_worker_vanished_five_times_is_dead_and_not_run(caplog):
    transport = MemoryTransport(board("killer"))
    app = App("killer", transport=transport, store=board("killer"), settings=Settings())
    runs = []

    @app.agent("work", lease=10)
    async def work(content):
        runs.append(content)

    await transport.publish(Message("work", "killer", b'{"topic":"work","id":"killer"}'))
    for _ in range(5):
        async with transport.subscribe("work", "work", lease=10) as vanishing:
            assert len(await vanishing.receive(1, 3600)) == 1
    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        with pytest.raises(TaskFailed, match="5 workers vanished"):
            await app.tasks.result("killer", "work", timeout=100)
        worker.stop()
    assert runs == []
    totals = (await Metrics(app.store).totals())["work"]["work"]
    assert (totals.processed, totals.failed, totals.dead) == (0, 0, 1)


async def test_a_lifespan_that_fails_ends_the_worker_with_its_error():
    def lifespan(app):
        raise ValueError("no database")

    app = App("broken", transport="memory", lifespan=lifespan)
    app.agent("work", name="work")(print)
    with pytest.raises(ConfigurationError, match=r"lifespan.*ValueError: no database"):
        await Worker(app).run()


async def test_dead_letters_near_their_bound_are_warned_of(caplog):
    limits = Limits(dead_letters=10)
    transport = MemoryTransport(board("bound"), limits=limits)
    app = App("bound", transport=transport, store=board("bound"), settings=Settings())

    @app.agent("work", retries=0)
    async def work(content):
        raise ValueError

    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        with caplog.at_level(logging.WARNING):
            await app.send_many([("work", n) for n in range(9)])
            while (await transport.groups("work"))[0].dead < 9:
                await anyio.sleep(1)
            await anyio.sleep(120)
        worker.stop()
    assert any("9 of at most 10 dead letters" in message for message in caplog.messages)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


async def test_an_exception_that_cannot_be_shown_is_a_failure_like_any_other():
    app = App("mute", transport=board("mute"), settings=Settings())

    @app.agent("mute", retries=0)
    async def mute(content):
        raise Mute

    @app.agent("fine")
    async def fine(content):
        return "fine"

    async with serve(app, url=board("mute")):
        with pytest.raises(TaskFailed, match=r"Mute: .its text cannot be shown: RuntimeError"):
            await app.request("mute", 1, timeout=5)
        assert await app.request("fine", 1, timeout=5) == "fine"


async def test_a_handler_that_cancels_its_own_task_does_not_take_the_slot_along(
    anyio_backend_name,
):
    if anyio_backend_name == "trio":
        pytest.skip("tasks of trio cannot be cancelled from within like that")
    import asyncio

    app = App("self", transport=board("self"), settings=Settings())

    @app.agent("work")
    async def work(content):
        asyncio.current_task().cancel()
        return content

    async with serve(app, url=board("self")):
        for n in range(5):
            assert await app.request("work", n, timeout=60) == n


async def test_a_keyboard_interrupt_that_a_handler_raises_is_its_failure(monkeypatch):
    import signal

    # As in a worker process, whose signals never raise.
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    app = App("interrupt", transport=board("interrupt"), settings=Settings())

    @app.agent("work", retries=0)
    async def work(content):
        raise KeyboardInterrupt

    async with serve(app, url=board("interrupt")):
        with pytest.raises(TaskFailed, match="KeyboardInterrupt"):
            await app.request("work", 1, timeout=5)


async def test_what_was_fetched_ahead_of_a_slow_run_goes_to_a_worker_with_a_free_slot():
    url = board("hostage")
    app = App("hostage", transport=url, settings=Settings())
    gate = anyio.Event()

    @app.agent("work")
    async def work(content):
        if content == "slow":
            await gate.wait()
        return content

    async with anyio.create_task_group() as group:
        first = await working(app, group)
        await app.send_many([("work", "fast")] * 300)
        await (await app.send("work", "fast")).result(timeout=60)
        await app.send("work", "slow")
        held = await app.send_many([("work", "fast")] * 50)
        other = App("hostage", transport=url, settings=Settings())
        other.agent("work", name="work")(work)
        second = await working(other, group)
        for task in held:
            assert await task.result(timeout=60) == "fast"
        gate.set()
        first.stop()
        second.stop()


async def test_sync_generator_dependencies_on_a_small_pool_do_not_wait_for_each_other_for_ever():
    import threading
    from typing import Annotated

    from omnidaemon import Depends

    app = App("pool", transport=board("pool"), settings=Settings())
    pool = threading.Semaphore(2)

    def connection():
        pool.acquire()
        try:
            yield "connection"
        finally:
            pool.release()

    async def work(content, db) -> str:
        await checkpoint()
        return db

    work.__annotations__["db"] = Annotated[str, Depends(connection)]
    app.agent("work", consumers=60)(work)
    async with serve(app, url=board("pool")):
        tasks = await app.send_many([("work", n) for n in range(60)])
        for task in tasks:
            assert await task.result() == "connection"


async def test_a_timeout_that_the_handler_catches_is_a_timeout_still():
    app = App("catch", transport=board("catch"), settings=Settings())

    @app.agent("swallow", timeout=5, retries=0)
    async def swallow(content):
        try:
            await anyio.sleep(1000)
        except BaseException:
            return "as if nothing had happened"

    @app.agent("mask", timeout=5, retries=0)
    async def mask(content):
        try:
            await anyio.sleep(1000)
        except BaseException as error:
            raise ValueError("masked") from error

    async with serve(app, url=board("catch")):
        for topic in ("swallow", "mask"):
            with pytest.raises(TaskFailed, match="TimeoutError"):
                await app.request(topic, 1, timeout=100)


async def test_a_result_is_waited_for_only_while_it_can_come():
    url = board("over")
    app = App("over", transport=url, settings=Settings(result_ttl=60))

    @app.agent("work", retries=1, backoff=Backoff(initial=1000, maximum=1000))
    async def work(content, ctx: Context):
        if content == "reject":
            raise Reject("no")
        if content == "retry":
            raise ValueError("later")
        return content

    async with serve(app, url=url):
        await app.transport.publish(Message("work", "garbage", b"not an envelope"))
        with pytest.raises(TaskFailed, match="DecodeError"):
            await app.tasks.result("garbage", "work", timeout=100)
        dead = await app.send("work", "reject")
        with pytest.raises(TaskFailed):
            await dead.result(timeout=100)
        done = await app.send("work", "done")
        assert await done.result(timeout=100) == "done"
        retried = await app.send("work", "retry")
        while await retried.status() != "failed":
            await anyio.sleep(0.1)
        await anyio.sleep(61)  # the records have expired
        with pytest.raises(TaskFailed, match="Reject: no"):
            await dead.result()
        with pytest.raises(TaskNotFound, match="expired"):
            await done.result()
        with pytest.raises(TaskNotFound, match="no task"):
            await app.tasks.result("unknown", "work")
    async with serve(app, url=url):
        retried = await app.send("work", "retry")
        while await retried.status() != "failed":
            await anyio.sleep(0.1)
        await app.transport.remove_group("work", "work")
        assert await retried.status() == "cancelled"
        with pytest.raises(TaskFailed):
            await retried.result()


async def test_one_id_on_two_topics_is_two_tasks():
    app = App("twice", transport=board("twice"), settings=Settings())

    @app.agent("u", name="h")
    async def u(content):
        return "u"

    @app.agent("v", name="h")
    async def v(content):
        return "v"

    async with serve(app, url=board("twice")):
        one = await app.send("u", 1, id="same")
        two = await app.send("v", 1, id="same")
        assert await one.result(timeout=5) == "u"
        assert await two.result(timeout=5) == "v"
        assert await one.result(timeout=5) == "u"


async def test_bytes_given_as_json_are_read_before_they_are_believed():
    app = App("raw", transport=board("raw"), settings=Settings())

    @app.agent("work", retries=0)
    async def work(content):
        return msgspec.Raw(b"garbage") if content == "bad" else msgspec.Raw(b'{"a":1}')

    async with serve(app, url=board("raw")):
        with pytest.raises(PayloadError):
            await app.send("work", msgspec.Raw(b"not json"))
        assert await app.request("work", msgspec.Raw(b'"good"'), timeout=5) == {"a": 1}
        with pytest.raises(TaskFailed, match="PayloadError"):
            await app.request("work", "bad", timeout=5)


async def test_a_record_that_cannot_be_read_hides_no_other():
    app = App("odd", transport=board("odd"), settings=Settings())

    @app.agent("work")
    async def work(content):
        return content

    async with serve(app, url=board("odd")):
        assert await app.request("work", 1, timeout=5) == 1
        await app.store.write(Write(RESULTS, "odd/work/work", b"garbage", "work", 60))
        runs = await app.tasks.newest("work")
        assert [run.status for run in runs] == ["dead", "succeeded"]
        assert "not readable" in runs[0].cause.message


async def test_a_stop_before_the_worker_is_ready_ends_it():
    @asynccontextmanager
    async def lifespan(app):
        await anyio.sleep(1e9)
        yield

    app = App("boot", transport=board("boot"), lifespan=lifespan, settings=Settings())
    app.agent("work", name="work")(print)
    worker = Worker(app)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await anyio.sleep(10)
        worker.stop()
    assert not worker.ready.is_set()


async def test_a_forced_end_does_not_wait_for_a_lifespan_that_hangs():
    @asynccontextmanager
    async def lifespan(app):
        yield
        await anyio.sleep(1e9)

    app = App("slow-end", transport=board("slow-end"), lifespan=lifespan, settings=Settings())
    app.agent("work", name="work")(print)
    async with anyio.create_task_group() as group:
        worker = await working(app, group)
        worker.stop()
        await anyio.sleep(10)
        began = anyio.current_time()
        worker.abort()
    assert anyio.current_time() - began < 100


async def test_pairs_and_headers_of_the_wrong_shape_are_refused():
    app = App("shape", transport=board("shape"), settings=Settings())
    for events in (["ab"], [("work",)], [{"topic": "work"}], [3]):
        with pytest.raises(PayloadError, match="neither"):
            await app.send_many(events)
    with pytest.raises(PayloadError, match="headers"):
        await app.send("work", 1, headers=[("a", "b")])


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_agent_that_joins_while_the_broker_is_away_is_served_when_it_is_back(
    monkeypatch, comes_back
):
    app = App("late", transport=board("late"), settings=Settings())
    late = App("late", transport=board("late"))
    away = True

    @app.agent("early")
    async def early(content): ...

    @late.agent("work", name="late")
    async def work(content):
        return content

    async with serve(app, url=board("late")) as served:
        subscribe = app.transport.subscribe

        def unless_away(*args, **options):
            if away:
                raise ConnectionLost("away")
            return subscribe(*args, **options)

        monkeypatch.setattr(app.transport, "subscribe", unless_away)
        [agent] = late.agents
        async with anyio.create_task_group() as group:
            group.start_soon(served.worker.add, agent)
            await anyio.sleep(7)
            [beat] = await Roster(app.store).workers()
            assert (beat.state, beat.detail) == ("degraded", "work/late: joining: away")
            if comes_back:
                away = False
            else:
                served.worker.stop()
        if comes_back:
            assert await app.request("work", 3, timeout=5) == 3
            await anyio.sleep(6)
            [beat] = await Roster(app.store).workers()
            assert beat.state == "running"
