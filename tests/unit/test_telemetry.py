"""Spans and metrics through the real SDK, on the memory transport: what a collector would get."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager

import anyio
import opentelemetry.semconv._incubating.attributes.messaging_attributes as messaging
import opentelemetry.semconv._incubating.metrics.messaging_metrics as messaging_metrics
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import (
    error_attributes,
    exception_attributes,
    http_attributes,
    server_attributes,
)
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import MockClock

from omnidaemon import App, Backoff, Context, Envelope, PayloadError, Reject, Retry
from omnidaemon.drivers.memory_subscription import MemorySubscription
from omnidaemon.errors import ConnectionLost
from omnidaemon.messages import Message, Release, Settlement
from omnidaemon.posting import Answer, Post
from omnidaemon.telemetry import harmless
from omnidaemon.telemetry.signals import SCHEMA_URL, active, collected_by
from omnidaemon.testing import VirtualClockLoop, serve
from omnidaemon.worker.worker import Worker

pytestmark = pytest.mark.anyio

NO_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"loop_factory": VirtualClockLoop}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    name, options = request.param
    return name, options or {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def app():
    return App("test", transport="memory")


class Collected:
    """What the SDK exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def points(self, metric: str) -> list:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]

    def sums(self, metric: str, *labels: str) -> dict:
        """The metric's values (of a histogram, how many), by these of its attributes."""
        found: dict = {}
        for point in self.points(metric):
            key = tuple(point.attributes.get(label) for label in labels)
            value = point.count if hasattr(point, "count") else point.value
            found[key] = found.get(key, 0) + value
        return found


@pytest.fixture
def seen() -> Iterator[Collected]:
    collected = Collected()
    with collected_by(
        tracer_provider=collected.tracer_provider, meter_provider=collected.meter_provider
    ):
        yield collected
    collected.tracer_provider.shutdown()
    collected.meter_provider.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def trace_of(span: ReadableSpan) -> int:
    return span.get_span_context().trace_id


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


# Sending and running


async def test_a_run_continues_the_trace_of_its_sending(app, seen):
    headers = {}

    @app.agent("orders", name="charge")
    async def charge(content, ctx: Context):
        headers.update(ctx.headers)

    async with serve(app) as served:
        task = await app.send("orders", {"id": 1}, correlation_id="c-1", headers={"x": "y"})
        await served.settled()
    send, process = seen.spans
    assert (send.name, send.kind) == ("send orders", SpanKind.PRODUCER)
    assert dict(send.attributes) == {
        messaging.MESSAGING_SYSTEM: "omnidaemon",
        messaging.MESSAGING_OPERATION_NAME: "send",
        messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.SEND.value,
        messaging.MESSAGING_DESTINATION_NAME: "orders",
        messaging.MESSAGING_MESSAGE_ID: task.id,
        messaging.MESSAGING_MESSAGE_CONVERSATION_ID: "c-1",
    }
    assert (process.name, process.kind) == ("process orders", SpanKind.CONSUMER)
    assert dict(process.attributes) == {
        messaging.MESSAGING_SYSTEM: "omnidaemon",
        messaging.MESSAGING_OPERATION_NAME: "process",
        messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.PROCESS.value,
        messaging.MESSAGING_DESTINATION_NAME: "orders",
        messaging.MESSAGING_CONSUMER_GROUP_NAME: "charge",
        messaging.MESSAGING_CLIENT_ID: served.worker.id,
        messaging.MESSAGING_MESSAGE_ID: task.id,
        messaging.MESSAGING_MESSAGE_CONVERSATION_ID: "c-1",
        "omnidaemon.attempt": 1,
    }
    assert (trace_of(process), parent_of(process)) == (trace_of(send), id_of(send))
    assert [link.context.span_id for link in process.links] == [id_of(send)]
    assert headers["x"] == "y"
    assert headers["traceparent"].startswith(f"00-{trace_of(send):032x}-{id_of(send):016x}-")
    assert process.status.status_code is StatusCode.UNSET
    assert send.instrumentation_scope.schema_url == SCHEMA_URL


def test_the_names_are_those_of_a_published_version_of_the_conventions():
    assert SCHEMA_URL in {schema.value for schema in Schemas}


async def test_an_event_for_two_agents_is_run_in_two_spans_of_one_trace(app, seen):
    for name in ("a", "b"):
        app.agent("orders", name=name)(lambda content: None)
    async with serve(app) as served:
        await app.send("orders")
        await served.settled()
    send, *runs = seen.spans
    groups = {run.attributes[messaging.MESSAGING_CONSUMER_GROUP_NAME] for run in runs}
    assert groups == {"a", "b"}
    assert {parent_of(run) for run in runs} == {id_of(send)}


async def test_what_a_handler_sends_and_replies_is_a_child_of_its_run(app, seen):
    @app.agent("first")
    async def first(content, ctx: Context):
        await ctx.send("second")
        return "answer"

    @app.agent("second")
    async def second(content): ...

    @app.agent("answers")
    async def answers(content): ...

    async with serve(app) as served:
        await app.send("first", reply_to="answers")
        await served.settled()
    assert {trace_of(span) for span in seen.spans} == {trace_of(seen.spans[0])}
    run = seen.one("process first")
    assert parent_of(run) == id_of(seen.one("send first"))
    sent, created = seen.one("send second"), seen.one("create answers")
    assert [parent_of(sent), parent_of(created)] == [id_of(run)] * 2
    assert (created.kind, created.attributes[messaging.MESSAGING_OPERATION_TYPE]) == (
        SpanKind.PRODUCER,
        messaging.MessagingOperationTypeValues.CREATE.value,
    )
    assert not sent.links
    assert parent_of(seen.one("process second")) == id_of(sent)
    assert parent_of(seen.one("process answers")) == id_of(created)


async def test_a_handler_in_a_thread_and_what_it_sends_are_in_the_span(app, seen):
    tracer = seen.tracer_provider.get_tracer("shop")

    @app.agent("first")
    def first(content, ctx: Context):
        with tracer.start_as_current_span("charging"):
            ctx.send_blocking("second")

    async with serve(app):
        await (await app.send("first")).result()
    assert parent_of(seen.one("charging")) == id_of(seen.one("process first"))
    assert parent_of(seen.one("send second")) == id_of(seen.one("charging"))


async def test_two_runs_at_a_time_have_each_their_own_span_current(app, seen):
    inside: dict[str, int] = {}
    both = anyio.Event()

    @app.agent("work", consumers=2)
    async def work(content, ctx: Context):
        inside[ctx.id] = trace.get_current_span().get_span_context().span_id
        if len(inside) == 2:
            both.set()
        await both.wait()
        assert inside[ctx.id] == trace.get_current_span().get_span_context().span_id

    async with serve(app) as served:
        for name in ("one", "two"):
            await app.send("work", id=name)
        await served.settled()
    runs = seen.named("process work")
    assert {run.attributes[messaging.MESSAGING_MESSAGE_ID]: id_of(run) for run in runs} == inside
    assert [run.status.status_code for run in runs] == [StatusCode.UNSET] * 2


async def test_sending_in_a_span_is_its_child_and_so_from_the_blocking_face(app, seen):
    tracer = seen.tracer_provider.get_tracer("shop")
    with tracer.start_as_current_span("checkout"):
        await app.send("orders")

    def blocking():
        with tracer.start_as_current_span("nightly"), app.blocking() as sender:
            sender.send("reports")

    await anyio.to_thread.run_sync(blocking)
    assert parent_of(seen.one("send orders")) == id_of(seen.one("checkout"))
    assert parent_of(seen.one("send reports")) == id_of(seen.one("nightly"))


# Batches, and events that bring a context


async def test_a_batch_is_one_span_whose_context_its_events_carry(app, seen):
    @app.agent("orders", consumers=3)
    async def charge(content): ...

    async with serve(app) as served:
        await app.send_many([("orders", n) for n in range(3)])
        await served.settled()
    send = seen.one("send orders")
    assert send.attributes[messaging.MESSAGING_BATCH_MESSAGE_COUNT] == 3
    assert messaging.MESSAGING_MESSAGE_ID not in send.attributes
    assert [parent_of(run) for run in seen.named("process orders")] == [id_of(send)] * 3


async def test_an_event_of_a_batch_that_brings_a_context_keeps_it_and_is_linked(app, seen):
    own = Envelope("orders", headers={"traceparent": NO_PARENT})
    async with app:
        await app.send_many([own, ("mails", 1)])
        [kept] = await app.transport.browse("orders")
    send = seen.one("send")
    assert send.kind is SpanKind.PRODUCER
    assert messaging.MESSAGING_DESTINATION_NAME not in send.attributes
    assert [f"{link.context.span_id:016x}" for link in send.links] == [NO_PARENT.split("-")[2]]
    assert NO_PARENT.encode() in kept.body


async def test_an_event_that_brings_its_context_continues_that_trace_without_a_gap(app, seen):
    @app.agent("orders")
    async def charge(content): ...

    async with serve(app) as served:
        await app.send("orders", headers={"traceparent": NO_PARENT})
        await served.settled()
    send, run = seen.spans
    assert send.kind is SpanKind.CLIENT
    assert {f"{trace_of(span):032x}" for span in (send, run)} == {NO_PARENT.split("-")[1]}
    assert {f"{parent_of(span):016x}" for span in (send, run)} == {NO_PARENT.split("-")[2]}


async def test_a_batch_of_nothing_is_no_span(app, seen):
    async with app:
        assert await app.send_many([]) == []
    assert seen.spans == []


async def test_an_event_that_cannot_travel_is_an_error_and_no_message_sent(app, seen):
    async with app:
        with pytest.raises(PayloadError):
            await app.send("orders", object())
    send = seen.one("send orders")
    assert send.status.status_code is StatusCode.ERROR
    assert send.attributes[error_attributes.ERROR_TYPE] == "PayloadError"
    assert seen.points(messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES) == []


# What goes wrong


async def test_retries_and_the_dead_letter_are_told_by_spans_of_one_trace(app, seen):
    @app.agent("orders", retries=1, backoff=Backoff(10, jitter=0))
    async def charge(content):
        raise ValueError("no such card")

    async with serve(app) as served:
        await app.send("orders")
        await served.settled(timeout=60)
    send, first, last = seen.spans
    assert {trace_of(span) for span in (first, last)} == {trace_of(send)}
    for run, attempt, name in ((first, 1, "omnidaemon.retry"), (last, 2, "omnidaemon.dead_letter")):
        assert run.status.status_code is StatusCode.ERROR
        assert run.attributes["omnidaemon.attempt"] == attempt
        assert run.attributes[error_attributes.ERROR_TYPE] == "ValueError"
        exception, told = run.events
        assert exception.attributes[exception_attributes.EXCEPTION_TYPE] == "ValueError"
        assert exception.attributes[exception_attributes.EXCEPTION_MESSAGE] == "no such card"
        assert "charge" in exception.attributes[exception_attributes.EXCEPTION_STACKTRACE]
        assert told.name == name
    assert first.events[1].attributes["omnidaemon.delay"] == 10.0
    assert last.start_time - first.end_time < 10e9  # a span says when, and the clock has jumped
    by_error = (messaging.MESSAGING_DESTINATION_NAME, error_attributes.ERROR_TYPE)
    assert seen.sums("omnidaemon.process.retries", *by_error) == {("orders", "ValueError"): 1}
    assert seen.sums("omnidaemon.process.dead_letters", *by_error) == {("orders", "ValueError"): 1}


async def test_what_is_dropped_as_configured_says_so(app, seen):
    @app.agent("orders", dead_letter=False)
    async def charge(content):
        raise Reject("never")

    async with serve(app) as served:
        await app.send("orders")
        await served.settled()
    assert events(seen.one("process orders")) == ["exception", "omnidaemon.dropped"]
    assert seen.sums("omnidaemon.process.dead_letters", error_attributes.ERROR_TYPE) == {
        ("Reject",): 1
    }


async def test_a_run_put_off_without_charge_is_no_error(app, seen):
    puts_off = iter([True, False])

    @app.agent("orders")
    async def charge(content):
        if next(puts_off):
            raise Retry(delay=5, charged=False)

    async with serve(app) as served:
        await app.send("orders")
        await served.settled()
    first, second = seen.named("process orders")
    assert (events(first), events(second)) == (["omnidaemon.postponed"], [])
    assert first.status.status_code is StatusCode.UNSET
    assert seen.points("omnidaemon.process.retries") == []


async def test_what_is_no_envelope_has_a_span_too(app, seen):
    @app.agent("orders")
    async def charge(content): ...

    async with serve(app) as served:
        await app.transport.publish(Message("orders", "odd", b"no envelope"))
        await served.settled()
    run = seen.one("process orders")
    assert events(run) == ["omnidaemon.dead_letter"]
    assert run.attributes[error_attributes.ERROR_TYPE] == "DecodeError"
    assert "no envelope" not in run.to_json()  # which is what somebody sent


async def test_an_endless_exchange_of_replies_ends_with_an_error(app, seen):
    @app.agent("orders")
    async def charge(content): ...

    async with serve(app) as served:
        await app.publish(Envelope("orders", hops=101))
        await served.settled()
    run = seen.one("process orders")
    assert events(run) == ["omnidaemon.dead_letter"]
    assert run.status.description == "TooManyHops"


@asynccontextmanager
async def taken_over(app, served):
    """Another consumer holds what the worker runs, as when the worker's process stood still."""
    renew = app.transport.renew

    async def away(consumer, deliveries):
        raise ConnectionLost("away")

    app.transport.renew = away
    async with app.transport.subscribe("work", "work", lease=10) as other:
        [taken] = await other.receive(1, 60)
        app.transport.renew = renew
        yield
        await other.settle([Settlement(taken, Release())])
    await served.settled()


async def test_a_lost_lease_is_told_in_the_span_of_the_run_that_lost_it(app, seen):
    begun, go = anyio.Event(), anyio.Event()

    @app.agent("work", name="work", lease=10)
    async def work(content):
        begun.set()
        await go.wait()

    async with serve(app) as served:
        await app.send("work")
        await begun.wait()
        async with taken_over(app, served):
            go.set()
            while not seen.named("process work"):
                await anyio.sleep(0.001)
    first, second = seen.named("process work")
    assert (events(first), events(second)) == (["omnidaemon.lease_lost"], [])
    assert first.status.description == first.attributes[error_attributes.ERROR_TYPE] == "LeaseLost"
    assert seen.sums("omnidaemon.process.lease_losses") == {(): 1}


async def test_a_loss_found_while_it_runs_is_told_once(app, seen):
    begun, go = anyio.Event(), anyio.Event()

    @app.agent("work", name="work", lease=10)
    async def work(content):
        begun.set()
        await go.wait()

    async with serve(app) as served:
        await app.send("work")
        await begun.wait()
        async with taken_over(app, served):
            while not seen.points("omnidaemon.process.lease_losses"):
                await anyio.sleep(0.1)  # two renewals find it gone
            go.set()
            while not seen.named("process work"):
                await anyio.sleep(0.001)
    assert events(seen.named("process work")[0]) == ["omnidaemon.lease_lost"]
    assert seen.sums("omnidaemon.process.lease_losses") == {(): 1}


async def test_a_run_handed_back_at_the_end_says_so_and_stays_no_error(app, seen):
    begun = anyio.Event()

    @app.agent("work")
    async def work(content):
        begun.set()
        await anyio.sleep_forever()

    async with serve(app):
        await app.send("work")
        await begun.wait()
    run = seen.one("process work")
    assert events(run) == ["omnidaemon.released"]
    assert run.status.status_code is StatusCode.UNSET
    assert seen.sums("omnidaemon.process.in_flight") == {(): 0}


async def test_a_run_that_could_not_be_settled_has_ended_in_its_span(app, seen, monkeypatch):
    settling = anyio.Event()

    async def away(self, settlements):
        settling.set()
        raise ConnectionLost("away")

    @app.agent("work")
    async def work(content):
        pass

    monkeypatch.setattr(MemorySubscription, "settle", away)
    async with app, anyio.create_task_group() as group:
        group.start_soon(Worker(app).run)
        await app.send("work")
        await settling.wait()
        group.cancel_scope.cancel()  # from outside, as a server does that has workers within
    assert events(seen.one("process work")) == ["omnidaemon.unsettled"]


# Collectors that fail


class Failing(SpanProcessor):
    """Raises where spans of one name begin, or end."""

    def __init__(self, name: str, at: str) -> None:
        self._name, self._at = name, at

    def on_start(self, span, parent_context=None):
        self._fail(span, "start")

    def on_end(self, span):
        self._fail(span, "end")

    def _fail(self, span, at):
        if span.name.startswith(self._name) and at == self._at:
            raise RuntimeError("out of order, and quotes s3cret")


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("name", ["send", "process", "create", "POST"])
async def test_a_processor_that_raises_loses_no_message_and_fails_none(
    app, seen, caplog, monkeypatch, name, at
):
    monkeypatch.setattr(harmless, "_told", set())
    seen.tracer_provider.add_span_processor(Failing(name, at))
    ran, posts = [], []

    async def post(sent: Post) -> Answer:
        posts.append(sent)
        return Answer(200)

    @app.agent("orders")
    async def charge(content):
        ran.append(content)
        return content

    @app.agent("answers")
    async def answer(content):
        ran.append(content)

    async with serve(app, post=post) as served:
        for _ in range(2):
            await app.send(
                "orders", "one", reply_to="answers", webhook="https://receiver.example/x"
            )
        await app.send_many([("orders", "many")])
        await served.settled()
    assert sorted(ran) == ["many", "one", "one", "one", "one"]
    assert len(posts) == 2
    told = [record.getMessage() for record in caplog.records if "incomplete" in record.getMessage()]
    assert len(told) == 1
    assert "RuntimeError" in told[0]
    assert "s3cret" not in caplog.text


class Unspeakable(Exception):
    """Raises when it is to be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_an_error_that_cannot_be_shown_is_a_failed_run_like_any(app, seen):
    @app.agent("work", retries=0)
    async def work(content):
        raise Unspeakable

    async with serve(app) as served:
        task = await app.send("work")
        await served.settled()
        [letter] = await app.transport.dead_letters("work")
    assert letter.id == task.id
    run = seen.one("process work")
    assert run.attributes[error_attributes.ERROR_TYPE] == "Unspeakable"
    assert run.status.status_code is StatusCode.ERROR


# Webhooks


async def test_a_webhook_is_handed_over_delivered_and_posted_in_the_same_trace(app, seen):
    @app.agent("orders")
    async def charge(content):
        return 1

    answers = iter([503, 200])
    posts = []

    async def post(attempt: Post) -> Answer:
        posts.append(attempt)
        return Answer(next(answers))

    async with serve(app, post=post) as served:
        await app.send("orders", webhook="https://hooks.example:8443/done?token=s3cret")
        await served.settled()
    assert {trace_of(span) for span in seen.spans} == {trace_of(seen.spans[0])}
    created = seen.one("create omni.webhooks")
    assert parent_of(created) == id_of(seen.one("process orders"))
    failed, delivered = seen.named("process omni.webhooks")
    assert {parent_of(run) for run in (failed, delivered)} == {id_of(created)}
    assert events(failed) == ["exception", "omnidaemon.retry"]
    refused, taken = seen.named("POST")
    assert [parent_of(refused), parent_of(taken)] == [id_of(failed), id_of(delivered)]
    assert dict(refused.attributes) == {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        server_attributes.SERVER_ADDRESS: "hooks.example",
        server_attributes.SERVER_PORT: 8443,
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 503,
        error_attributes.ERROR_TYPE: "503",
    }
    assert taken.status.status_code is StatusCode.UNSET
    told = posts[1].headers["traceparent"]
    assert told.startswith(f"00-{trace_of(taken):032x}-{id_of(taken):016x}-")
    assert not any("s3cret" in span.to_json() for span in seen.spans)


# Metrics


async def test_metrics_have_the_names_and_labels_of_the_conventions(app, seen):
    @app.agent("orders", retries=0)
    async def charge(content, ctx: Context):
        if content == "bad":
            raise ValueError
        await ctx.send("mails")

    async with serve(app) as served:
        await app.send("orders", "good")
        await app.send_many([("orders", "good"), ("orders", "bad")])
        await served.settled()
    where, failure = messaging.MESSAGING_DESTINATION_NAME, error_attributes.ERROR_TYPE
    group = messaging.MESSAGING_CONSUMER_GROUP_NAME
    operation = messaging.MESSAGING_OPERATION_NAME
    sent = seen.sums(messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES, where, operation)
    assert sent == {("orders", "send"): 3, ("mails", "send"): 2}
    consumed = seen.sums(messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES, where, group)
    assert consumed == {("orders", charge.__qualname__.split(".")[-1]): 3}
    processed = seen.sums(messaging_metrics.MESSAGING_PROCESS_DURATION, where, failure)
    assert processed == {("orders", None): 2, ("orders", "ValueError"): 1}
    operations = seen.sums(messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION, operation)
    assert operations[("send",)] == 4
    assert operations[("settle",)] >= 1
    assert seen.sums("omnidaemon.process.in_flight") == {(): 0}


# Nobody collects


def test_without_a_provider_nothing_is_collected():
    assert active() is None


async def test_without_a_provider_a_context_travels_untouched(app):
    headers = {}

    @app.agent("first", reply_to="second")
    async def first(content, ctx: Context):
        await ctx.send("second")
        return 1

    @app.agent("second")
    async def second(content, ctx: Context):
        headers[ctx.id] = ctx.headers["traceparent"]

    async with serve(app) as served:
        await app.send("first", headers={"traceparent": NO_PARENT})
        await served.settled()
    assert list(headers.values()) == [NO_PARENT] * 2


FRESH = """
import sys
from omnidaemon import App
from omnidaemon.telemetry.signals import active
App("test")
assert active() is None
assert not any(name.startswith("opentelemetry") for name in sys.modules), "imported unasked"
from opentelemetry import metrics, trace
assert active() is None, "the API alone collects nothing"
from opentelemetry.sdk.metrics import MeterProvider
metrics.set_meter_provider(MeterProvider())
first = active()
assert first is active() is not None
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
second = active()
assert second is active() is not first
"""


def test_a_provider_counts_from_when_it_is_set_and_nothing_is_imported_before():
    subprocess.run([sys.executable, "-c", FRESH], check=True, timeout=30)


UNSEEN = """
import asyncio, sys
import opentelemetry.metrics, opentelemetry.trace  # as other libraries bring them, with no SDK
from omnidaemon import App
from omnidaemon.testing import serve

app = App("test", transport="memory")
calls = []

@app.agent("orders", consumers=10, reply_to="receipts")
async def charge(order):
    return order

@app.agent("receipts")
async def note(receipt):
    pass

def count(frame, event, argument):
    place = frame.f_code.co_filename.replace("\\\\", "/")
    if event == "call" and ("/omnidaemon/telemetry/" in place or "/opentelemetry/" in place):
        calls.append(frame.f_code.co_name)

async def main():
    async with serve(app) as served:
        await app.send_many([("orders", n) for n in range(500)])
        sys.setprofile(count)
        await served.settled()
        sys.setprofile(None)

asyncio.run(main())
print(len(calls))
"""


def test_where_nobody_collects_no_run_calls_anything_of_telemetry():
    # So what it costs a drain is to look at a None here and there.
    ended = subprocess.run(
        [sys.executable, "-c", UNSEEN], check=True, capture_output=True, text=True, timeout=60
    )
    assert int(ended.stdout) == 0
