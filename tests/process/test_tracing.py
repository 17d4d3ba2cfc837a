"""One trace through several processes: what two workers and a sender export is one story."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider

from omnidaemon import App
from omnidaemon.telemetry.signals import collected_by
from tests.receiver import Receiver, Reply
from tests.started import SECONDS, freeze

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals"),
]


SHOP = """
import os
from pathlib import Path

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from omnidaemon import App, Backoff, Context, Reject, webhooks
from omnidaemon.outcomes import RetryPolicy

webhooks.SCHEDULE = RetryPolicy(backoff=Backoff(0.2, 1.0, 0.2))
spans = open(f"{os.environ['ROLE']}.spans", "w", encoding="utf-8")
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\\n")
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
app = App("shop")

if os.environ["ROLE"] == "first":

    @app.agent("orders", name="charge", backoff=Backoff(initial=0))
    async def charge(order: dict, ctx: Context):
        if ctx.attempt == 1:
            raise ValueError("the bank is away")
        await ctx.send("reports")
        return {"charged": order["total"]}

else:

    @app.agent("receipts", name="mail")
    async def mail(receipt: dict):
        return "mailed"

    @app.agent("receipts", name="audit")
    def audit(receipt: dict):
        raise Reject("this looks odd")

@app.agent("reports", name="report", lease=1)
async def report(content):
    Path(f"reporting-{os.getpid()}").touch()
    while not Path("go").exists():
        await anyio.sleep(0.01)
"""


def until(what: str, found: Any) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what} not within {SECONDS} s"
        threading.Event().wait(0.02)
    return result


def exported(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in folder.glob("*.spans") for line in file.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_two_workers_and_a_sender_tell_one_trace(tmp_path: Path, start: Any) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    (tmp_path / ".omnidaemon_data").mkdir()
    app = App("sender", transport=f"sqlite:{tmp_path}/.omnidaemon_data/omnidaemon.db")
    answers = iter([Reply(503), Reply()])
    provider = TracerProvider(shutdown_on_exit=False)

    def reporting() -> list[int]:
        return [int(path.name.partition("-")[2]) for path in tmp_path.glob("reporting-*")]

    def told(event: str) -> list[dict[str, Any]]:
        spans = exported(tmp_path)
        return [span for span in spans if event in [one["name"] for one in span["events"]]]

    async def order(url: str) -> int:
        with (
            collected_by(tracer_provider=provider),
            provider.get_tracer("shop").start_as_current_span("checkout") as span,
        ):
            async with app:
                await app.send("orders", {"total": 5}, reply_to="receipts", webhook=url)
            return span.get_span_context().trace_id

    with Receiver(lambda _: next(answers)) as receiver:
        workers = [
            start("worker", "shop:app", ROLE=role, OMNIDAEMON_WEBHOOK_ALLOW="127.0.0.1")
            for role in ("first", "second")
        ]
        for worker in workers:
            worker.line("is ready")
        trace_id = anyio.run(order, receiver.url)
        [frozen] = until("no report", reporting)
        freeze(frozen, tmp_path)
        try:
            until("nobody took over", lambda: len(reporting()) == 2)
        finally:
            os.kill(frozen, signal.SIGCONT)
        (tmp_path / "go").touch()
        until("no word of the loss", lambda: told("omnidaemon.lease_lost"))
        until(
            "no second post",
            lambda: len([s for s in exported(tmp_path) if s["name"] == "POST"]) == 2,
        )
        until("no dead letter", lambda: told("omnidaemon.dead_letter"))
        for worker in workers:
            worker.send(signal.SIGTERM)
            assert worker.ended() == 0
    spans = exported(tmp_path)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id:032x}"}
    by_id = {span["context"]["span_id"]: span for span in spans}

    def path(span: dict[str, Any]) -> list[str]:
        above = by_id.get(span["parent_id"])
        return [*(path(above) if above else []), span["name"]]

    paths = sorted(" / ".join(path(span)) for span in spans)
    charged = "process orders"
    assert paths == sorted(
        [
            charged,  # which fails, and is run again
            charged,
            f"{charged} / send reports",
            f"{charged} / send reports / process reports",
            f"{charged} / send reports / process reports",
            f"{charged} / create receipts",
            f"{charged} / create receipts / process receipts",
            f"{charged} / create receipts / process receipts",
            f"{charged} / create omni.webhooks",
            f"{charged} / create omni.webhooks / process omni.webhooks",
            f"{charged} / create omni.webhooks / process omni.webhooks",
            f"{charged} / create omni.webhooks / process omni.webhooks / POST",
            f"{charged} / create omni.webhooks / process omni.webhooks / POST",
        ]
    )
    [dead] = told("omnidaemon.dead_letter")
    assert dead["attributes"]["messaging.consumer.group.name"] == "audit"
    [lost] = told("omnidaemon.lease_lost")
    assert lost["attributes"]["messaging.client.id"].split("-")[-2] == str(frozen)
    assert sorted(span["name"] for span in told("omnidaemon.retry")) == [
        "process omni.webhooks",
        charged,
    ]
    [sent, _] = [request.headers["traceparent"] for request in receiver.requests]
    assert sent.split("-")[1] == f"{trace_id:032x}"
