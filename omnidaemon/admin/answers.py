"""What the API answers with: its values, and errors as JSON with a `detail`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from starlette.responses import Response

from omnidaemon.envelope import Envelope
from omnidaemon.errors import (
    AgentNotFound,
    DecodeError,
    DuplicateAgent,
    InvalidSettings,
    OmniDaemonError,
    PayloadError,
    TaskNotFound,
    Unsupported,
)
from omnidaemon.lineage import Kin, Tree
from omnidaemon.outcomes import Cause
from omnidaemon.records import Attempt, RunRecord, RunStatus, iso
from omnidaemon.tasks import Task, TaskStatus, states
from omnidaemon.views import Reason


class Problem(Struct, frozen=True):
    """Why a request was not done, and what to do next."""

    detail: str


class Refused(Exception):
    """A request is not done; its answer has this status and detail."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class Instead(Exception):
    """An endpoint answers with this response, not with a value of its usual type."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def json_answer(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """The value as JSON; what it says is stale as soon as it is sent, so nobody keeps it."""
    return Response(
        msgspec.json.encode(value),
        status,
        {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
        "application/json",
    )


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    return json_answer(Problem(detail), status, headers)


def status_of(error: OmniDaemonError) -> int:
    """The HTTP status that says what kind of error it is."""
    match error:
        case AgentNotFound() | TaskNotFound():
            return 404
        case DuplicateAgent() | Unsupported():
            return 409
        case PayloadError() | InvalidSettings() | DecodeError():
            return 422
        case _:
            return 503  # a backend does not do its part; later it may


class AgentConfig(Struct, frozen=True):
    """How an agent runs, in the words of the classic SDK."""

    consumer_count: int
    dlq_retry_limit: int
    reclaim_idle_ms: int
    dlq_enabled: bool
    timeout: float | None


class AgentAnswer(Struct, frozen=True):
    """An agent as it was registered, and how far its group is."""

    name: str
    topic: str
    description: str
    tools: list[str]
    config: AgentConfig
    app: str
    registered: bool
    registered_at: str | None
    status: Literal["running", "paused", "stopped"]
    paused: bool
    consumers: int
    lag: int
    leased: int
    waiting: int
    dead: int
    seen: str | None


class AgentChange(Struct, frozen=True):
    """An agent was told to pause or to go on; workers act on it within a second."""

    status: Literal["unsubscribed", "resumed"]
    topic: str
    agent: str
    message: str


class CleanupAnswer(Struct, frozen=True):
    """What a deletion removed."""

    storage_deleted: bool
    consumer_group_deleted: bool
    dlq_deleted: bool


class AgentDeleted(Struct, frozen=True):
    """An agent was deleted."""

    status: Literal["deleted"]
    topic: str
    agent: str
    cleanup: CleanupAnswer


class TopicDeleted(Struct, frozen=True):
    """A topic was deleted, with its events, agents and dead letters."""

    status: Literal["deleted"]
    topic: str
    agents: list[AgentDeleted]


class Published(Struct, frozen=True):
    """An event is stored."""

    task_id: str
    topic: str
    status: Literal["pending"] = "pending"


class AttemptAnswer(Struct, frozen=True):
    """An earlier run; its error comes without a traceback."""

    attempt: int
    replays: int
    status: RunStatus
    error: Cause | None
    started_at: str
    finished_at: str
    seconds: float
    retry_at: str | None
    worker: str
    crashes: int


class RunAnswer(Struct, frozen=True):
    """What one agent made of one task: its latest run. Times are ISO 8601, in UTC."""

    task_id: str
    topic: str
    agent: str
    status: TaskStatus
    result: Raw
    error: Cause | None
    attempts: int
    replays: int
    started_at: str | None
    finished_at: str | None
    seconds: float | None
    retry_at: str | None
    worker: str | None
    correlation_id: str | None
    tenant_id: str | None
    timestamp: str | None
    causation_id: str | None = None
    source: str | None = None
    history: list[AttemptAnswer] = []


class TaskAnswer(Struct, frozen=True):
    """A task: the latest success in `result`, the latest failure, each agent's run in `agents`."""

    task_id: str
    topic: str
    status: TaskStatus
    result: Raw
    error: Cause | None
    timestamp: str | None
    tenant_id: str | None
    correlation_id: str | None
    agents: dict[str, RunAnswer]
    causation_id: str | None = None


class KinAnswer(Struct, frozen=True):
    """A task in a tree of tasks; of one that is not known any more, only its id is there."""

    task_id: str
    topic: str
    status: TaskStatus | None
    agents: dict[str, TaskStatus]
    error: Cause | None
    at: str | None
    children: list[KinAnswer]
    more: bool


class TreeAnswer(Struct, frozen=True):
    """What caused a task and what it caused, from the oldest known ancestor on."""

    root: KinAnswer
    tasks: int
    complete: bool
    topics_searched: int


class TaskDeleted(Struct, frozen=True):
    """A task's records were removed."""

    status: Literal["deleted"]
    task_id: str
    records: int


def run_answer(run: RunRecord, status: TaskStatus | None = None) -> RunAnswer:
    """A run, with its result passed on as the bytes that are stored."""
    finished = iso(run.finished_at)
    return RunAnswer(
        run.task_id,
        run.topic,
        run.agent,
        status or run.status,
        run.result,
        run.cause,
        run.attempts,
        run.replays,
        iso(run.started_at),
        finished,
        round(run.seconds, 6),
        None if run.retry_at is None else iso(run.retry_at),
        run.worker,
        run.correlation_id,
        run.tenant_id,
        finished,
        run.causation_id,
        run.source,
        [_attempt_answer(attempt) for attempt in run.history],
    )


def _attempt_answer(attempt: Attempt) -> AttemptAnswer:
    return AttemptAnswer(
        attempt.attempt,
        attempt.replays,
        attempt.status,
        attempt.cause,
        iso(attempt.started_at),
        iso(attempt.finished_at),
        round(attempt.seconds, 6),
        None if attempt.retry_at is None else iso(attempt.retry_at),
        attempt.worker,
        attempt.crashes,
    )


def tree_answer(tree: Tree) -> TreeAnswer:
    """A family of tasks."""
    return TreeAnswer(_kin_answer(tree.root), tree.tasks, tree.complete, tree.searched)


def _kin_answer(kin: Kin) -> KinAnswer:
    return KinAnswer(
        kin.task_id,
        kin.topic,
        kin.status,
        kin.agents,
        kin.cause,
        iso(kin.at) if kin.at else None,
        [_kin_answer(child) for child in kin.children],
        kin.more,
    )


def task_answer(task: Task) -> TaskAnswer:
    """A task with all its agents, those that have not run it yet included."""
    success = task.success
    runs = list(task.runs.values())
    newest = max(runs, key=lambda run: run.finished_at, default=None)
    failed = [run for run in runs if run.cause is not None]
    return TaskAnswer(
        task.id,
        task.topic,
        task.status,
        success.result if success else Raw(b"null"),
        max(failed, key=lambda run: run.finished_at).cause if failed else None,
        iso(newest.finished_at) if newest else None,
        newest.tenant_id if newest else None,
        newest.correlation_id if newest else None,
        {
            name: run_answer(task.runs[name], status)
            if name in task.runs
            else _not_run(task, name, status)
            for name, status in sorted(states(task.places, task.runs).items())
            if name
        },
        newest.causation_id if newest else None,
    )


def _not_run(task: Task, agent: str, status: TaskStatus) -> RunAnswer:
    nothing = (None,) * 8
    return RunAnswer(task.id, task.topic, agent, status, Raw(b"null"), None, 0, 0, *nothing)


class GroupAnswer(Struct, frozen=True):
    """How far a group, which is an agent's, is."""

    topic: str
    name: str
    lag: int
    leased: int
    waiting: int
    dead: int
    consumers: int
    lease: float
    paused: bool
    seen: str | None
    oldest: str | None


class TopicAnswer(Struct, frozen=True):
    """A topic: events kept, their bytes, delayed ones, dead letters, memory, and its groups."""

    name: str
    events: int
    size: int
    delayed: int
    dead: int
    memory: int
    groups: list[GroupAnswer]


class StatsAnswer(Struct, frozen=True):
    """All topics, and their sums."""

    topics: list[TopicAnswer]
    events: int
    size: int
    delayed: int
    lag: int
    pending: int
    dead: int
    memory: int


class EventAnswer(Struct, frozen=True):
    """An event as its topic keeps it; `body` has the bytes if they are no envelope.

    While it is delayed it has a `due_at`, and no `stored_at`.
    """

    position: str
    task_id: str
    stored_at: str | None
    due_at: str | None
    event: Envelope | None
    body: str | None


class LetterAnswer(Struct, frozen=True):
    """A dead letter: what an agent gave up, and why."""

    position: str
    task_id: str
    topic: str
    agent: str
    buried_at: str
    cause: Reason
    event: Envelope | None
    body: str | None


class Replayed(Struct, frozen=True):
    """Dead letters were handed back to their agents."""

    topic: str
    replayed: int


class Discarded(Struct, frozen=True):
    """Dead letters were removed for good."""

    topic: str
    deleted: int


class StorageHealth(Struct, frozen=True):
    """Whether the store answers."""

    storage_type: str
    storage_healthy: bool
    error: str | None = None


class Cleared(Struct, frozen=True):
    """Records were removed: how many, by their kind."""

    status: Literal["cleared"]
    removed: dict[str, int]


class ConfigValue(Struct, frozen=True):
    """A value kept for other processes."""

    key: str
    value: Any


class ConfigBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A value to keep."""

    value: Any


class WorkerAnswer(Struct, frozen=True):
    """A worker by its latest heartbeat."""

    id: str
    app: str
    host: str
    pid: int
    state: Literal["running", "draining", "degraded"]
    detail: str
    agents: list[str]
    running: int
    uptime_seconds: float
    last_beat_seconds: float


class Unserved(Struct, frozen=True):
    """A group that no worker has served for a day, and how many events wait for it."""

    topic: str
    agent: str
    waiting: int


class HealthAnswer(Struct, frozen=True):
    """How the whole is doing."""

    runner_id: str | None
    status: Literal["running", "degraded", "stopped"]
    event_bus_type: str
    event_bus_connected: bool
    storage_healthy: bool
    subscribed_topics: list[str]
    registered_agents_count: int
    uptime_seconds: float
    workers: list[WorkerAnswer]
    groups_without_worker: list[Unserved]
    errors: list[str]


class Alive(Struct, frozen=True):
    """The process answers."""

    status: Literal["alive", "ready"]


class AgentNumbers(Struct, frozen=True):
    """What an agent has done since its counters began."""

    tasks_received: int
    tasks_processed: int
    tasks_failed: int
    avg_processing_time_sec: float
