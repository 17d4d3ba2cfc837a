"""What finds run records by more than their task and topic: by cause, correlation, and failure.

Entries are written by the settlement that writes the record, and only for a run that needs them:
one that succeeds at once, and belongs to nothing else, costs nothing. An entry's key ends with the
record's. What it says is looked up in the record, because an id may be used again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import quote

from msgspec import Struct

from omnidaemon.messages import Record, Write
from omnidaemon.records import (
    RESULTS,
    TENANT_RESULTS,
    RunRecord,
    RunStatus,
    run_key,
    runs_in,
    tenant_label,
)
from omnidaemon.stores.base import Store

CAUSES = "results.causes"
CORRELATIONS = "results.correlations"
FAILURES = "results.failures"


def index_changes(record: RunRecord, ttl: float) -> tuple[Write, ...]:
    """What a run changes besides its record, so that it is found."""
    changes: tuple[Write, ...] = ()
    if record.status != "succeeded":
        changes = (Write(FAILURES, run_key(record), b"", record.status, ttl),)
    elif record.attempts > 1 or record.replays:
        changes = (Write(FAILURES, run_key(record), None),)
    if record.causation_id or record.correlation_id:
        changes += tuple(Write(where, key, b"", ttl=ttl) for where, key in _entries(record))
    return changes


def _entries(record: RunRecord) -> list[tuple[str, str]]:
    key = run_key(record)
    named = ((CAUSES, record.causation_id), (CORRELATIONS, record.correlation_id))
    return [(where, _prefix(name) + key) for where, name in named if name]


def _prefix(name: str) -> str:
    """Any text may be a correlation id, one with slashes too."""
    return f"{quote(name, safe='')}/"


class Slice(Struct, frozen=True):
    """Some runs, newest first.

    Attributes:
        runs: Those found.
        places: Where each stands, to go on after it.
        looked: How many entries were looked at; what they led to may be gone.
        place: Where to go on; None if there was nothing older.
    """

    runs: list[RunRecord]
    places: list[str]
    looked: int
    place: str | None

    def only(self, wanted: Callable[[RunRecord], bool]) -> Slice:
        """The same without the runs that are not wanted."""
        kept = [pair for pair in zip(self.runs, self.places, strict=True) if wanted(pair[0])]
        return Slice([run for run, _ in kept], [at for _, at in kept], self.looked, self.place)


class RunIndex:
    """Run records by what they have in common.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def newest(self, topic: str | None, *, limit: int, before: str | None = None) -> Slice:
        """Runs of one topic or of all."""
        found = await self._store.browse(RESULTS, label=topic, limit=limit, before=before)
        places = [record.place for record in found]
        return Slice(runs_in(found), places, len(found), _place(found, limit))

    async def of_tenant(
        self, tenant_id: str, topic: str | None, *, limit: int, before: str | None = None
    ) -> Slice:
        """A tenant's runs, of one topic or of all."""
        label = tenant_label(tenant_id, topic)
        found = await self._store.browse(TENANT_RESULTS, label=label, limit=limit, before=before)
        slice_ = await self._read(found, [entry.key[1:] for entry in found], limit)
        return slice_.only(lambda run: run.tenant_id == tenant_id)

    async def failed(self, status: RunStatus, *, limit: int, before: str | None = None) -> Slice:
        """Runs that will be retried ("failed"), or were given up ("dead")."""
        found = await self._store.browse(FAILURES, label=status, limit=limit, before=before)
        slice_ = await self._read(found, [entry.key for entry in found], limit)
        return slice_.only(lambda run: run.status == status)

    async def correlated(
        self, correlation_id: str, *, limit: int, before: str | None = None
    ) -> Slice:
        """Runs of events with this correlation id."""
        slice_ = await self._prefixed(CORRELATIONS, correlation_id, limit, before)
        return slice_.only(lambda run: run.correlation_id == correlation_id)

    async def caused_by(self, task_id: str, *, limit: int) -> Slice:
        """Runs of events that this event caused."""
        slice_ = await self._prefixed(CAUSES, task_id, limit, None)
        return slice_.only(lambda run: run.causation_id == task_id)

    async def _prefixed(self, collection: str, name: str, limit: int, before: str | None) -> Slice:
        prefix = _prefix(name)
        found = await self._store.browse(collection, prefix=prefix, limit=limit, before=before)
        return await self._read(found, [entry.key.removeprefix(prefix) for entry in found], limit)

    async def _read(self, entries: list[Record], keys: list[str], limit: int) -> Slice:
        """What the entries lead to, as far as it is there."""
        read = await self._store.read(RESULTS, *keys)
        there = [
            (record, entry.place)
            for record, entry in zip(read, entries, strict=True)
            if record is not None
        ]
        runs = runs_in(record for record, _ in there)
        return Slice(runs, [at for _, at in there], len(entries), _place(entries, limit))

    async def forget(self, runs: Collection[RunRecord]) -> None:
        """Removes what leads to these runs."""
        entries = [entry for run in runs for entry in _entries(run)]
        for where in (CAUSES, CORRELATIONS):
            await self._store.remove(where, *(key for name, key in entries if name == where))
        await self._store.remove(FAILURES, *map(run_key, runs))


def _place(found: list[Record], limit: int) -> str | None:
    return found[-1].place if len(found) == limit else None
