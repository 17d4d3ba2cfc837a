"""Changes of records and counters as the scripts take them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from omnidaemon.messages import Count, Write

_RUN_MOST = 1_000  # Lua's stack takes some thousand arguments of a command
_Alike = tuple[str, str | None, float | None]
"""Collection, label and time to live, which make one index."""


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
    found: list[tuple[str, str, list[bytes]]] = []
    latest: dict[str, tuple[_Alike, list[bytes], bytes]] = {}
    alike: _Alike | None = None
    parts: list[bytes] = []
    header = b""
    for (collection, key), write in writes.items():
        if write.value is None:
            gone.setdefault(collection, []).append(key)
            continue
        its_alike = (collection, write.label, write.ttl)
        if its_alike != alike or len(parts) == 2 * _RUN_MOST:
            alike = its_alike
            # Those of one collection stay in order; another one's may stand in between.
            run = latest.get(collection)
            if run is None or run[0] != alike or len(run[1]) == 2 * _RUN_MOST:
                # A mark, so that no label and an empty one differ.
                label = "" if write.label is None else f"={write.label}"
                index = f"{milliseconds(write.ttl)}:{label}"
                header = b"%d:%s" % (len(index.encode()), index.encode())
                run = latest[collection] = (alike, [], header)
                found.append((collection, index, run[1]))
            _, parts, header = run
        parts.append(key.encode())
        # What is no bytes raises TypeError here, before anything is sent.
        parts.append(header + write.value)
    runs: list[list[Any]] = []
    for collection, index, parts in found:
        runs.append([collection, index, len(blobs) + 2, len(parts) // 2])
        blobs += parts
    counts = [
        (collection, f"{len(key.encode())}:{key}{field}", amount)
        for (collection, key, field), amount in sums.items()
    ]
    return {"runs": runs, "gone": list(gone.items()), "counts": counts}
