"""Spans and metrics of sending: one span for a call, and its context in each event's headers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from omnidaemon.envelope import Envelope
from omnidaemon.errors import PayloadError
from omnidaemon.telemetry.harmless import harmless, tried
from omnidaemon.telemetry.signals import SYSTEM, Signals, carried, links_to

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_SEND = {"messaging.system": SYSTEM, "messaging.operation.name": "send"}


@contextmanager
def sending(
    signals: Signals, envelopes: Sequence[Envelope], *, batch: bool
) -> Iterator[list[Envelope]]:
    """Gives the envelopes as they are to be sent, in a span that is current meanwhile.

    As the messaging conventions have it: the span is the context in which the events are made, and
    its kind PRODUCER. An event that brings a context of its own keeps it and is linked to; if all
    do, the span is none's, and its kind CLIENT. With no span around it, a single event's own
    context is this span's parent as well, so that its trace has no gap.
    """
    topics = Counter(envelope.topic for envelope in envelopes)
    span, stamped = tried((None, [*envelopes]), _begun, signals, envelopes, topics, batch=batch)
    started = time.perf_counter()
    error: BaseException | None = None
    try:
        with _current(span):
            try:
                yield stamped
            except BaseException as raised:
                error = raised
                raise
            finally:
                if not isinstance(error, PayloadError):  # then nothing was handed to a transport
                    _count(signals, topics, time.perf_counter() - started, error)
    finally:
        _end(span, error)


def _begun(
    signals: Signals, envelopes: Sequence[Envelope], topics: Mapping[str, int], *, batch: bool
) -> tuple[Span | None, list[Envelope]]:
    """The span of sending them, and the envelopes with its context."""
    from opentelemetry import propagate, trace
    from opentelemetry.trace import SpanKind

    links = [links_to(envelope.headers) for envelope in envelopes]
    around = None
    if not batch and links[0] and not trace.get_current_span().get_span_context().is_valid:
        around = propagate.extract(envelopes[0].headers)
    span = signals.tracer.start_span(
        f"send {envelopes[0].topic}" if len(topics) == 1 else "send",
        around,
        SpanKind.CLIENT if all(links) else SpanKind.PRODUCER,
        _attributes(envelopes, batch=batch, one_topic=len(topics) == 1),
        [link for found in links for link in found],
    )
    made_here: dict[str, str] = {}
    propagate.inject(made_here, trace.set_span_in_context(span))
    return span, [
        envelope
        if linked
        else msgspec.structs.replace(envelope, headers={**envelope.headers, **made_here})
        for envelope, linked in zip(envelopes, links, strict=True)
    ]


def _current(span: Span | None) -> AbstractContextManager[object]:
    """Makes the span current, and does nothing else with it."""
    from opentelemetry import trace

    if span is None:
        return nullcontext()
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


def _end(span: Span | None, error: BaseException | None) -> None:
    if span is None:
        return
    if error is not None:
        failed(span, error)
    tried(None, span.end)


def _attributes(envelopes: Sequence[Envelope], *, batch: bool, one_topic: bool) -> dict[str, Any]:
    first = envelopes[0]
    found: dict[str, Any] = {**_SEND, "messaging.operation.type": "send"}
    if one_topic:
        found["messaging.destination.name"] = first.topic
    if batch:
        found["messaging.batch.message_count"] = len(envelopes)
    else:
        found |= about(first)
    return found


def about(envelope: Envelope) -> dict[str, str]:
    """The attributes that name one event."""
    found = {"messaging.message.id": envelope.id}
    if envelope.correlation_id is not None:
        found["messaging.message.conversation_id"] = envelope.correlation_id
    return found


@harmless
def _count(
    signals: Signals, topics: Mapping[str, int], seconds: float, error: BaseException | None
) -> None:
    failure = {} if error is None else {"error.type": type(error).__qualname__}
    for topic, count in topics.items():
        signals.sent.add(count, {**_SEND, "messaging.destination.name": topic, **failure})
    where = {"messaging.destination.name": next(iter(topics))} if len(topics) == 1 else {}
    signals.operation.record(
        seconds, {**_SEND, "messaging.operation.type": "send", **where, **failure}
    )


@harmless
def failed(span: Span, error: BaseException) -> None:
    """Says in the span what was raised, and that it is an error."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
    span.record_exception(error)  # formats it, which may fail


def created(signals: Signals, envelope: Envelope) -> Envelope:
    """The event as made in the current span: what a settlement publishes has a span of its own.

    The conventions call it a Create span: it says when and where the event came to be, and the
    settlement that sends it with many others needs to say nothing of it.
    """
    return tried(envelope, _created, signals, envelope)


def _created(signals: Signals, envelope: Envelope) -> Envelope:
    from opentelemetry import propagate, trace
    from opentelemetry.trace import SpanKind

    span = signals.tracer.start_span(
        f"create {envelope.topic}",
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": SYSTEM,
            "messaging.operation.name": "create",
            "messaging.operation.type": "create",
            "messaging.destination.name": envelope.topic,
            **about(envelope),
        },
    )
    headers = carried(envelope.headers)
    propagate.inject(headers, trace.set_span_in_context(span))
    tried(None, span.end)
    return msgspec.structs.replace(envelope, headers=headers)


@contextmanager
def posting(
    signals: Signals, host: str, port: int, headers: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], Callable[[int], None]]]:
    """The span of an HTTP request; gives its headers with the trace context, and takes the status.

    It names the host and not the URL, in which people put tokens.
    """
    span, sent = tried((None, dict(headers)), _posting, signals, host, port, headers)

    @harmless
    def answered(status: int) -> None:
        from opentelemetry.trace import Status, StatusCode

        if span is not None:
            span.set_attribute("http.response.status_code", status)
            if status >= 400:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))

    error: BaseException | None = None
    try:
        with _current(span):
            yield sent, answered
    except BaseException as raised:
        error = raised
        raise
    finally:
        _end(span, error)


def _posting(
    signals: Signals, host: str, port: int, headers: Mapping[str, str]
) -> tuple[Span | None, dict[str, str]]:
    from opentelemetry import propagate, trace
    from opentelemetry.trace import SpanKind

    span = signals.tracer.start_span(
        "POST",
        kind=SpanKind.CLIENT,
        attributes={
            "http.request.method": "POST",
            "server.address": host,
            "server.port": port,
        },
    )
    sent = dict(headers)
    propagate.inject(sent, trace.set_span_in_context(span))
    return span, sent
