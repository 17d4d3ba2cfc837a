"""A collection of the memory backend: records with expiry, newest last, and counters."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import count

from msgspec import Struct

from omnidaemon.messages import Count, Record, Write


class Entry(Struct, frozen=True, gc=False):
    """A record and the write that made it.

    Attributes:
        record: As the store gives it back.
        write: Which write it was; a record written again has a later one.
        mortal: True if it expires, and so stands in the shelf's queue of expiry.
    """

    record: Record
    write: int
    mortal: bool


class Shelf:
    """One collection. Its owner holds the lock and calls `sweep` before anything else."""

    def __init__(self) -> None:
        self.counters: dict[str, dict[str, float]] = {}
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._labels: dict[str, OrderedDict[str, None]] = {}
        self._expiry: list[tuple[float, int, str]] = []
        self._mortal = 0
        self._writes = count(1)
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        """How many keys there are, of records and of counters."""
        return len(self._entries.keys() | self.counters.keys())

    def sweep(self, now: float) -> None:
        """Drops what has expired: each record once, however often this is called."""
        while self._expiry and self._expiry[0][0] <= now:
            _, write, key = heappop(self._expiry)
            entry = self._entries.get(key)
            if entry is not None and entry.write == write:
                self.drop(key)

    def put(
        self, write: Write, value: bytes, *, now: float, unix: float, number: int | None = None
    ) -> None:
        """Writes a record, as the newest; `number` says which write it is."""
        if not self.drop(write.key) and self._sorted is not None:
            self._sorted.append(write.key)
            if len(self._sorted) > 2 * len(self._entries) + 1_000:
                self._sorted = None  # mostly keys of dropped records
        record = Record(write.key, value, write.label, unix)
        if number is None:
            number = next(self._writes)
        entry = Entry(record, number, write.ttl is not None)
        self._entries[write.key] = entry
        if write.label is not None:
            self._labels.setdefault(write.label, OrderedDict())[write.key] = None
        if write.ttl is not None:
            self._mortal += 1
            heappush(self._expiry, (now + write.ttl, entry.write, write.key))
            self._compact()

    def _compact(self) -> None:
        # A record that is rewritten long before it expires leaves its old expiry in the queue;
        # without this a heartbeat with a day to live would pile up thousands.
        if len(self._expiry) > 2 * self._mortal + 64:
            entries = self._entries
            self._expiry = [
                line
                for line in self._expiry
                if (entry := entries.get(line[2])) is not None and entry.write == line[1]
            ]
            heapify(self._expiry)

    def drop(self, key: str) -> bool:
        """Removes a record; False if there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._mortal -= entry.mortal
        label = entry.record.label
        if label is not None:
            labelled = self._labels[label]
            del labelled[key]
            if not labelled:
                del self._labels[label]
        return True

    def add(self, change: Count) -> None:
        """Adds to a counter."""
        fields = self.counters.get(change.key)
        if fields is None:
            fields = self.counters[change.key] = {}
        fields[change.field] = fields.get(change.field, 0.0) + change.amount

    def get(self, key: str) -> Record | None:
        """The record with this key."""
        entry = self._entries.get(key)
        return None if entry is None else entry.record

    def newest(
        self, prefix: str, label: str | None, limit: int, before: int | None = None
    ) -> list[Record]:
        """The newest records with the prefix and the label.

        Without a prefix a label's alone are looked at, with one those that start with it.
        """
        if prefix:
            return self._starting(prefix, label, limit, before)
        keys: Iterable[str] = reversed(self._entries)
        if label is not None:
            keys = reversed(self._labels.get(label, OrderedDict()))
        found: list[Record] = []
        for key in keys:
            if len(found) >= limit:
                break
            entry = self._entries[key]
            if before is None or entry.write < before:
                found.append(placed(entry))
        return found

    def _starting(
        self, prefix: str, label: str | None, limit: int, before: int | None
    ) -> list[Record]:
        """Keys are put in order when this is first asked for: a worker seldom does."""
        ordered = self._sorted
        if ordered is None:
            # Keys of dropped records stay in it, because each removal would move all the rest.
            ordered = self._sorted = list(self._entries)
        # What was added stands at the end, mostly in order: sorting is about one look at each.
        ordered.sort()
        found: dict[str, Entry] = {}
        for spot in range(bisect_left(ordered, prefix), len(ordered)):
            key = ordered[spot]
            if not key.startswith(prefix):
                break
            entry = self._entries.get(key)
            if (
                entry is not None
                and label in (None, entry.record.label)
                and (before is None or entry.write < before)
            ):
                found[key] = entry
        newest = sorted(found.values(), key=lambda entry: -entry.write)
        return [placed(entry) for entry in newest[: max(0, limit)]]


def placed(entry: Entry) -> Record:
    """The record with its place, which is made only for those who ask."""
    record = entry.record
    return Record(record.key, record.value, record.label, record.written, str(entry.write))
