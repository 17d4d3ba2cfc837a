"""A collection of the memory backend: records with expiry, newest last, and counters."""

from __future__ import annotations

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
        self._writes = count()

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

    def put(self, write: Write, value: bytes, *, now: float, unix: float) -> None:
        """Writes a record, as the newest."""
        self.drop(write.key)
        record = Record(write.key, value, write.label, unix)
        entry = Entry(record, next(self._writes), write.ttl is not None)
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
        fields = self.counters.setdefault(change.key, {})
        fields[change.field] = fields.get(change.field, 0.0) + change.amount

    def get(self, key: str) -> Record | None:
        """The record with this key."""
        entry = self._entries.get(key)
        return None if entry is None else entry.record

    def newest(self, prefix: str, label: str | None, limit: int) -> list[Record]:
        """The newest records with the prefix and the label; a label's alone are looked at."""
        keys: Iterable[str] = reversed(self._entries)
        if label is not None:
            keys = reversed(self._labels.get(label, OrderedDict()))
        found: list[Record] = []
        for key in keys:
            if len(found) >= limit:
                break
            if key.startswith(prefix):
                found.append(self._entries[key].record)
        return found
