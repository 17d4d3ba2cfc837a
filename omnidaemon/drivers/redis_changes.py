"""Changes of records and counters as the scripts take them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from omnidaemon.messages import Count, Write

_RUN_MOST = 1_000  # Lua's stack takes some thousand arguments of a command


class Blobs(list[bytes]):
    """Bytes that go beside a script's map."""

    def place(self, value: bytes, what: str) -> int:
        """Adds bytes and returns where the script finds them."""
        if not isinstance(value, bytes):
            raise TypeError(f"{what} is {type(value).__name__}, and bytes are stored")
        self.append(value)
        return len(self) + 1  # the map is the first


def milliseconds(seconds: float | None) -> int:
    """Never less than asked for; -1 for None."""
    return -1 if seconds is None else math.ceil(seconds * 1000)


class _Runs:
    """The writes to one collection, in order; alike ones that follow each other make one run."""

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self.runs: list[tuple[str, list[bytes]]] = []
        self._parts: list[bytes] = []
        self._alike: tuple[str | None, float | None] | None = None
        self._header = b""

    def add(self, key: str, write: Write) -> None:
        if (write.label, write.ttl) != self._alike or len(self._parts) == 2 * _RUN_MOST:
            self._alike = (write.label, write.ttl)
            # A mark, so that no label and an empty one differ.
            label = "" if write.label is None else f"={write.label}"
            index = f"{milliseconds(write.ttl)}:{label}"
            self._header = b"%d:%s" % (len(index.encode()), index.encode())
            self._parts = []
            self.runs.append((index, self._parts))
        self._parts.append(key.encode())
        # What is no bytes raises TypeError here, before anything is sent.
        self._parts.append(self._header + cast(bytes, write.value))


def packed_changes(changes: Iterable[Write | Count], blobs: Blobs) -> dict[str, list[Any]]:
    """Counters summed up; of several writes to one record the last, alike ones together."""
    writes: dict[tuple[str, str], Write] = {}
    sums: dict[tuple[str, str, str], float] = {}
    for change in changes:
        if isinstance(change, Count):
            counter = (change.collection, change.key, change.field)
            sums[counter] = sums.get(counter, 0.0) + change.amount
        else:
            record = (change.collection, change.key)
            writes.pop(record, None)  # the order is that of the last writes: newest last
            writes[record] = change
    if not all(math.isfinite(amount) for amount in sums.values()):
        raise ValueError("a counter can only be changed by a finite amount")
    gone: dict[str, list[str]] = {}
    puts: dict[str, _Runs] = {}
    for (collection, key), write in writes.items():
        if write.value is None:
            gone.setdefault(collection, []).append(key)
            continue
        its_runs = puts.get(collection)
        if its_runs is None:
            its_runs = puts[collection] = _Runs(collection)
        its_runs.add(key, write)
    runs: list[list[Any]] = []
    for its_runs in puts.values():
        for index, parts in its_runs.runs:
            runs.append([its_runs.collection, index, len(blobs) + 2, len(parts) // 2])
            blobs += parts
    counts = [
        (collection, f"{len(key.encode())}:{key}{field}", amount)
        for (collection, key, field), amount in sums.items()
    ]
    return {"runs": runs, "gone": list(gone.items()), "counts": counts}
