"""Lines of the log: they name their task wherever they are logged from, and stay one line each."""

import json
import logging
import threading
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from opentelemetry.sdk.trace import TracerProvider

from omnidaemon import App, Backoff
from omnidaemon.logs import JsonFormatter, TaskFilter, TextFormatter, set_up
from omnidaemon.messages import Message
from omnidaemon.telemetry.signals import collected_by, trace_ids
from omnidaemon.testing import serve

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Lines(logging.Handler):
    """Keeps what a JSON log would have."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.addFilter(TaskFilter())
        self.found: list[dict] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record)))

    def of(self, logger: str) -> list[dict]:
        return [line for line in self.found if line["logger"] == logger]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    logging.getLogger().addHandler(found)
    yield found
    logging.getLogger().removeHandler(found)


@pytest.fixture
def app():
    return App("test", transport="memory")


def task_of(line: dict) -> dict:
    named = ("task_id", "topic", "agent", "attempt", "correlation_id", "trace_id", "span_id")
    return {name: line[name] for name in named if name in line}


async def test_lines_of_a_handler_name_its_task(app, lines):
    own = logging.getLogger("shop")

    def deeper():
        own.info("in a thread of its own making, through anyio")

    @app.agent("orders", name="charge")
    async def charge(content):
        own.info("charging")
        await anyio.to_thread.run_sync(deeper)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, deeper)

    @app.agent("orders", name="count")
    def count(content):
        own.info("counting, in a thread")

    async with serve(app) as served:
        await app.send(
            "orders",
            id="t-1",
            correlation_id="c-1",
            headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"},
        )
        await served.settled()
    expected = {
        "task_id": "t-1",
        "topic": "orders",
        "attempt": 1,
        "correlation_id": "c-1",
        "trace_id": TRACE,  # the sender's; with no SDK here there are no spans of ours
    }
    assert [task_of(line) for line in lines.of("shop") if line["agent"] == "charge"] == [
        {**expected, "agent": "charge"}
    ] * 3
    [counted] = [line for line in lines.of("shop") if line["agent"] == "count"]
    assert task_of(counted) == {**expected, "agent": "count"}


async def test_the_trace_and_span_of_a_line_are_those_that_are_exported(app, lines):
    @app.agent("orders")
    async def charge(content):
        logging.getLogger("shop").info("charging")

    provider = TracerProvider(shutdown_on_exit=False)
    with collected_by(tracer_provider=provider):
        async with serve(app) as served:
            with provider.get_tracer("x").start_as_current_span("root") as span:
                await app.send("orders")
                logging.getLogger("web").info("sent")
            await served.settled()
    trace_id = f"{span.get_span_context().trace_id:032x}"
    [line], [outside] = lines.of("shop"), lines.of("web")
    assert (line["trace_id"], outside["trace_id"]) == (trace_id, trace_id)
    assert outside["span_id"] == f"{span.get_span_context().span_id:016x}" != line["span_id"]
    assert "task_id" not in outside


async def test_what_the_worker_says_of_a_failed_run_names_it_and_the_next_run_its_own(app, lines):
    @app.agent("orders", name="charge", retries=1, backoff=Backoff(0))
    async def charge(content):
        raise ValueError("no such card")

    async with serve(app) as served:
        await app.send("orders", id="t-1")
        await app.send("orders", id="t-2")
        await served.settled()
    said = [line for line in lines.of("omnidaemon.worker") if "no such card" in line["message"]]
    assert sorted((line["task_id"], line["attempt"], line["level"]) for line in said) == [
        ("t-1", 1, "WARNING"),
        ("t-1", 2, "ERROR"),
        ("t-2", 1, "WARNING"),
        ("t-2", 2, "ERROR"),
    ]
    assert all(line["agent"] == "charge" for line in said)


async def test_what_is_no_envelope_is_named_and_not_quoted(app, lines):
    @app.agent("orders")
    async def charge(content): ...

    async with serve(app) as served:
        await app.send("orders", id="t-1")
        await served.settled()
        await app.transport.publish(Message("orders", "odd", b"s3cret"))
        await served.settled()
        [letter] = await app.transport.dead_letters("orders")
    [line] = [line for line in lines.found if line["level"] == "ERROR"]
    assert (line["task_id"], line["topic"], line["attempt"]) == ("odd", "orders", 1)
    assert "s3cret" not in str(lines.found)
    assert b"s3cret" in letter.reason  # where whoever looks for it finds it


async def test_a_line_of_no_task_names_none(app, lines):
    @app.agent("orders")
    async def charge(content): ...

    async with serve(app) as served:
        await app.send("orders", id="t-1")
        await served.settled()
    [ready] = [line for line in lines.found if line["message"].endswith("is ready")]
    [drained] = [line for line in lines.found if line["message"].endswith("has drained")]
    assert (task_of(ready), task_of(drained)) == ({}, {})


def made(message: str, *args, **more) -> logging.LogRecord:
    record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, message, args, None)
    vars(record).update(more)
    TaskFilter().filter(record)
    return record


@pytest.mark.parametrize(
    "record",
    [
        made("two\nlines\r\nand \u2028 odd \ud800 signs"),
        made("extras", path=object(), keys={1: 2}, deep=[{"a": b"b"}]),
        made("odd key", odd={(1, 2): "\ud800"}),
    ],
    ids=["signs", "extras", "keys"],
)
def test_a_json_line_is_one_line_and_valid_whatever_is_logged(record):
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["logger"] == "shop"


def test_a_json_line_has_its_time_its_extras_and_the_traceback():
    try:
        raise ValueError("odd")
    except ValueError as error:
        record = made("sold %d", 3, shop="north")
        record.exc_info = (ValueError, error, error.__traceback__)
    record.created = 1_700_000_000.25
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("exception").endswith("ValueError: odd")
    assert line == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "shop",
        "message": "sold 3",
        "pid": record.process,
        "shop": "north",
    }


def test_a_line_of_text_ends_with_the_task():
    record = made("sold", task_id="t-1", attempt=2)
    formatter = TextFormatter("%(message)s")
    assert formatter.format(record) == "sold [task_id=t-1 attempt=2]"
    assert formatter.format(made("idle")) == "idle"


@pytest.mark.parametrize(
    "given", ["a\n12:00 ERROR forged", "a\x1b[2J", "a b", "a] [task_id=t-2", "\ud800"], ids=ascii
)
def test_no_correlation_id_looks_like_another_line_or_field(given):
    line = TextFormatter("%(message)s").format(made("sold", task_id="t-1", correlation_id=given))
    assert line == f"sold [task_id=t-1 correlation_id={given!r}]"
    assert line.isprintable()


def test_a_correlation_id_as_long_as_an_event_is_cut_in_text():
    made_long = made("sold", task_id="t-1", correlation_id="x" * 1_000_000)
    assert len(TextFormatter("%(message)s").format(made_long)) < 300


@pytest.mark.parametrize("trace", ["\n" + TRACE[1:], TRACE.upper(), TRACE[1:], "g" * 32], ids=ascii)
def test_what_is_no_trace_is_not_logged_as_one(trace):
    assert trace_ids({"traceparent": f"00-{TRACE}-{'b' * 16}-01"}) == (TRACE, "")
    assert trace_ids({"traceparent": f"00-{trace}-{'b' * 16}-01"}) == ("", "")


def test_a_format_of_ones_own_may_name_the_fields():
    assert logging.Formatter("%(task_id)s|%(message)s").format(made("idle")) == "|idle"


def test_a_program_that_has_set_logging_up_keeps_its_way(monkeypatch):
    root = logging.Logger("root")  # noqa: LOG001  not the process's own
    own = logging.NullHandler()
    root.addHandler(own)
    ours = logging.Logger("omnidaemon")  # noqa: LOG001
    named = {None: root, "omnidaemon": ours, "watchfiles": logging.NullHandler()}
    monkeypatch.setattr(logging, "getLogger", lambda name=None: named[name])
    set_up("debug", "json")
    assert root.handlers == [own]
    assert ours.level == logging.DEBUG


def test_a_handler_that_exports_lines_does_not_take_the_place_of_ours(monkeypatch):
    root = logging.Logger("root")  # noqa: LOG001
    exports = type("LoggingHandler", (logging.NullHandler,), {"__module__": "opentelemetry.sdk"})()
    root.addHandler(exports)
    named = {None: root, "omnidaemon": root, "watchfiles": logging.NullHandler()}
    monkeypatch.setattr(logging, "getLogger", lambda name=None: named[name])
    set_up("info", "json")
    [same, ours] = root.handlers
    assert same is exports
    assert isinstance(ours.formatter, JsonFormatter)


def test_a_thread_of_nobody_names_no_task():
    """A thread that the standard library alone starts has no context: documented."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(made("x")))
    thread.start()
    thread.join()
    assert seen[0].task_id == ""
