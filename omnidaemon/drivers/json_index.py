"""Where the JSON store's records stand in its file: one collection, kept in memory."""

from __future__ import annotations

import struct

from omnidaemon.drivers.memory_records import Shelf, placed
from omnidaemon.messages import Count, Record, Write

_PLACE = struct.Struct("<QI")


class Index(Shelf):
    """A shelf whose records have, for a value, the place of their line.

    Attributes:
        live: Bytes of the lines that records stand in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self._latest = 0

    def put_line(
        self,
        write: Write,
        position: int,
        length: int,
        *,
        written: float,
        expires: float | None,
        number: int | None,
    ) -> None:
        """Notes where a record stands, which is the newest then."""
        if expires is not None:
            write = Write(write.collection, write.key, b"", write.label, expires - written)
        # About its time in microseconds. It stays the same wherever the file is read; where lines
        # before it were taken out, and it had its number for their sake, the line says it.
        self._latest = max(self._latest + 1, number or moment(written))
        place = _PLACE.pack(position, length)
        self.put(write, place, now=written, unix=written, number=self._latest)
        self.live += length

    def drop(self, key: str) -> bool:
        """See Shelf."""
        record = self.get(key)
        if record is not None:
            self.live -= place_of(record)[1]
        return super().drop(key)

    def add_line(self, collection: str, key: str, sums: dict[str, float]) -> None:
        """Adds to counters."""
        for field, amount in sums.items():
            self.add(Count(collection, key, field, amount))

    def oldest_first(self) -> list[Record]:
        """All records, with their places."""
        return [placed(entry) for entry in self._entries.values()]


def moment(written: float) -> int:
    """The number of a write that is the only one of its time."""
    return int(written * 1_000_000)


def place_of(record: Record) -> tuple[int, int]:
    """Where the record's line begins, and how long it is, in bytes."""
    position, length = _PLACE.unpack(record.value)
    return position, length
