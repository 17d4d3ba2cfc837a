"""`/events`: runs as they end, streamed as server-sent events from the records of all workers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import msgspec
from msgspec import Struct
from starlette.responses import StreamingResponse

from omnidaemon.admin.answers import Instead, Refused
from omnidaemon.admin.endpoints import Ask, OptionalName, Section, Tenant
from omnidaemon.errors import OmniDaemonError
from omnidaemon.messages import Record
from omnidaemon.outcomes import Cause
from omnidaemon.records import RESULTS, RunStatus, iso
from omnidaemon.stores.base import Store

events = Section("events")

POLL_SECONDS = 0.25
BEAT_SECONDS = 15.0
MOST_STREAMS = 50
# Records are read with their results: few at first, more only if all of these are new.
_STEPS = (10, 100, 1000)


class StreamQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose runs."""

    topic: OptionalName | None = None
    tenant_id: Tenant | None = None


class RunEvent(Struct, frozen=True):
    """A run has ended; `failed` will be retried."""

    task_id: str
    topic: str
    agent: str
    status: RunStatus
    attempts: int
    replays: int
    error: str | None
    seconds: float
    finished_at: str
    correlation_id: str | None
    tenant_id: str | None


class _Head(Struct, frozen=True):
    """A run's record without its result, which the stream does not carry."""

    task_id: str
    topic: str
    agent: str
    status: RunStatus
    cause: Cause | None = None
    attempts: int = 1
    replays: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    correlation_id: str | None = None
    tenant_id: str | None = None


_head = msgspec.json.Decoder(_Head)


def _without_result(record: Record) -> Record:
    """What is sent of it: kept for all listeners, results would be a gigabyte."""
    try:
        head = msgspec.json.encode(_head.decode(record.value))
    except msgspec.MsgspecError:
        head = b""
    return msgspec.structs.replace(record, value=head)


class Mark(Struct, frozen=True):
    """How far a listener is: the record that it saw last."""

    micros: int
    key: str

    @staticmethod
    def of(record: Record) -> Mark:
        """The mark of one who has seen this record last."""
        return Mark(int(record.written * 1_000_000), record.key)

    @staticmethod
    def parse(text: str) -> Mark:
        """Reads what `str` has made, or raises Refused."""
        moment, _, key = text.partition("-")
        try:
            return Mark(int(moment), key)
        except ValueError:
            raise Refused(422, f"Last-Event-ID {text[:100]!r} is none that this API sent") from None

    def __str__(self) -> str:
        return f"{self.micros}-{self.key}"


@events("GET", "/events", scope="read", tenants=True, others={"text/event-stream": str})
async def stream_events(ask: Ask, query: StreamQuery) -> str:
    """Streams runs as they end, in all workers, as server-sent events named `run`.

    With the header Last-Event-ID the stream goes on after that event. An event named `gap` says
    that more has happened than the stream could follow, one named `trouble` that the store does not
    answer for now. What is pending or running is not in it.
    """
    feed: Feed = ask.request.scope["omnidaemon.feed"]
    last = ask.request.headers.get("last-event-id")
    listener = Listener(feed, query.topic or None, ask.tenant(query.tenant_id))
    await listener.start(Mark.parse(last) if last else None)
    raise Instead(
        StreamingResponse(
            listener.stream(),
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            media_type="text/event-stream",
        )
    )


class Feed:
    """The newest records, read once for all listeners.

    Args:
        store: Where results are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[int, tuple[float, list[Record]]] = {}
        self.listeners = 0

    async def newest(self, limit: int) -> list[Record]:
        """The newest records, newest first, at most a poll's time old."""
        at, records = self._read.get(limit, (float("-inf"), []))
        if anyio.current_time() - at >= POLL_SECONDS / 2:
            found = await self._store.browse(RESULTS, limit=limit)
            records = [_without_result(record) for record in found]
            self._read[limit] = anyio.current_time(), records
        return records


class Listener:
    """One stream.

    Args:
        feed: What it listens to.
        topic: Only this topic's runs; None for all.
        tenant_id: Only this tenant's; None for all.
    """

    def __init__(self, feed: Feed, topic: str | None, tenant_id: str | None) -> None:
        if feed.listeners >= MOST_STREAMS:
            raise Refused(503, f"{MOST_STREAMS} streams are open, which is the most: close one")
        self._feed = feed
        self._mark = Mark(0, "")
        self._topic = topic
        self._tenant = tenant_id
        # Several records may be written in one moment.
        self._seen: dict[Mark, None] = {}

    async def start(self, mark: Mark | None) -> None:
        """Begins after the mark, or after what there is now."""
        if mark is not None:
            self._mark = mark
            self._seen[mark] = None
            return
        for record in reversed(await self._feed.newest(_STEPS[0])):
            self._remember(record)

    async def stream(self) -> AsyncIterator[str]:
        """The text of the stream, until its reader leaves."""
        if self._feed.listeners >= MOST_STREAMS:
            return  # others began while this one started; who asks again is refused
        self._feed.listeners += 1
        try:
            yield f": runs as they end\nretry: {POLL_SECONDS * 4000:.0f}\n\n"
            quiet_since = anyio.current_time()
            while True:
                text = await self._next()
                if not text and anyio.current_time() - quiet_since >= BEAT_SECONDS:
                    text = ": nothing new\n\n"
                if text:
                    quiet_since = anyio.current_time()
                    yield text
                await anyio.sleep(POLL_SECONDS)
        finally:
            self._feed.listeners -= 1

    async def _next(self) -> str:
        try:
            fresh, missed = await self._fresh()
        except OmniDaemonError as error:
            return f"event: trouble\ndata: {_json({'detail': str(error)})}\n\n"  # it may pass
        parts = ["event: gap\ndata: {}\n\n"] if missed else []
        for record in reversed(fresh):
            self._remember(record)
            if (run := self._wanted(record)) is not None:
                parts.append(f"id: {self._mark}\nevent: run\ndata: {_json(run)}\n\n")
        return "".join(parts)

    async def _fresh(self) -> tuple[list[Record], bool]:
        """What is newer than the mark, newest first, and whether there may have been more."""
        fresh: list[Record] = []
        for limit in _STEPS:
            found = await self._feed.newest(limit)
            fresh = [
                record
                for record in found
                if (mark := Mark.of(record)).micros >= self._mark.micros and mark not in self._seen
            ]
            if len(fresh) < limit:
                return fresh, False
        return fresh, True

    def _remember(self, record: Record) -> None:
        self._mark = Mark.of(record)
        self._seen[self._mark] = None
        while len(self._seen) > _STEPS[-1]:
            del self._seen[next(iter(self._seen))]

    def _wanted(self, record: Record) -> RunEvent | None:
        if self._topic not in (None, record.label):
            return None
        try:
            run = _head.decode(record.value)
        except msgspec.MsgspecError:
            return None  # written by another version; lists show it as unreadable
        if self._tenant not in (None, run.tenant_id):
            return None
        return RunEvent(
            run.task_id,
            run.topic,
            run.agent,
            run.status,
            run.attempts,
            run.replays,
            None if run.cause is None else f"{run.cause.type}: {run.cause.message}",
            round(run.finished_at - run.started_at, 6),
            iso(run.finished_at),
            run.correlation_id,
            run.tenant_id,
        )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
