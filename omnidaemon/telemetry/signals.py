"""Whether anybody collects this process's telemetry, and what then makes spans and metrics.

The API of OpenTelemetry is imported only if somebody else has: who sets a provider of the SDK has
imported it. So a process without telemetry pays for one look into a dictionary.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, TracerProvider

SCHEMA_URL = "https://opentelemetry.io/schemas/1.30.0"
"""The oldest version of the semantic conventions that has all the names used here."""
SYSTEM = "omnidaemon"

# Runs take milliseconds or hours, and the SDK's own boundaries end at ten seconds.
SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0),
)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_API = "opentelemetry"
_TRACE, _METRICS = f"{_API}.trace", f"{_API}.metrics._internal"
_UNKNOWN = object()
_given: Signals | None = None
_found: Signals | None = None
_kept: tuple[object, object] = (_UNKNOWN, _UNKNOWN)


class Signals:
    """The tracer and the instruments of one pair of providers.

    Attributes:
        tracer: Makes the spans.
        sent: Messages that were handed to a transport.
        consumed: Messages that a worker received.
        operation: Seconds of sending and of settling.
        process: Seconds of runs.
        retries: Runs that failed and are repeated.
        dead_letters: Events that were given up, kept or dropped.
        lease_losses: Runs whose lease went to another worker.
        in_flight: Runs in progress.
    """

    def __init__(self, tracer_provider: TracerProvider, meter_provider: MeterProvider) -> None:
        self.providers = tracer_provider, meter_provider
        self.tracer = tracer_provider.get_tracer(SYSTEM, schema_url=SCHEMA_URL)
        meter = meter_provider.get_meter(SYSTEM, schema_url=SCHEMA_URL)
        self.sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        self.operation = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.process = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.retries = meter.create_counter(
            "omnidaemon.process.retries", "{run}", "Runs that failed and are repeated."
        )
        self.dead_letters = meter.create_counter(
            "omnidaemon.process.dead_letters", "{message}", "Events that an agent gave up."
        )
        self.lease_losses = meter.create_counter(
            "omnidaemon.process.lease_losses",
            "{run}",
            "Runs whose lease went to another worker, so that nothing of them is kept.",
        )
        self.in_flight = meter.create_up_down_counter(
            "omnidaemon.process.in_flight", "{run}", "Runs in progress."
        )


def active() -> Signals | None:
    """What records telemetry; None while no provider of an SDK is set, nor one by `collected_by`.

    Cheap enough to be asked for every event that is sent. To ask the API would cost as much as to
    encode the event, so that is done only when the variables in which it keeps its providers have
    changed, or cannot be found.
    """
    global _found, _kept
    if _given is not None:
        return _given
    trace, metrics = sys.modules.get(_TRACE), sys.modules.get(_METRICS)
    if trace is None and metrics is None:
        return None
    tracer = getattr(trace, "_TRACER_PROVIDER", _UNKNOWN)
    meter = getattr(metrics, "_METER_PROVIDER", _UNKNOWN)
    if tracer is _kept[0] and meter is _kept[1] and _UNKNOWN not in (tracer, meter):
        return _found
    _found, _kept = _signals(), (tracer, meter)
    return _found


def _signals() -> Signals | None:
    """What the API's providers lead to; the same as before if they are the same."""
    trace, metrics = (sys.modules.get(f"{_API}.{part}") for part in ("trace", "metrics"))
    tracer_provider = _provider(trace, "get_tracer_provider")
    meter_provider = _provider(metrics, "get_meter_provider")
    if tracer_provider is None and meter_provider is None:
        return None
    providers = _whole(tracer_provider, meter_provider)
    found = _found
    return found if found is not None and found.providers == providers else Signals(*providers)


def _provider(module: Any, getter: str) -> Any:
    """The provider that is set; None for the API's own, which collect nothing."""
    get = getattr(module, getter, None)  # a module that is being imported has none yet
    found = None if get is None else get()
    return (
        None if type(found).__module__.startswith((f"{_API}.trace", f"{_API}.metrics")) else found
    )


def _whole(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> tuple[TracerProvider, MeterProvider]:
    """Both; in the place of one that is not set, the API's, which collects nothing."""
    from opentelemetry.metrics import get_meter_provider
    from opentelemetry.trace import get_tracer_provider

    return tracer_provider or get_tracer_provider(), meter_provider or get_meter_provider()


@contextmanager
def collected_by(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Iterator[None]:
    """Uses these providers for a while instead of those set for the whole process, as tests do.

    Args:
        tracer_provider: Collects spans; none by default.
        meter_provider: Collects metrics; none by default.
    """
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.trace import NoOpTracerProvider

    global _given
    before = _given
    _given = Signals(tracer_provider or NoOpTracerProvider(), meter_provider or NoOpMeterProvider())
    try:
        yield
    finally:
        _given = before


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """An event's headers for one that it causes: without its trace context if a span is current.

    The trace then goes on from that span; else, and where nobody collects, from the event itself.
    """
    if active() is None:
        return dict(headers)
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return dict(headers)
    fields = propagate.get_global_textmap().fields
    return {name: text for name, text in headers.items() if name not in fields}


def trace_ids(headers: Mapping[str, str]) -> tuple[str, str]:
    """The ids of the current trace and span, in hex; "" for what there is not.

    Where no span is current it is the trace that the headers of an event tell of.
    """
    trace: Any = sys.modules.get(f"{_API}.trace")
    current = getattr(trace, "get_current_span", None)
    if current is not None and (context := current().get_span_context()).is_valid:
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"
    # W3C Trace Context: version, trace id, the sender's span id and flags, parted by hyphens.
    found = _TRACEPARENT.match(headers.get("traceparent", ""))
    return found[1] if found else "", ""


def links_to(headers: Mapping[str, str]) -> list[Link]:
    """A link to the context in which an event was made; none if its headers tell of none."""
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context

    span = trace.get_current_span(propagate.extract(headers, Context()))
    context = span.get_span_context()
    return [trace.Link(context)] if context.is_valid else []
