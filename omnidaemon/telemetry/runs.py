"""Spans and metrics of one agent's runs, each from its start until it is settled."""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextvars import Token
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from omnidaemon.envelope import Envelope
from omnidaemon.messages import Ack, Bury, Delivery, Release, RetryAfter, Settlement, Verdict
from omnidaemon.outcomes import Again, Dead, Outcome
from omnidaemon.telemetry.harmless import harmless, tried
from omnidaemon.telemetry.sending import about, failed
from omnidaemon.telemetry.signals import SYSTEM, Signals

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span


class _Run(Struct):
    """A run that is not settled yet.

    Attributes:
        span: Says what came of it; it is ended when that is known, at the moment the run ended.
        token: Gives back what was current before.
        started: By the performance counter.
        ended: Unix time of its end, in nanoseconds; None while it runs.
        error: The type of what it failed with.
        lost: True once its lease is known to be another worker's.
    """

    span: Span
    token: Token[Context]
    started: float
    ended: int | None = None
    error: str | None = None
    lost: bool = False


class Runs:
    """What a consumer tells of its runs.

    A span's parent is the span that sent or created the event, which it links to as well, so that
    one trace leads from the first event to the last reply. It is current while the handler runs.

    Args:
        signals: What records them.
        topic: The agent's topic.
        agent: The agent's name, which is its consumer group's.
        worker: The worker's id.
    """

    def __init__(self, signals: Signals, *, topic: str, agent: str, worker: str) -> None:
        self._signals = signals
        self._name = f"process {topic}"
        self._labels: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": agent,
        }
        self._processing = {**self._labels, "messaging.operation.name": "process"}
        self._attributes: dict[str, Any] = {
            **self._processing,
            "messaging.operation.type": "process",
            "messaging.client.id": worker,
        }
        self._open: dict[Hashable, _Run] = {}

    @harmless
    def received(self, count: int) -> None:
        """So many deliveries came."""
        self._signals.consumed.add(count, {**self._labels, "messaging.operation.name": "receive"})

    @harmless
    def start(self, delivery: Delivery, envelope: Envelope | None) -> None:
        """A run begins in the current task; None for an event that cannot be read."""
        from opentelemetry import context, propagate, trace

        attributes = {**self._attributes, "omnidaemon.attempt": delivery.attempt}
        if envelope is None:
            parent, links = context.Context(), []
        else:
            attributes |= about(envelope)
            parent = propagate.extract(envelope.headers, context.Context())
            made_in = trace.get_current_span(parent).get_span_context()
            links = [trace.Link(made_in)] if made_in.is_valid else []
        if delivery.replays:
            attributes["omnidaemon.replays"] = delivery.replays
        span = self._signals.tracer.start_span(
            self._name, parent, trace.SpanKind.CONSUMER, attributes, links
        )
        token = context.attach(trace.set_span_in_context(span, parent))
        self._open[delivery.token] = _Run(span, token, time.perf_counter())
        self._signals.in_flight.add(1, self._labels)

    @harmless
    def decided(self, delivery: Delivery, outcome: Outcome, error: BaseException | None) -> None:
        """What follows from a run that did not succeed; `error` is what it raised, if it ran."""
        from opentelemetry.trace import Status, StatusCode

        run = self._open.get(delivery.token)
        if run is None:
            return  # it could not be begun
        if isinstance(outcome, Again) and not outcome.charged:
            run.span.add_event("omnidaemon.postponed", {"omnidaemon.delay": outcome.delay})
            return
        if not isinstance(outcome, Again | Dead):
            return
        if error is not None:
            failed(run.span, error)
            run.error = type(error).__qualname__
        else:
            run.error = outcome.cause.type
            run.span.set_attribute("error.type", run.error)
            run.span.set_status(Status(StatusCode.ERROR, run.error))
        told: dict[str, Any] = {"omnidaemon.attempt": delivery.attempt, "error.type": run.error}
        if isinstance(outcome, Again):
            run.span.add_event("omnidaemon.retry", {**told, "omnidaemon.delay": outcome.delay})
        else:
            name = "omnidaemon.dead_letter" if outcome.keep else "omnidaemon.dropped"
            run.span.add_event(name, told)

    @harmless
    def ended(self, delivery: Delivery) -> None:
        """The run is over, in the task that began it; what it comes to may be settled later."""
        from opentelemetry import context

        run = self._open.get(delivery.token)
        if run is None:
            return
        context.detach(run.token)
        run.ended = time.time_ns()
        failure = {} if run.error is None else {"error.type": run.error}
        seconds = time.perf_counter() - run.started
        self._signals.process.record(seconds, {**self._processing, **failure})
        self._signals.in_flight.add(-1, self._labels)

    @harmless
    def lease_lost(self, delivery: Delivery) -> None:
        """Another worker has it; from any thread, also while it runs."""
        run = self._open.get(delivery.token)
        if run is not None and not run.lost:
            run.lost = True
            self._lose(run)

    def _lose(self, run: _Run) -> None:
        from opentelemetry.trace import Status, StatusCode

        run.span.add_event("omnidaemon.lease_lost")
        run.span.set_attribute("error.type", "LeaseLost")
        run.span.set_status(Status(StatusCode.ERROR, "LeaseLost"))
        self._signals.lease_losses.add(1, self._labels)

    @harmless
    def settled(self, settlement: Settlement, verdict: Verdict) -> None:
        """It is known what became of the run."""
        run = self._open.pop(settlement.delivery.token, None)
        if run is None:
            return  # handed back before it ran
        match settlement.action:
            case Release():
                run.span.add_event("omnidaemon.released")
            case _ if verdict == "lost":
                if not run.lost:
                    self._lose(run)
            case RetryAfter(charged=True):
                self._signals.retries.add(1, {**self._labels, "error.type": run.error})
            case Bury():
                self._signals.dead_letters.add(1, {**self._labels, "error.type": run.error})
            case Ack() if run.error is not None:  # given up, and dropped as configured
                self._signals.dead_letters.add(1, {**self._labels, "error.type": run.error})
            case _:
                pass
        if verdict != "lost":  # repeated: it was applied, and only the answer was lost
            for message in settlement.publish:
                self._signals.sent.add(
                    1,
                    {
                        "messaging.system": SYSTEM,
                        "messaging.operation.name": "send",
                        "messaging.destination.name": message.topic,
                    },
                )
        run.span.end(run.ended)

    @harmless
    def settling(self, seconds: float, error: str | None) -> None:
        """A batch of settlements took so long."""
        failure = {} if error is None else {"error.type": error}
        self._signals.operation.record(
            seconds,
            {
                **self._labels,
                "messaging.operation.name": "settle",
                "messaging.operation.type": "settle",
                **failure,
            },
        )

    @harmless
    def close(self) -> None:
        """Nothing more is settled: what is left goes to another worker when its lease ends."""
        for run in self._open.values():
            run.span.add_event("omnidaemon.unsettled")
            tried(None, run.span.end, run.ended)
        self._open.clear()
