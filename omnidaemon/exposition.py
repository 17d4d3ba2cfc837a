"""Numbers as Prometheus reads them: the families of a fleet and of one worker, and their text.

Labels are topics, agents and states alone, and never more than so many of them: what a series is
named by must not grow with the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct

from omnidaemon.errors import MissingExtra
from omnidaemon.messages import GroupInfo
from omnidaemon.records import AgentMetrics, WorkerRecord, WorkerState
from omnidaemon.telemetry.signals import SECONDS
from omnidaemon.webhooks import AGENT, TOPIC

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

Pair = tuple[str, str]
"""A topic and an agent."""

MOST_AGENTS = 200
"""Agents that have series of their own; those beyond, by name, share the labels OTHER."""
OTHER = "_other"
"""No topic and no agent can have this name."""

_COUNTERS: tuple[tuple[str, str, Callable[[AgentMetrics], int]], ...] = (
    ("received", "Deliveries that came to an outcome, of any kind.", lambda one: one.received),
    ("processed", "Runs that succeeded.", lambda one: one.processed),
    ("failed", "Runs that failed, each attempt.", lambda one: one.failed),
    ("retried", "Runs that failed and are repeated.", lambda one: one.retried),
    ("dead", "Deliveries that were given up.", lambda one: one.dead),
)
_GAUGES: tuple[tuple[str, str, Callable[[GroupInfo], int]], ...] = (
    ("tasks_in_flight", "Deliveries that workers hold now.", lambda one: one.leased),
    ("tasks_lag", "Events that were never handed out to the agent.", lambda one: one.lag),
    (
        "tasks_waiting",
        "Deliveries that wait for a retry or were handed back.",
        lambda one: one.waiting,
    ),
    ("dead_letters", "Dead letters that are kept.", lambda one: one.dead),
    ("agent_consumers", "Live subscriptions of the agent.", lambda one: one.consumers),
    ("agent_paused", "1 while the agent is paused.", lambda one: int(one.paused)),
)


class FleetNumbers(Struct, frozen=True):
    """What a fleet has counted, and how it stands.

    Attributes:
        totals: By topic and agent.
        groups: How far each is; None where the question is about one tenant.
        workers: Those that live; None likewise.
        at: Unix time of the look, in seconds.
    """

    totals: Mapping[Pair, AgentMetrics]
    groups: Sequence[GroupInfo] | None
    workers: Sequence[WorkerRecord] | None
    at: float


class WorkerNumbers(Struct, frozen=True):
    """What one worker has counted since it started.

    Attributes:
        totals: By topic and agent.
        running: Runs in progress.
        lease_losses: Runs of which nothing is kept.
        state: How the worker is.
    """

    totals: Mapping[Pair, AgentMetrics]
    running: Mapping[Pair, int]
    lease_losses: Mapping[Pair, int]
    state: WorkerState


class _Bound:
    """Gives pairs their labels: their own for the first by name, and one of all for the rest."""

    def __init__(self, pairs: Iterable[Pair], most: int) -> None:
        self._own = frozenset(sorted(set(pairs))[:most])

    def labels(self, pair: Pair) -> list[str]:
        return list(pair) if pair in self._own else [OTHER, OTHER]

    def gathered(
        self,
        values: Iterable[tuple[Pair, float]],
        join: Callable[[float, float], float] = lambda a, b: a + b,
    ) -> list[tuple[list[str], float]]:
        """By labels; what shares them is added up, or joined otherwise."""
        found: dict[tuple[str, ...], float] = {}
        for pair, value in values:
            labels = tuple(self.labels(pair))
            found[labels] = join(found[labels], value) if labels in found else value
        return [(list(labels), value) for labels, value in sorted(found.items())]


def fleet_families(numbers: FleetNumbers, most: int = MOST_AGENTS) -> Iterator[Metric]:
    """The families of `/metrics/prometheus`."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    groups = numbers.groups or ()
    bound = _Bound([*numbers.totals, *((one.topic, one.name) for one in groups)], most)
    yield from _task_families("omnidaemon", numbers.totals, bound)
    if numbers.groups is not None:
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(f"omnidaemon_{name}", text, labels=["topic", "agent"])
            by_pair = (((one.topic, one.name), value(one)) for one in groups)
            for labels, count in bound.gathered(by_pair):
                gauge.add_metric(labels, count)
            yield gauge
        yield _ages(groups, numbers.at, bound)
        posts = numbers.totals.get((TOPIC, AGENT), AgentMetrics())
        deliveries = CounterMetricFamily(
            "omnidaemon_webhook_deliveries",
            "Posts to webhooks, each attempt.",
            labels=["outcome"],
        )
        deliveries.add_metric(["delivered"], posts.processed)
        deliveries.add_metric(["failed"], posts.failed)
        yield deliveries
        yield CounterMetricFamily(
            "omnidaemon_webhooks_given_up", "Webhooks that became dead letters.", value=posts.dead
        )
    if numbers.workers is not None:
        yield _states(
            "omnidaemon_workers",
            "Workers with a fresh heartbeat, by their state.",
            [worker.state for worker in numbers.workers],
        )


def worker_families(numbers: WorkerNumbers, most: int = MOST_AGENTS) -> Iterator[Metric]:
    """The families of a worker's own port."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    bound = _Bound([*numbers.totals, *numbers.running], most)
    yield from _task_families("omnidaemon_worker", numbers.totals, bound)
    running = GaugeMetricFamily(
        "omnidaemon_worker_tasks_in_flight", "Runs in progress.", labels=["topic", "agent"]
    )
    for labels, count in bound.gathered(numbers.running.items()):
        running.add_metric(labels, count)
    yield running
    lost = CounterMetricFamily(
        "omnidaemon_worker_lease_losses",
        "Runs of which nothing is kept, since their lease went to another worker.",
        labels=["topic", "agent"],
    )
    losses = {**dict.fromkeys(numbers.running, 0), **numbers.lease_losses}
    for labels, count in bound.gathered(losses.items()):
        lost.add_metric(labels, count)
    yield lost
    yield _states("omnidaemon_worker_state", "1 for the worker's state.", [numbers.state])


def _task_families(
    prefix: str, totals: Mapping[Pair, AgentMetrics], bound: _Bound
) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    for name, text, value in _COUNTERS:
        counter = CounterMetricFamily(f"{prefix}_tasks_{name}", text, labels=["topic", "agent"])
        for labels, count in bound.gathered((pair, value(one)) for pair, one in totals.items()):
            counter.add_metric(labels, count)
        yield counter
    durations = HistogramMetricFamily(
        f"{prefix}_task_duration_seconds",
        "How long runs took, successful or not.",
        labels=["topic", "agent"],
    )
    seconds = bound.gathered((pair, one.seconds) for pair, one in totals.items())
    columns = [
        bound.gathered(
            (pair, one.durations[n] if one.durations else 0) for pair, one in totals.items()
        )
        for n in range(len(SECONDS) + 1)
    ]
    for row, (labels, total) in enumerate(seconds):
        cumulated = accumulate(column[row][1] for column in columns)
        names = [*(repr(float(bound)) for bound in SECONDS), "+Inf"]
        durations.add_metric(labels, list(zip(names, cumulated, strict=True)), total)
    yield durations


def _ages(groups: Sequence[GroupInfo], now: float, bound: _Bound) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    gauge = GaugeMetricFamily(
        "omnidaemon_oldest_task_age_seconds",
        "How long ago the oldest event was published that the agent has not settled; 0 for none.",
        labels=["topic", "agent"],
    )
    ages = (
        ((one.topic, one.name), 0.0 if one.oldest is None else max(0.0, now - one.oldest))
        for one in groups
    )
    for labels, age in bound.gathered(ages, max):
        gauge.add_metric(labels, age)
    return gauge


def _states(name: str, text: str, found: Sequence[WorkerState]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    gauge = GaugeMetricFamily(name, text, labels=["state"])
    for state in get_args(WorkerState):
        gauge.add_metric([state], found.count(state))
    return gauge


def registry(collect: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    """A registry of what a function gives, asked anew each time.

    Raises:
        MissingExtra: The package prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.registry import Collector
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "metrics for Prometheus need the package 'prometheus-client', which is not installed: "
            "install this package with its extra `metrics` (it is in `api` as well), or: "
            "pip install 'prometheus-client>=0.21'"
        ) from error

    class Collected(Collector):
        def collect(self) -> Iterable[Metric]:
            return collect()

    made = CollectorRegistry(auto_describe=False)
    made.register(Collected())
    return made


def rendered(found: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text, and its media type: OpenMetrics if that is accepted, else Prometheus's own."""
    from prometheus_client.exposition import choose_encoder

    encode: Any
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it compares versions, also where there are none
        encode, media_type = choose_encoder("")
    return encode(found), media_type
