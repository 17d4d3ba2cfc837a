"""Typed views over a Store: results, workers, agents and counters, written once for all stores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct, field

from omnidaemon.envelope import load
from omnidaemon.errors import InvalidSettings, StoreError
from omnidaemon.messages import Count, Record, Write
from omnidaemon.outcomes import Cause
from omnidaemon.stores.base import Store
from omnidaemon.telemetry.signals import SECONDS

RESULTS = "results"
WORKERS = "workers"
AGENTS = "agents"
METRICS = "metrics"
CONFIG = "config"
# Written only for events that have a tenant: the others cost nothing for it.
TENANT_RESULTS = "results.tenants"
TENANT_METRICS = "metrics.tenants"

BEAT_SECONDS = 5.0
BEAT_TTL = 3 * BEAT_SECONDS

_BOUNDS = (*(f"{seconds:g}" for seconds in SECONDS), "inf")
PROCESSED = tuple(f"processed:{bound}" for bound in _BOUNDS)
FAILED = tuple(f"failed:{bound}" for bound in _BOUNDS)
"""The counters of runs by how long they took, in the order of SECONDS: where a run is counted at
all, so that a histogram costs no counter more than a number."""

RunStatus = Literal["succeeded", "failed", "dead"]
WorkerState = Literal["running", "draining", "degraded"]


class Attempt(Struct, frozen=True, omit_defaults=True):
    """A run that has ended, as the record of a later run of the same task remembers it.

    Attributes:
        attempt: Which run it was, from 1; it begins anew with a replay.
        replays: How often the event had come back from the dead letters.
        status: How it ended.
        started_at: Unix time, in seconds.
        finished_at: Unix time, in seconds.
        cause: Why it failed, without its traceback.
        retry_at: Unix time from which it was to run again, if it was.
        worker: Where it ran.
        crashes: How many workers had vanished with the event by then.
    """

    attempt: int
    replays: int
    status: RunStatus
    started_at: float
    finished_at: float
    cause: Cause | None = None
    retry_at: float | None = None
    worker: str = ""
    crashes: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.finished_at - self.started_at


class RunRecord(Struct, frozen=True, omit_defaults=True):
    """What one agent made of one task: its latest run, as stored.

    Attributes:
        task_id: The event's id.
        topic: Its topic.
        agent: Who ran it.
        status: succeeded, failed (it will be retried) or dead.
        result: What the agent returned, as JSON; null unless it succeeded.
        cause: Why it failed.
        attempts: Runs charged so far.
        replays: How often it came back from the dead letters.
        started_at: Unix time of the latest run's start, in seconds.
        finished_at: Unix time of its end.
        retry_at: Unix time from which it may run again, if it will.
        worker: Where it ran.
        correlation_id: As in the envelope.
        tenant_id: As in the envelope.
        causation_id: As in the envelope.
        source: As in the envelope.
        crashes: How many workers vanished with the event since it was last charged or replayed.
        history: Its earlier runs, the oldest first; the latest of them if there were many.
    """

    task_id: str
    topic: str
    agent: str
    status: RunStatus
    result: Raw = Raw(b"null")
    cause: Cause | None = None
    attempts: int = 1
    replays: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    retry_at: float | None = None
    worker: str = ""
    correlation_id: str | None = None
    tenant_id: str | None = None
    causation_id: str | None = None
    source: str | None = None
    crashes: int = 0
    history: tuple[Attempt, ...] = ()

    @property
    def value(self) -> Any:
        """The result as plain Python values."""
        return load(self.result)

    @property
    def seconds(self) -> float:
        """How long the latest run took."""
        return self.finished_at - self.started_at


class WorkerRecord(Struct, frozen=True, omit_defaults=True):
    """A worker as its latest heartbeat described it.

    Attributes:
        id: The worker.
        app: The app's name.
        host: Where it runs.
        pid: Its process.
        started_at: Unix time, in seconds.
        beat_at: Unix time of this heartbeat.
        state: running, draining, or degraded while its backends fail it.
        detail: What fails, when degraded.
        agents: Its agents as "topic/name".
        running: Runs in progress.
        leases: Deliveries it holds: what runs, what is next, what is not settled yet.
        slots: Runs that it does at once, at most.
    """

    id: str
    app: str
    host: str
    pid: int
    started_at: float
    beat_at: float
    state: WorkerState = "running"
    detail: str = ""
    agents: list[str] = field(default_factory=list)
    running: int = 0
    leases: int = 0
    slots: int = 0


class AgentRecord(Struct, frozen=True, omit_defaults=True):
    """A registered agent, as the worker that runs it wrote it down."""

    topic: str
    name: str
    description: str = ""
    tools: list[str] = field(default_factory=list)
    consumers: int = 1
    retries: int = 3
    timeout: float | None = None
    lease: float = 60.0
    dead_letter: bool = True
    app: str = ""
    registered_at: float = 0.0


class AgentMetrics(Struct, frozen=True):
    """What an agent has done since its counters began.

    Attributes:
        processed: Runs that succeeded and settled.
        failed: Runs that raised and settled, each attempt.
        dead: Deliveries given up, those that never ran included.
        seconds: The time of all those runs.
        retried: Failed runs that are repeated.
        durations: How many runs took at most as long as each of SECONDS, and longer than the one
            before; at the end those that took longer than all. Empty while there was none.
    """

    processed: int = 0
    failed: int = 0
    dead: int = 0
    seconds: float = 0.0
    retried: int = 0
    durations: tuple[int, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, float]) -> AgentMetrics:
        """As the counters say, by their names."""
        processed = [round(fields.get(name, 0)) for name in PROCESSED]
        failed = [round(fields.get(name, 0)) for name in FAILED]
        durations = tuple(map(sum, zip(processed, failed, strict=True)))
        return cls(
            # Runs may have been counted by number alone: before there was a histogram.
            processed=round(fields.get("processed", 0)) + sum(processed),
            failed=round(fields.get("failed", 0)) + sum(failed),
            dead=round(fields.get("dead", 0)),
            seconds=fields.get("seconds", 0.0),
            retried=round(fields.get("retried", 0)),
            durations=durations if any(durations) else (),
        )

    @property
    def received(self) -> int:
        """Deliveries that came to an outcome, whatever it was; what runs is not among them."""
        return self.processed + self.retried + self.dead

    @property
    def average(self) -> float:
        """Mean seconds per run."""
        runs = self.processed + self.failed
        return self.seconds / runs if runs else 0.0


def checked_limit(limit: object, most: int = 10_000) -> int:
    """Returns the limit of a listing, or raises InvalidSettings."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        raise InvalidSettings(f"limit={limit!r}: give a whole number from 1 to {most}")
    return limit


_encode = msgspec.json.Encoder().encode
_run = msgspec.json.Decoder(RunRecord)


def run_write(record: RunRecord, ttl: float) -> Write:
    """The change that keeps a run's record for `ttl` seconds."""
    return Write(RESULTS, run_key(record), _encode(record), record.topic, ttl)


def read_run(value: bytes) -> RunRecord | None:
    """What `run_write` wrote; None if another version did, whose record says what is wrong."""
    try:
        return _run.decode(value)
    except msgspec.MsgspecError:
        return None


def tenant_changes(
    record: RunRecord, ttl: float, counts: Iterable[Count]
) -> tuple[Write | Count, ...]:
    """What a tenant's run changes besides: where its lists find it, and its counters."""
    if not record.tenant_id:
        return ()
    key = run_key(record)
    share = f"{quote(record.tenant_id, safe='')}/"
    return (
        Write(TENANT_RESULTS, f"*{key}", b"", tenant_label(record.tenant_id, None), ttl),
        Write(TENANT_RESULTS, f"={key}", b"", tenant_label(record.tenant_id, record.topic), ttl),
        *(Count(TENANT_METRICS, share + one.key, one.field, one.amount) for one in counts),
    )


def run_key(record: RunRecord) -> str:
    """Its key among the results; no part of it holds a slash."""
    return f"{record.task_id}/{record.topic}/{record.agent}"


def tenant_label(tenant_id: str, topic: str | None) -> str:
    """What a tenant's runs, of one topic or of all, are listed by.

    A topic holds no slash, so no two tenants and topics come to one label.
    """
    return f"{topic or ''}/{tenant_id}"


class Results:
    """Run records by task and by topic."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of_task(self, task_id: str) -> list[RunRecord]:
        """All agents' records of the task, the newest first."""
        return runs_in(await self._store.browse(RESULTS, prefix=f"{task_id}/"))

    async def newest(
        self, topic: str | None = None, limit: int = 100, *, tenant_id: str | None = None
    ) -> list[RunRecord]:
        """The newest records, of one topic or of all, of one tenant or of all."""
        checked_limit(limit)
        if tenant_id is None:
            return runs_in(await self._store.browse(RESULTS, label=topic, limit=limit))
        label = tenant_label(tenant_id, topic)
        index = await self._store.browse(TENANT_RESULTS, label=label, limit=limit)
        found = await self._store.read(RESULTS, *(entry.key[1:] for entry in index))
        runs = runs_in(record for record in found if record is not None)
        return [run for run in runs if run.tenant_id == tenant_id]  # an id may be used again

    async def remove(self, task_id: str) -> int:
        """Removes the task's records; returns how many there were."""
        keys = [record.key for record in await self._store.browse(RESULTS, prefix=f"{task_id}/")]
        count = await self._store.remove(RESULTS, *keys)
        await self._store.remove(TENANT_RESULTS, *(mark + key for key in keys for mark in "*="))
        return count


def runs_in(records: Iterable[Record]) -> list[RunRecord]:
    """The records as values; one that cannot be read says so, and hides none of the others."""
    found = []
    for record in records:
        try:
            found.append(_decoded(record, _run))
        except StoreError as error:
            task_id, _, rest = record.key.partition("/")
            topic, _, agent = rest.partition("/")
            cause = Cause("StoreError", str(error))
            found.append(
                RunRecord(task_id, topic, agent, "dead", cause=cause, finished_at=record.written)
            )
    return found


def _decoded(record: Record, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(record.value)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"record {record.key!r} is not readable ({error}): was it written by another version?"
        ) from error


_worker = msgspec.json.Decoder(WorkerRecord)
_agent = msgspec.json.Decoder(AgentRecord)


class Roster:
    """Who runs what: workers by their heartbeats, agents as registered."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def beat(self, record: WorkerRecord) -> None:
        """Says that the worker lives."""
        await self._store.write(Write(WORKERS, record.id, _encode(record), ttl=BEAT_TTL))

    async def leave(self, worker_id: str) -> None:
        """Says that the worker has ended."""
        await self._store.remove(WORKERS, worker_id)

    async def workers(self) -> list[WorkerRecord]:
        """Workers whose heartbeat is fresh."""
        found = await self._store.browse(WORKERS, limit=10_000)
        return sorted((_decoded(r, _worker) for r in found), key=lambda worker: worker.started_at)

    async def register(self, agents: Sequence[AgentRecord]) -> None:
        """Writes the agents down."""
        await self._store.write(*(Write(AGENTS, f"{a.topic}/{a.name}", _encode(a)) for a in agents))

    async def agents(self) -> list[AgentRecord]:
        """All agents ever registered and not removed, by topic and name."""
        found = await self._store.browse(AGENTS, limit=10_000)
        return sorted((_decoded(r, _agent) for r in found), key=lambda a: (a.topic, a.name))

    async def missing(self, agents: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of these agents, as (topic, name), that are not written down (any more)."""
        wanted = list(agents)
        found = await self._store.read(AGENTS, *(f"{topic}/{name}" for topic, name in wanted))
        return [agent for agent, record in zip(wanted, found, strict=True) if record is None]

    async def forget(self, topic: str, *names: str) -> int:
        """Strikes these agents of the topic out; returns how many there were."""
        return await self._store.remove(AGENTS, *(f"{topic}/{name}" for name in names))


class Metrics:
    """Counters that move inside the settlements."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def totals(
        self, topic: str | None = None, *, tenant_id: str | None = None
    ) -> dict[str, dict[str, AgentMetrics]]:
        """By topic and agent; of one tenant's events, or of all."""
        share = "" if tenant_id is None else f"{quote(tenant_id, safe='')}/"
        prefix = share if topic is None else f"{share}{topic}/"
        collection = METRICS if tenant_id is None else TENANT_METRICS
        found: dict[str, dict[str, AgentMetrics]] = {}
        for key, fields in sorted((await self._store.totals(collection, prefix=prefix)).items()):
            name, _, agent = key.removeprefix(share).partition("/")
            found.setdefault(name, {})[agent] = AgentMetrics.of(fields)
        return found


def metric(label: str, name: str, amount: float = 1) -> Count:
    """The change of a counter of the agent with the label "topic/name"."""
    return Count(METRICS, label, name, amount)


_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0
"""The years 1 to 9999, which ISO 8601 has four digits for."""


def datable(moment: float) -> float:
    """The moment, or the nearest that has a date: an event's is whatever its publisher wrote."""
    return min(max(_FIRST, moment), _LAST)  # in this order NaN becomes the first


def iso(moment: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    moment = datable(moment)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 1000):03d}Z"
