"""What the Fleet answers with: agents, topics, events, dead letters, tasks, and their JSON form."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from omnidaemon.envelope import Envelope, decode, load, wire_of
from omnidaemon.errors import DecodeError
from omnidaemon.messages import DeadLetter, Event, GroupInfo, TopicInfo
from omnidaemon.records import AgentRecord, Attempt, RunRecord, iso
from omnidaemon.tasks import Task, states


class AgentState(Struct, frozen=True):
    """An agent as it was registered, and how far its group is.

    Attributes:
        topic: What it listens to.
        name: Its name.
        record: As its worker wrote it down; None if that is cleared, or was never done.
        group: How far it is; None if its group is deleted.
    """

    topic: str
    name: str
    record: AgentRecord | None
    group: GroupInfo | None

    @property
    def status(self) -> Literal["running", "paused", "stopped"]:
        """Paused if told so, else running while any worker serves it."""
        if self.group is not None and self.group.paused:
            return "paused"
        return "running" if self.group is not None and self.group.consumers else "stopped"

    def public(self) -> dict[str, Any]:
        """As JSON shows it; `consumers` are its live subscriptions."""
        record = self.record or AgentRecord(self.topic, self.name)
        group = self.group or GroupInfo(self.topic, self.name, 0, 0, 0, 0, 0, 0.0, False, None)
        return {
            "name": self.name,
            "topic": self.topic,
            "description": record.description,
            "tools": record.tools,
            "config": {
                "consumer_count": record.consumers,
                "dlq_retry_limit": record.retries,
                "reclaim_idle_ms": round(record.lease * 1000),
                "dlq_enabled": record.dead_letter,
                "timeout": record.timeout,
            },
            "app": record.app,
            "registered": self.record is not None,
            "registered_at": iso(record.registered_at) if self.record else None,
            "status": self.status,
            "paused": group.paused,
            "consumers": group.consumers,
            "lag": group.lag,
            "leased": group.leased,
            "waiting": group.waiting,
            "dead": group.dead,
            "seen": None if group.seen is None else iso(group.seen),
        }


class Cleanup(Struct, frozen=True):
    """What the deletion of an agent removed.

    Attributes:
        topic: What the agent listened to.
        agent: Its name.
        storage_deleted: True if its record was there.
        group_deleted: True if its group was there, with what waited in it.
        dlq_deleted: True if it had dead letters that were removed.
    """

    topic: str
    agent: str
    storage_deleted: bool = False
    group_deleted: bool = False
    dlq_deleted: bool = False


class TopicStats(Struct, frozen=True):
    """A topic with its groups."""

    info: TopicInfo
    groups: list[GroupInfo]

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        info = self.info
        return {
            "name": info.name,
            "events": info.events,
            "size": info.size,
            "delayed": info.delayed,
            "dead": info.dead,
            "memory": info.memory,
            "groups": [group_public(group) for group in self.groups],
        }


def topic_public(topic: TopicInfo) -> dict[str, Any]:
    """A topic as JSON shows it; `groups` is their number."""
    return {name: getattr(topic, name) for name in topic.__struct_fields__}


class BusStats(Struct, frozen=True):
    """All topics, and their sums.

    Attributes:
        topics: By name.
        events: Events kept, settled ones within the retention included.
        size: Their bodies' size, in bytes.
        delayed: Events whose delay is not over.
        lag: Events never handed out, summed over the groups.
        pending: Deliveries that run or wait for a retry, summed over the groups.
        dead: Dead letters.
        memory: Bytes that the events take where they are kept, as far as the backend can tell.
    """

    topics: list[TopicStats]
    events: int
    size: int
    delayed: int
    lag: int
    pending: int
    dead: int
    memory: int

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return {**shown, "topics": [topic.public() for topic in self.topics]}


def group_public(group: GroupInfo) -> dict[str, Any]:
    """A group as JSON shows it."""
    shown = {name: getattr(group, name) for name in group.__struct_fields__}
    moments = {"seen": group.seen, "oldest": group.oldest}
    return shown | {name: None if at is None else iso(at) for name, at in moments.items()}


class Reason(Struct, frozen=True):
    """What the worker wrote beside a dead letter.

    Attributes:
        type: The exception's class name.
        message: Its text.
        traceback: Where it was raised; empty for what never ran.
        attempts: Runs charged.
        crashes: How many times its worker vanished.
        replays: How often it had come back from the dead letters.
        failed_at: Unix time of the end, in seconds.
        worker: Where it ran last.
    """

    type: str = "unknown"
    message: str = ""
    traceback: str = ""
    attempts: int = 0
    crashes: int = 0
    replays: int = 0
    failed_at: float = 0.0
    worker: str = ""


class StoredEvent(Struct, frozen=True):
    """An event as its topic keeps it.

    Attributes:
        position: Its place in the topic.
        task_id: Its id.
        stored: Unix time, in seconds; 0 while it is delayed.
        event: The envelope with plain content; None if the bytes are none.
        body: The bytes as text, if they are no envelope.
        due: While it is delayed, when that is over, in Unix time.
    """

    position: str
    task_id: str
    stored: float
    event: Envelope | None
    body: str | None = None
    due: float | None = None

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "position": self.position,
            "task_id": self.task_id,
            "stored_at": None if self.due else iso(self.stored),
            "due_at": iso(self.due) if self.due else None,
            "event": self.event,
            "body": self.body,
        }


class Letter(Struct, frozen=True):
    """A dead letter: what an agent gave up, and why.

    Attributes:
        position: Its place among the agent's dead letters; stays the same while it is dead.
        task_id: The event's id.
        topic: Where it came from.
        agent: Who gave it up.
        buried: Unix time, in seconds.
        cause: Why.
        event: The envelope with plain content; None if the bytes are none.
        body: The bytes as text, if they are no envelope.
    """

    position: str
    task_id: str
    topic: str
    agent: str
    buried: float
    cause: Reason
    event: Envelope | None
    body: str | None = None

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "position": self.position,
            "task_id": self.task_id,
            "topic": self.topic,
            "agent": self.agent,
            "buried_at": iso(self.buried),
            "cause": self.cause,
            "event": self.event,
            "body": self.body,
        }


def task_public(task: Task) -> dict[str, Any]:
    """A task as JSON shows it: the latest success in `result`, each run in `agents`."""
    success = task.success
    now = states(task.places, task.runs)
    failed = [run for run in task.runs.values() if run.cause is not None]
    latest = max(task.runs.values(), key=lambda run: run.finished_at, default=None)
    return {
        "task_id": task.id,
        "topic": task.topic,
        "status": task.status,
        "result": success.value if success else None,
        "error": max(failed, key=lambda run: run.finished_at).cause if failed else None,
        "timestamp": iso(latest.finished_at) if latest else None,
        "correlation_id": latest.correlation_id if latest else None,
        "tenant_id": latest.tenant_id if latest else None,
        "causation_id": latest.causation_id if latest else None,
        "agents": {
            name: {**run_public(task.runs[name]), "status": status}
            if name in task.runs
            else {"status": status}
            for name, status in sorted(now.items())
            if name
        },
    }


def run_public(run: RunRecord) -> dict[str, Any]:
    """A run as JSON shows it."""
    return {
        "task_id": run.task_id,
        "topic": run.topic,
        "agent": run.agent,
        "status": run.status,
        "result": run.value,
        "error": run.cause,
        "attempts": run.attempts,
        "replays": run.replays,
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "seconds": round(run.seconds, 6),
        "retry_at": None if run.retry_at is None else iso(run.retry_at),
        "worker": run.worker,
        "correlation_id": run.correlation_id,
        "tenant_id": run.tenant_id,
        "causation_id": run.causation_id,
        "source": run.source,
        "history": [_attempt_public(attempt) for attempt in run.history],
    }


def _attempt_public(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "replays": attempt.replays,
        "status": attempt.status,
        "error": attempt.cause,
        "started_at": iso(attempt.started_at),
        "finished_at": iso(attempt.finished_at),
        "seconds": round(attempt.seconds, 6),
        "retry_at": None if attempt.retry_at is None else iso(attempt.retry_at),
        "worker": attempt.worker,
        "crashes": attempt.crashes,
    }


def read_event(event: Event) -> StoredEvent:
    """The event with its envelope decoded."""
    envelope, body = _read_body(event.body)
    return StoredEvent(event.position, event.id, event.stored, envelope, body, event.due)


def read_letter(letter: DeadLetter) -> Letter:
    """The dead letter with its envelope and its reason decoded."""
    envelope, body = _read_body(letter.body)
    return Letter(
        letter.position,
        letter.id,
        letter.topic,
        letter.group,
        letter.buried,
        read_reason(letter.reason),
        envelope,
        body,
    )


def _read_body(body: bytes) -> tuple[Envelope | None, str | None]:
    try:
        received = decode(body)
        content = load(received.content, wire_of(body))
        msgspec.json.encode(content)  # msgpack has keys and types that JSON has not
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        return None, body.decode("utf-8", "backslashreplace")
    fields = {name: getattr(received, name) for name in Envelope.__struct_fields__}
    return Envelope(**{**fields, "content": content}), None


def read_reason(reason: bytes) -> Reason:
    """Why a dead letter was given up, decoded."""
    try:
        return msgspec.json.decode(reason, type=Reason)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Buried by something else than a worker of ours: shown as it is.
        return Reason(message=reason.decode("utf-8", "backslashreplace"))
