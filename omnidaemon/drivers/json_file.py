"""The file of the JSON store: lines that are only ever appended, and replaced as a whole.

Who uses it holds its lock. The lock file also says up to which byte the lines are complete, so that
an unfinished write, which nobody was told of, can be told from a file that somebody has cut short.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator

from omnidaemon.drivers.file_lock import HAS_FLOCK, FileLock
from omnidaemon.errors import ConfigurationError, StoreError

logger = logging.getLogger("omnidaemon.store")

NAME = "records.jsonl"
FORMAT = 1
_HEADER = re.compile(rb'\{"omnidaemon":"records","format":(\d+),"id":"([0-9a-f]{16})"\}\n')
_HEADER_MOST = 100
_MARK = re.compile(r"([0-9a-f]{16}) (\d{16})\n")
_CHUNK = 4_000_000
_sync = getattr(os, "fdatasync", os.fsync)


class Damaged(StoreError):
    """The file is not what was written: nothing is taken from it, and nothing written to it."""


class Moved(StoreError):
    """The lock file was removed while it was in use: it locks nobody out any more."""


class JSONFile:
    """The file in a folder, and its lock; both are made if they are missing.

    Attributes:
        path: The file.
        lock: Held around everything else here.
        end: Where the complete lines known here end, in bytes.
    """

    def __init__(self, folder: str) -> None:
        if not HAS_FLOCK:
            raise ConfigurationError(
                "json: needs file locks (flock), which this system lacks: set"
                " STORAGE_BACKEND=sqlite"
            )
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, NAME)
        self._lock_path = os.path.join(folder, "records.lock")
        self._mark = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        self.lock = FileLock(self._lock_path)  # opened last: see `changed`
        self._file = -1
        self._id = b""
        self._header = b""
        self.end = 0

    def close(self) -> None:
        """Lets go of both files."""
        self.lock.close()
        for opened in (self._mark, self._file):
            if opened >= 0:
                os.close(opened)
        self._mark = self._file = -1

    def changed(self) -> bool:
        """Makes the file current; True if it is another than before, and is to be read anew."""
        if not _same(_there(self._lock_path), self._mark):
            raise Moved(f"{self._lock_path} was removed while it was in use: try again")
        there = _there(self.path)
        if there is not None and self._file >= 0 and _same(there, self._file):
            if os.pread(self._file, len(self._header), 0) != self._header:
                raise self.damaged("its first line has changed")
            if there.st_size < self.end:
                raise self.damaged(f"it is shorter than the {self.end:,} bytes written to it")
            return False
        if there is None:
            if self._file >= 0:
                logger.warning("%s is gone, with all its records: a new one is begun", self.path)
            self.replace(())
        else:
            self._open()
        return True

    def _open(self) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND)
        try:
            header = _HEADER.match(os.pread(file, _HEADER_MOST, 0))
            if header is None:
                raise self.damaged("its first line is not that of a file of records")
            if int(header[1]) > FORMAT:
                raise StoreError(
                    f"{self.path} was made by a newer version (format {int(header[1])}, and"
                    f" {FORMAT} is known here): update this one; nothing was changed"
                )
        except BaseException:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._id, self._header = file, header[2], header[0]
        self.rewind()

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """The lines after `end`, each with where it begins; what has no end of line is left out."""
        position, rest = self.end, b""
        while chunk := os.pread(self._file, _CHUNK, position + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield position, line
                position += len(line) + 1

    def rewind(self) -> None:
        """Goes back to before the first line."""
        self.end = len(self._header)

    def line_number(self, position: int) -> int:
        """The number of the line that begins there, from 1, as editors count."""
        return os.pread(self._file, position, 0).count(b"\n") + 1

    def read(self, position: int, length: int) -> bytes:
        """The bytes at a place."""
        return os.pread(self._file, length, position)

    def check_end(self) -> None:
        """Raises Damaged if lines once complete are missing after `end`."""
        mark = _MARK.fullmatch(os.pread(self._mark, 64, 0).decode(errors="replace"))
        if mark is not None and mark[1].encode() == self._id and self.end < int(mark[2]):
            raise self.damaged(
                f"its lines are complete up to byte {self.end:,}, and {int(mark[2]):,} were written"
            )

    def append(self, data: bytes) -> None:
        """Adds complete lines after `end`, synced to the disk, or changes nothing.

        Raises:
            OSError: The disk is full, or failed.
        """
        self._set_unfinished_aside()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
            _sync(self._file)
        except OSError:
            os.ftruncate(self._file, self.end)
            raise
        self._set_mark(self.end + len(data))

    def _set_unfinished_aside(self) -> None:
        """Keeps what a writer that was killed has left, in a file of its own."""
        left = os.fstat(self._file).st_size - self.end
        if not left:
            return
        aside = f"{self.path}.unfinished-{secrets.token_hex(4)}"
        with open(aside, "xb") as file:
            file.write(os.pread(self._file, left, self.end))
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(self._file, self.end)
        logger.warning(
            "%s ended in %d bytes of a write that was never finished nor reported as done: they"
            " are in %s now",
            self.path,
            left,
            aside,
        )

    def replace(self, lines: Iterable[bytes]) -> None:
        """Puts a new file with these lines in the place of the old one, all at once.

        Raises:
            OSError: The disk is full, or failed; the old file is still there.
        """
        header = b'{"omnidaemon":"records","format":%d,"id":"%s"}\n' % (
            FORMAT,
            secrets.token_hex(8).encode(),
        )
        new = f"{self.path}.new"
        try:
            with open(new, "wb", buffering=1 << 20) as file:
                file.write(header)
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.replace(new, self.path)
        except BaseException:
            if os.path.exists(new):
                os.unlink(new)
            raise
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._open()
        self._set_mark(size)

    def _set_mark(self, end: int) -> None:
        # Not synced: it outlives a killed process without, and after a power cut an older mark
        # says less, and nothing wrong, because what it speaks of was synced before.
        os.pwrite(self._mark, f"{self._id.decode()} {end:016d}\n".encode(), 0)

    def damaged(self, what: str) -> Damaged:
        """The error that says so, and what to do."""
        return Damaged(
            f"{self.path} is damaged: {what}. Nothing was changed. Stop the workers; then put a"
            f" sound copy in its place, or correct it, and remove {self._lock_path}; or move it"
            " away, to begin anew without its records"
        )


def _there(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _same(there: os.stat_result | None, opened: int) -> bool:
    if there is None:
        return False
    ours = os.fstat(opened)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
