"""The JSON store's records: its file, and in memory where each record stands in it.

A write appends lines and waits for the disk once, however many records there are already. What was
replaced, removed or has expired stays in the file until that is as much as all the rest; then the
rest is copied to a new file. So each byte is copied about once more, on the average.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import msgspec

from omnidaemon.drivers import json_lines
from omnidaemon.drivers.json_file import JSONFile
from omnidaemon.drivers.json_index import Index, moment, place_of
from omnidaemon.drivers.json_lines import Line
from omnidaemon.errors import StoreError
from omnidaemon.messages import Record, Write

logger = logging.getLogger("omnidaemon.store")


class Records:
    """One folder's records. Its methods may be called from any thread, and wait for the disk.

    Args:
        folder: Where its file lies; made if it is missing.
        clock: Unix time in seconds, by which records expire.

    Attributes:
        waste: Bytes of lines without effect that a file may always hold.
    """

    waste: ClassVar[int] = 4_000_000

    def __init__(self, folder: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._file = JSONFile(folder)
        self._guard = threading.Lock()
        self._indexes: defaultdict[str, Index] = defaultdict(Index)
        self._unavoidable = 0
        self._sound = True

    def close(self) -> None:
        """Lets go of the files."""
        with self._guard:
            self._file.close()

    def forsake(self) -> None:
        """In a forked child: as `close`, but without a lock that a thread there may have held."""
        self._file.close()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Holds both locks, with all that other processes have written known here."""
        with self._guard, self._file.lock:
            if self._file.changed() or not self._sound:
                self._forget()
            self._sound = False
            self._catch_up()
            self._sound = True
            yield

    def _forget(self) -> None:
        self._indexes.clear()
        self._file.rewind()
        self._unavoidable = 0

    def _catch_up(self) -> None:
        group: list[tuple[int, int, Line]] = []
        open_lines = 0
        for position, data in self._file.unread():
            line = self._decoded(position, data)
            if line.lines and open_lines:
                raise self._file.damaged(
                    f"line {self._file.line_number(position)} begins a write within another"
                )
            open_lines = (open_lines or line.lines or 1) - (0 if line.lines else 1)
            group.append((position, len(data) + 1, line))
            if not open_lines:
                self._apply(group)
                group = []
        self._file.check_end()

    def _decoded(self, position: int, data: bytes) -> Line:
        try:
            line = json_lines.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            number = self._file.line_number(position)
            raise self._file.damaged(f"line {number} cannot be read ({error})") from error
        if not line.has_meaning():
            number = self._file.line_number(position)
            raise self._file.damaged(f"line {number} says nothing that is known here")
        return line

    def _apply(self, group: Sequence[tuple[int, int, Line]]) -> None:
        for position, length, line in group:
            self._file.end = position + length
            if line.lines:
                continue
            index = self._indexes[line.collection]
            if line.key is None:
                del self._indexes[line.collection]
            elif line.add is not None:
                index.add_line(line.collection, line.key, line.add)
            elif line.gone:
                index.drop(line.key)
            else:
                write = Write(line.collection, line.key, b"", line.label)
                index.put_line(
                    write,
                    position,
                    length,
                    written=line.written,
                    expires=line.expires,
                    number=line.number,
                )

    def _index(self, collection: str) -> Index:
        index = self._indexes.get(collection)
        if index is None:
            return Index()
        index.sweep(self._clock())
        return index

    # Reading

    def check(self) -> None:
        """Raises what stands in the way of using it."""
        with self._current():
            pass

    def read(self, collection: str, keys: Sequence[str]) -> list[Record | None]:
        """The records with these keys, None where there is none."""
        with self._current():
            index = self._index(collection)
            found = (index.get(key) for key in keys)
            return [None if one is None else self._filled(collection, one) for one in found]

    def browse(
        self, collection: str, prefix: str, label: str | None, limit: int, before: int | None
    ) -> list[Record]:
        """The newest records with the prefix and the label."""
        with self._current():
            index = self._index(collection)
            found = index.newest(prefix, label, limit, before)
            return [self._filled(collection, record) for record in found]

    def totals(self, collection: str, prefix: str) -> dict[str, dict[str, float]]:
        """Counters by key and field."""
        with self._current():
            counters = self._index(collection).counters
            return {key: dict(fields) for key, fields in counters.items() if key.startswith(prefix)}

    def _filled(self, collection: str, record: Record) -> Record:
        value = self._stored(collection, record)[1]
        return Record(record.key, value, record.label, record.written, record.place)

    def _stored(self, collection: str, record: Record) -> tuple[bytes, bytes]:
        """The line that a record stands in, and its value."""
        position, length = place_of(record)
        data = self._file.read(position, length)
        line = self._decoded(position, data)
        try:
            value = json_lines.value_of(line)
        except binascii.Error:
            value = None
        if value is None or (line.collection, line.key) != (collection, record.key):
            number = self._file.line_number(position)
            raise self._file.damaged(f"line {number} is not the record {record.key!r} any more")
        return data, value

    # Writing

    def write(self, writes: Sequence[Sequence[bytes]]) -> None:
        """Appends the lines of several writes, each whole or not at all, with one sync."""
        with self._current():
            self._append([line for lines in writes for line in lines])

    def remove(self, collection: str, keys: Sequence[str]) -> int:
        """Removes these records; returns how many there were."""
        with self._current():
            index = self._index(collection)
            there = [key for key in dict.fromkeys(keys) if index.get(key) is not None]
            gone = [Line(collection, key, written=self._clock(), gone=True) for key in there]
            self._append(json_lines.whole([json_lines.encode(line) for line in gone]))
            return len(there)

    def clear(self, collection: str) -> int:
        """Removes the collection's records and counters; returns how many keys there were."""
        with self._current():
            count = len(self._index(collection))
            if count:
                line = Line(collection, written=self._clock(), gone=True)
                self._append([json_lines.encode(line)])
            return count

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        position = self._file.end
        self._file.append(b"".join(lines))
        group = []
        for data in lines:
            group.append((position, len(data), json_lines.decode(data)))
            position += len(data)
        self._apply(group)
        if self._wasted() > self.waste:
            self._compact()

    def _wasted(self) -> int:
        """Bytes beyond what a new file could do with, and as much again."""
        now = self._clock()
        for index in self._indexes.values():
            index.sweep(now)
        live = self._unavoidable + sum(index.live for index in self._indexes.values())
        return self._file.end - 2 * live

    def _compact(self) -> None:
        try:
            self._file.replace(self._live_lines())
        except (OSError, StoreError) as error:
            # What was to be written is in the old file. The next try comes when as much again is.
            logger.error("%s could not be made smaller: %s", self._file.path, error)
            self._unavoidable = self._file.end
            return
        self._forget()
        self._catch_up()
        live = sum(index.live for index in self._indexes.values())
        self._unavoidable = self._file.end - live

    def _live_lines(self) -> Iterator[bytes]:
        for collection, index in self._indexes.items():
            for record in index.oldest_first():
                data, number = self._stored(collection, record)[0], int(record.place)
                alone = number == moment(record.written)
                yield data if alone else json_lines.numbered(data, number)
            for key, sums in index.counters.items():
                yield json_lines.encode(Line(collection, key, add=sums))
