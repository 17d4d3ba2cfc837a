"""A worker on the memory transport, on a clock that jumps: what users are promised, end to end."""

import itertools
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from trio.testing import MockClock

from omnidaemon import (
    App,
    Backoff,
    Context,
    Envelope,
    PayloadError,
    Reject,
    ResultTimeout,
    Retry,
    TaskFailed,
)
from omnidaemon.errors import ConfigurationError, TaskNotFound
from omnidaemon.messages import Message
from omnidaemon.records import Metrics, Roster
from omnidaemon.testing import VirtualClockLoop, serve
from omnidaemon.worker.worker import Worker

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"loop_factory": VirtualClockLoop}), id="asyncio"),
        pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio"),
    ]
)
def anyio_backend(request):
    name, options = request.param
    if name == "trio":
        options = {"clock": MockClock(autojump_threshold=0)}
    return name, options


@pytest.fixture
def app():
    return App("test", transport="memory")


async def ended(task, status="dead"):
    while await task.status() != status:
        await anyio.sleep(0.05)


async def test_an_event_reaches_every_agent_and_results_are_kept_apart(app):
    @app.agent("greet")
    async def hello(person: dict):
        return f"hello {person['name']}"

    @app.agent("greet")
    def bye(person: dict):
        return f"bye {person['name']}"

    async with serve(app) as served:
        task = await app.send("greet", {"name": "Ada"})
        assert await task.result("hello", timeout=5) == "hello Ada"
        assert await task.result("bye") == "bye Ada"
        await served.settled()
        results = await task.results()
        assert {name: run.value for name, run in results.items()} == {
            "hello": "hello Ada",
            "bye": "bye Ada",
        }
        assert await task.status() == "succeeded"


async def test_an_event_sent_before_the_first_worker_waits_for_it(app):
    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app):
        pass
    other = App("later", transport="memory://later")
    other.agent("a", name="agent")(agent)
    task = await other.send("a", 1)
    assert await task.status() == "pending"
    async with serve(other, url="memory://later"):
        assert await task.result(timeout=5) == 1


async def test_a_request_waits_for_the_result(app):
    @app.agent("double")
    async def double(n: int):
        return 2 * n

    async with serve(app):
        assert await app.request("double", 21, timeout=5) == 42


async def test_a_failure_is_retried_with_backoff_and_then_dead_with_its_cause(app):
    times = []

    @app.agent("fail", retries=3, backoff=Backoff(initial=100, factor=2, maximum=1e4, jitter=0))
    async def agent(content):
        times.append(anyio.current_time())
        raise ValueError(f"broken {len(times)}")

    async with serve(app):
        task = await app.send("fail", 1)
        with pytest.raises(TaskFailed, match="agent: ValueError: broken 4") as caught:
            await task.result(timeout=10_000)
        assert caught.value.causes == {"agent": "ValueError: broken 4"}
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert gaps == pytest.approx([100, 200, 400], abs=1)
        assert await task.status() == "dead"
        [letter] = await app.transport.dead_letters("fail")
        reason = msgspec.json.decode(letter.reason)
        assert (letter.group, letter.id) == ("agent", task.id)
        assert reason["type"] == "ValueError"
        assert reason["message"] == "broken 4"
        assert reason["attempts"] == 4
        assert "test_worker" in reason["traceback"]
        metrics = (await Metrics(app.store).totals())["fail"]["agent"]
        assert (metrics.processed, metrics.failed, metrics.dead) == (0, 4, 1)


async def test_a_task_that_waits_for_a_retry_is_failed_and_says_why(app):
    @app.agent("fail", backoff=Backoff(initial=1000, jitter=0, maximum=1000))
    async def agent(content, ctx: Context):
        if ctx.attempt == 1:
            raise OSError("not yet")
        return ctx.attempt

    async with serve(app):
        task = await app.send("fail", 1)
        await ended(task, "failed")
        run = (await task.results())["agent"]
        assert run.status == "failed"
        assert run.cause.message == "not yet"
        assert await task.result(timeout=2000) == 2
        assert await task.status() == "succeeded"


async def test_zero_retries_mean_one_run_and_no_dead_letter_is_kept_if_so_told(app):
    runs = []

    @app.agent("fail", retries=0, dead_letter=False)
    async def agent(content):
        runs.append(content)
        raise ValueError

    async with serve(app):
        task = await app.send("fail", 1)
        with pytest.raises(TaskFailed):
            await task.result(timeout=5)
        assert runs == [1]
        assert await app.transport.dead_letters("fail") == []


async def test_a_rejected_event_and_content_that_does_not_fit_are_dead_at_once(app):
    @app.agent("reject")
    async def rejecting(content):
        raise Reject("no such customer")

    @app.agent("typed")
    async def typed(number: int):
        return number

    async with serve(app):
        with pytest.raises(TaskFailed, match="Reject: no such customer"):
            await app.request("reject", 1, timeout=5)
        with pytest.raises(TaskFailed, match="does not fit int"):
            await app.request("typed", "one", timeout=5)
        runs = await app.tasks.newest()
        assert [run.attempts for run in runs] == [1, 1]


async def test_retry_says_when_and_retry_on_and_give_up_on_say_what(app):
    started = []

    @app.agent("wait")
    async def waiting(content, ctx: Context):
        started.append(anyio.current_time())
        if ctx.attempt == 1:
            raise Retry("rate limited", delay=500)
        return "done"

    @app.agent("pick", retry_on=(OSError,), backoff=Backoff(initial=0.1))
    async def picky(kind, ctx: Context):
        if ctx.attempt == 1:
            raise {"os": OSError, "value": ValueError}[kind]
        return "done"

    async with serve(app):
        assert await app.request("wait", 1, timeout=1000) == "done"
        assert started[1] - started[0] == pytest.approx(500, abs=1)
        assert await app.request("pick", "os", timeout=5) == "done"
        with pytest.raises(TaskFailed):
            await app.request("pick", "value", timeout=5)


@pytest.mark.parametrize("value", [object(), float("nan"), 2**80, "\ud800", {1, object()}])
async def test_a_result_that_cannot_be_stored_is_a_failure_with_a_clear_error(app, value):
    @app.agent("bad", retries=0)
    async def agent(content):
        return value

    async with serve(app):
        with pytest.raises(TaskFailed, match="PayloadError: the result"):
            await app.request("bad", 1, timeout=5)


async def test_a_reply_goes_to_the_topic_asked_for_with_what_belongs_together(app):
    got = []

    @app.agent("first")
    async def first(content, ctx: Context):
        return {"from": "first"}

    @app.agent("second")
    async def second(content, ctx: Context):
        got.append(ctx.envelope)

    async with serve(app) as served:
        task = await app.send(
            "first", 1, reply_to="second", tenant_id="acme", source="shop", headers={"a": "b"}
        )
        other = await app.send("first", 1, reply_to="second", correlation_id="talk-7")
        await served.settled()
    by_cause = {envelope.causation_id: envelope for envelope in got}
    assert len(got) == 2
    reply = by_cause[task.id]
    assert reply.content == {"from": "first"}
    assert (reply.correlation_id, reply.tenant_id, reply.source) == (task.id, "acme", "shop")
    assert (reply.reply_to, reply.headers, reply.hops) == (None, {"a": "b"}, 1)
    assert by_cause[other.id].correlation_id == "talk-7"


async def test_an_agent_may_always_reply_and_an_event_may_ask_for_it_as_well(app):
    got = []

    @app.agent("first", reply_to="next")
    async def first(content):
        return content

    @app.agent("next")
    async def following(content, ctx: Context):
        got.append(("next", content, ctx.causation_id))

    @app.agent("answers")
    async def answers(content, ctx: Context):
        got.append(("answers", content, ctx.causation_id))

    async with serve(app) as served:
        one = await app.send("first", 1)
        two = await app.send("first", 2, reply_to="answers")
        three = await app.send("first", 3, reply_to="next")
        await app.send("first", None)
        await served.settled()
    assert sorted(got) == [
        ("answers", 2, two.id),
        ("next", 1, one.id),
        ("next", 2, two.id),
        ("next", 3, three.id),
    ]


async def test_none_is_no_reply(app):
    got = []

    @app.agent("first")
    async def first(content):
        return None

    app.agent("second", name="second")(got.append)
    async with serve(app) as served:
        await app.send("first", 1, reply_to="second")
        await served.settled()
    assert got == []


async def test_agents_that_answer_each_other_stop_at_a_hundred_hops(app):
    @app.agent("ping")
    async def ping(content, ctx: Context):
        await ctx.send("ping", content + 1)

    async with serve(app) as served:
        await app.send("ping", 0)
        await served.settled()
        [letter] = await app.transport.dead_letters("ping")
        assert msgspec.json.decode(letter.reason)["type"] == "TooManyHops"


async def test_what_an_agent_sends_carries_correlation_causation_tenant_and_source(app):
    got = []

    @app.agent("first")
    def first(content, ctx: Context):
        ctx.send_blocking("second", "from a thread")

    @app.agent("second")
    async def second(content, ctx: Context):
        got.append((ctx.correlation_id, ctx.causation_id, ctx.tenant_id, ctx.source, content))

    async with serve(app) as served:
        task = await app.send("first", 1, tenant_id="acme", source="shop")
        await served.settled()
    assert got == [(task.id, task.id, "acme", "shop", "from a thread")]


async def test_what_a_repeated_run_sends_can_have_the_same_id(app):
    got = []

    @app.agent("first", retries=1, backoff=Backoff(initial=0))
    async def first(content, ctx: Context):
        await ctx.send("second", id=f"{ctx.id}-mail")
        if ctx.attempt == 1:
            raise ConnectionError("after it was sent")

    @app.agent("second")
    async def second(content, ctx: Context):
        got.append(ctx.id)

    async with serve(app) as served:
        task = await app.send("first")
        await served.settled()
    assert got == [f"{task.id}-mail"] * 2


@pytest.mark.parametrize("consumers", [1, 3, 5])
async def test_consumers_is_exactly_how_many_run_at_once(app, consumers):
    running = most = 0

    @app.agent("work", consumers=consumers)
    async def work(content):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    async with serve(app) as served:
        await app.send_many([("work", n) for n in range(60)])
        began = anyio.current_time()
        await served.settled(timeout=1000)
        assert most == consumers
        assert anyio.current_time() - began == pytest.approx(60 / consumers, abs=0.9)


async def test_sync_handlers_run_as_many_threads_as_consumers_are_told(app):
    together = threading.Barrier(60)

    @app.agent("work", consumers=60)
    def work(content):
        together.wait(20)  # passes only when all sixty run at once
        return content

    async with serve(app) as served:
        await app.send_many([("work", n) for n in range(60)])
        await served.settled(timeout=1e9)
        runs = await app.tasks.newest("work")
        assert {run.status for run in runs} == {"succeeded"}


async def test_a_run_past_its_timeout_is_cancelled_and_counts_as_failed(app):
    @app.agent("slow", timeout=5, retries=1, backoff=Backoff(initial=1))
    async def slow(content):
        await anyio.sleep(1000)

    async with serve(app):
        with pytest.raises(TaskFailed, match=r"TimeoutError: .*timeout of 5"):
            await app.request("slow", 1, timeout=100)


async def test_a_traceback_leads_from_the_handler_to_where_it_failed_or_hung(
    app, anyio_backend_name
):
    topics = ["slow", "wrong"]
    if anyio_backend_name == "asyncio":  # trio's threads have frames of their own
        topics.append("thread")

    async def ask_the_model():
        await anyio.sleep(1000)

    @app.agent("slow", timeout=5, retries=0)
    async def slow(content):
        await ask_the_model()

    @app.agent("wrong", retries=0)
    async def wrong(content):
        raise ValueError("no")

    @app.agent("thread", retries=0)
    def thread(content):
        raise ValueError("no")

    async with serve(app) as served:
        for topic in topics:
            await app.send(topic, 1)
        await served.settled(timeout=100)
        for topic in topics:
            [letter] = await app.transport.dead_letters(topic)
            trace = msgspec.json.decode(letter.reason)["traceback"]
            first, *others = re.findall(r"^  File .* in (\w+)$", trace, re.MULTILINE)
            assert first == topic
            assert others[:1] == (["ask_the_model"] if topic == "slow" else [])


async def test_a_handlers_own_timeout_error_is_its_own(app):
    @app.agent("slow", timeout=50, retries=0)
    async def slow(content):
        raise TimeoutError("the model took too long")

    async with serve(app):
        with pytest.raises(TaskFailed, match="the model took too long"):
            await app.request("slow", 1, timeout=100)


async def test_a_handler_that_exits_or_cancels_itself_fails_and_the_worker_lives(app):
    @app.agent("exit", retries=0)
    async def leaving(content):
        raise SystemExit(3)

    @app.agent("fine")
    async def fine(content):
        return "fine"

    async with serve(app):
        with pytest.raises(TaskFailed, match="SystemExit"):
            await app.request("exit", 1, timeout=5)
        assert await app.request("fine", 1, timeout=5) == "fine"


async def test_a_leaked_cancellation_is_a_failure(app, anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("trio's Cancelled cannot be raised by hand")
    import asyncio

    @app.agent("cancel", retries=0)
    async def cancelled(content):
        raise asyncio.CancelledError

    async with serve(app):
        with pytest.raises(TaskFailed, match="CancelledError"):
            await app.request("cancel", 1, timeout=5)


async def test_a_handler_longer_than_many_leases_runs_once(app):
    runs = []

    @app.agent("long", lease=10)
    async def long(content):
        runs.append(content)
        await anyio.sleep(3600)
        return "done"

    async with serve(app):
        assert await app.request("long", 1, timeout=4000) == "done"
    assert runs == [1]


async def test_an_undecodable_body_is_a_dead_letter_and_delays_nothing(app):
    @app.agent("mixed")
    async def agent(content):
        return content

    async with serve(app):
        poison = [Message("mixed", f"bad-{n}", b"\xff\x00 not json") for n in range(100)]
        await app.transport.publish(*poison)
        assert await app.request("mixed", "good", timeout=5) == "good"
        letters = await app.transport.dead_letters("mixed", limit=1000)
        assert len(letters) == 100
        assert "not an envelope" in msgspec.json.decode(letters[0].reason)["message"]


async def test_a_replayed_dead_letter_keeps_its_id_and_starts_anew(app):
    broken = True
    seen = []

    @app.agent("work", retries=0)
    async def agent(content, ctx: Context):
        seen.append((ctx.id, ctx.attempt, ctx.replays))
        if broken:
            raise ValueError("broken")
        return "mended"

    async with serve(app) as served:
        task = await app.send("work", 1)
        await ended(task)
        broken = False
        assert await app.transport.replay("work") == 1
        assert await task.result(timeout=5) == "mended"
        await served.settled()
        assert await task.status() == "succeeded"
        assert (await task.results())["agent"].replays == 1
    assert seen == [(task.id, 1, 0), (task.id, 1, 1)]


async def test_delayed_events_come_when_they_are_due(app):
    times = {}

    @app.agent("later")
    async def agent(content):
        times[content] = anyio.current_time()

    async with serve(app) as served:
        began = anyio.current_time()
        await app.send("later", "delay", delay=3600)
        await app.send("later", "at", at=datetime.now(UTC) + timedelta(hours=2))
        await app.send("later", "now")
        await served.settled()
        assert "delay" not in times
        await anyio.sleep(7300)
    assert times["now"] - began == pytest.approx(0, abs=1)
    assert times["delay"] - began == pytest.approx(3600, abs=1)
    assert times["at"] - began == pytest.approx(7200, abs=60)


async def test_middleware_wraps_each_run_the_first_outermost():
    log = []

    def layer(name):
        async def middleware(ctx, call_next):
            log.append(f"{name} in")
            try:
                return await call_next(ctx) + 1
            finally:
                log.append(f"{name} out")

        return middleware

    app = App("m", transport="memory", middleware=[layer("a"), layer("b")])

    @app.agent("n")
    async def agent(n: int):
        return n

    async with serve(app):
        assert await app.request("n", 1, timeout=5) == 3
    assert log == ["a in", "b in", "b out", "a out"]


async def test_the_lifespan_encloses_the_worker_and_its_value_is_the_state():
    log = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[Any]:
        log.append("open")
        yield {"db": "connection"}
        log.append("close")

    app = App("l", transport="memory", lifespan=lifespan)

    @app.agent("n")
    async def agent(n: int, ctx: Context):
        log.append(ctx.state["db"])

    async with serve(app):
        await app.request("n", 1, timeout=5)
    assert log == ["open", "connection", "close"]


async def test_a_stop_lets_runs_finish_and_leaves_the_rest_for_others(app):
    finished = []
    begun = anyio.Event()

    @app.agent("work")
    async def agent(content):
        begun.set()
        await anyio.sleep(20)
        finished.append(content)

    async with serve(app, grace=30) as served:
        await app.send_many([("work", n) for n in range(3)])
        await begun.wait()
        served.worker.stop()
        board = app.transport
    assert finished == [0]
    [group] = await board.groups("work")
    assert (group.lag + group.waiting, group.leased) == (2, 0)


async def test_a_run_that_outlives_the_grace_is_handed_back_uncharged(app):
    attempts = []
    begun = anyio.Event()

    @app.agent("work", retries=0)
    async def agent(content, ctx: Context):
        attempts.append(ctx.attempt)
        begun.set()
        await anyio.sleep(100 if len(attempts) == 1 else 0)
        return "second"

    place = "memory://handed-back"
    async with serve(app, url=place, grace=5) as served:
        task = await app.send("work", 1)
        await begun.wait()
        served.worker.stop()
    async with serve(app, url=place):
        assert await app.tasks.result(task.id, "work", timeout=1)
    assert attempts == [1, 1]


async def test_a_second_signal_hands_back_at_once(app):
    begun = anyio.Event()

    @app.agent("work")
    async def agent(content):
        begun.set()
        await anyio.sleep(1e6)

    async with serve(app, grace=1e5) as served:
        await app.send("work", 1)
        await begun.wait()
        began = anyio.current_time()
        served.worker.stop()
        served.worker.abort()
        board = app.transport
    assert anyio.current_time() - began < 60
    [group] = await board.groups("work")
    assert (group.waiting, group.leased) == (1, 0)


async def test_heartbeats_say_who_runs_what_and_end_with_the_worker(app):
    @app.agent("work")
    async def agent(content): ...

    async with serve(app) as served:
        roster = Roster(app.store)
        await anyio.sleep(100)
        [record] = await roster.workers()
        assert record.id == served.worker.id
        assert record.state == "running"
        assert record.agents == ["work/agent"]
        assert [a.name for a in await roster.agents()] == ["agent"]
        served.worker.stop()
    assert await Roster(app.store).workers() == []


async def test_counters_move_with_the_settlements(app):
    @app.agent("work", retries=1, backoff=Backoff(initial=0.1))
    async def agent(n: int, ctx: Context):
        if n % 3 == 0 and ctx.attempt == 1:
            raise ValueError

    async with serve(app) as served:
        await app.send_many([("work", n) for n in range(30)])
        await served.settled()
        metrics = (await Metrics(app.store).totals("work"))["work"]["agent"]
    assert (metrics.processed, metrics.failed, metrics.dead) == (30, 10, 0)
    assert metrics.average > 0


async def test_a_result_that_does_not_come_says_why(app):
    @app.agent("mine")
    async def agent(content):
        await anyio.sleep(1000)

    async with serve(app):
        with pytest.raises(ResultTimeout, match="no agent has ever listened to 'nobody'"):
            await app.request("nobody", 1, timeout=5)
        with pytest.raises(ResultTimeout, match="after 5 s"):
            await app.request("mine", 1, timeout=5)


async def test_an_unknown_task_is_said_to_be_unknown(app):
    with pytest.raises(TaskNotFound, match="no task 'nope'"):
        await app.tasks.get("nope")


async def test_an_app_without_agents_is_refused():
    with pytest.raises(ConfigurationError, match="no agents"):
        await Worker(App("empty", transport="memory")).run()


async def test_the_status_of_a_task_with_several_agents(app):
    gate = anyio.Event()

    @app.agent("two")
    async def quick(content):
        return 1

    @app.agent("two")
    async def slow(content):
        await gate.wait()
        raise Reject("no")

    async with serve(app) as served:
        task = await app.send("two", 1)
        assert await task.result(timeout=5) == 1
        assert await task.status() == "running"
        gate.set()
        await served.settled()
        assert await task.status() == "dead"
        assert await task.result(timeout=5) == 1
        with pytest.raises(TaskFailed, match="slow"):
            await task.result("slow", timeout=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay=-1"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 10 * 366 * 86_400}, "a year"),
        ({"delay": True}, "delay"),
        ({"at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001  the fault looked for
        ({"at": datetime(2099, 1, 1, tzinfo=UTC)}, "a year"),
        ({"at": 5}, "time zone"),
        ({"at": datetime.now(UTC), "delay": 1}, "one of them"),
        ({"reply_to": "a b"}, "topic name"),
        ({"reply_to": "omni.x"}, "reserved"),
        ({"tenant_id": 3}, "tenant_id"),
        ({"source": "\ud800"}, "cannot travel"),
        ({"headers": {"a": 1}}, "headers"),
        ({"id": "a/b"}, "event id"),
        ({"id": ""}, "event id"),
    ],
)
async def test_bad_values_are_refused_at_the_edge(app, options, words):
    with pytest.raises(PayloadError, match=words):
        await app.send("work", 1, **options)
    assert await app.transport.topics() == []


@pytest.mark.parametrize("topic", ["", "a b", "topic", "omni.x", "{a}", None, "x" * 201])
async def test_bad_topics_are_refused_at_the_edge(app, topic):
    with pytest.raises(PayloadError, match="topic"):
        await app.send(topic, 1)


async def test_a_message_over_the_limit_is_refused(app):
    with pytest.raises(PayloadError, match=r"1,000,\d+ bytes.*OMNIDAEMON_MAX_MESSAGE"):
        await app.send("work", "x" * 1_000_000)
    await app.send("work", "x" * 999_000)


async def test_one_bad_event_of_many_stores_none(app):
    with pytest.raises(PayloadError):
        await app.send_many([("work", 1), ("work", float("nan"))])
    assert await app.transport.topics() == []


async def test_send_many_takes_pairs_and_envelopes(app):
    tasks = await app.send_many([("a", 1), Envelope("b", 2, id="my-own")])
    assert [(task.topic, task.id) for task in tasks][1] == ("b", "my-own")
    assert len(tasks[0].id) == 36


@pytest.mark.parametrize("limit", [-1, 0, True, 1.5, 10**9])
async def test_a_limit_without_sense_is_refused(app, limit):
    with pytest.raises(ConfigurationError, match="limit="):
        await app.tasks.newest(limit=limit)


async def test_code_that_is_not_async_publishes_and_waits(app):
    @app.agent("double")
    async def double(n: int):
        return 2 * n

    def script():
        with app.blocking() as sender:
            task = sender.send("double", 4)
            assert task.result(timeout=20) == 8
            assert task.status() == "succeeded"
            many = sender.send_many([("double", n) for n in range(3)])
            assert [task.result(timeout=20) for task in many] == [0, 2, 4]
            assert sender.request("double", 5, timeout=20) == 10

    async with serve(app):
        await anyio.to_thread.run_sync(script)
