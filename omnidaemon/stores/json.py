"""The JSON store: records and counters as lines of JSON in a folder that people can read.

Any number of processes of one machine share the folder. The file is only appended to, so that a
write costs the same however much is kept; see `omnidaemon/drivers/json_records.py`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from omnidaemon.drivers import json_lines
from omnidaemon.drivers.file_lock import Locked
from omnidaemon.drivers.json_file import Moved
from omnidaemon.drivers.json_records import Records
from omnidaemon.drivers.opened import Opened
from omnidaemon.errors import ConfigurationError, StoreError
from omnidaemon.messages import Count, Record, Write
from omnidaemon.stores.base import place_number

T = TypeVar("T")

DEFAULT_FOLDER = ".omnidaemon_data"

# A place of its own among the threads: those of handlers may all be busy for long. One is
# enough, as the file has one lock, and lets writes gather behind the one that waits for the disk.
_threads: RunVar[CapacityLimiter] = RunVar("omnidaemon_json_threads")


class _Waiting:
    """A write that has not reached the disk."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.done = False


class JSONStore(Opened):
    """A store in a folder; any number of them, and of processes of the machine, share it.

    Args:
        url: `json:relative/folder`, `json:///absolute/folder`, or `json:` for `.omnidaemon_data`.
        clock: Unix time in seconds, by which records expire.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = _folder_of(url)
        self.backend = f"json:{self._folder}"
        self._clock = clock
        self._guard = threading.Lock()
        self._opened: Records | None = None
        self._process = 0
        self._writing = threading.Lock()
        self._waiting: deque[_Waiting] = deque()

    async def open(self) -> None:
        """See the contract."""
        await self.check()

    async def close(self) -> None:
        """See the contract."""
        with self._guard:
            records, self._opened = self._opened, None
        if records is not None and self._process == os.getpid():
            await to_thread.run_sync(records.close, limiter=_limiter())

    async def write(self, *changes: Write | Count) -> None:
        """See the contract; writes that come at the same time share one wait for the disk."""
        if not changes:
            return
        waiting = _Waiting(json_lines.of_changes(changes, self._clock()))
        self._waiting.append(waiting)

        def work(records: Records) -> None:
            if not waiting.done:
                self._write_waiting(records)

        try:
            await self._run(work)
        finally:
            with contextlib.suppress(ValueError):  # cancelled, or failed, before its turn
                self._waiting.remove(waiting)

    def _write_waiting(self, records: Records) -> None:
        with self._writing:
            batch = []
            while self._waiting:
                batch.append(self._waiting.popleft())
            try:
                records.write([waiting.lines for waiting in batch])
            except BaseException:
                # Each writes for itself then, and hears of its own error.
                self._waiting.extendleft(reversed(batch))
                raise
            for waiting in batch:
                waiting.done = True

    async def read(self, collection: str, *keys: str) -> list[Record | None]:
        """See the contract."""
        if not keys:
            return []
        return await self._run(lambda records: records.read(collection, keys))

    async def browse(
        self,
        collection: str,
        *,
        prefix: str = "",
        label: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Record]:
        """See the contract."""
        number = place_number(before)
        return await self._run(
            lambda records: records.browse(collection, prefix, label, limit, number)
        )

    async def remove(self, collection: str, *keys: str) -> int:
        """See the contract."""
        if not keys:
            return 0
        return await self._run(lambda records: records.remove(collection, keys))

    async def totals(self, collection: str, *, prefix: str = "") -> dict[str, dict[str, float]]:
        """See the contract."""
        return await self._run(lambda records: records.totals(collection, prefix))

    async def clear(self, collection: str) -> int:
        """See the contract."""
        return await self._run(lambda records: records.clear(collection))

    async def check(self) -> None:
        """See the contract."""
        await self._run(lambda records: records.check())

    async def _run(self, work: Callable[[Records], T]) -> T:
        def attempt() -> T:
            try:
                try:
                    return work(self._records())
                except Moved:
                    self._reopen()
                    return work(self._records())
            except Locked as error:
                raise StoreError(f"the JSON store in {self._folder} is {error}") from error
            except OSError as error:
                raise StoreError(
                    f"the JSON store in {self._folder} cannot be used: {error}; see whether the"
                    " folder can be written to and the disk has room"
                ) from error

        return await to_thread.run_sync(attempt, limiter=_limiter())

    def _records(self) -> Records:
        with self._guard:  # several event loops may come at once, and it is opened once
            if self._opened is not None and self._process != os.getpid():
                self._opened.forsake()
                self._opened = None
            if self._opened is None:
                self._opened = Records(self._folder, self._clock)
                self._process = os.getpid()
            return self._opened

    def _reopen(self) -> None:
        with self._guard:
            records, self._opened = self._opened, None
        if records is not None:
            records.close()


def _limiter() -> CapacityLimiter:
    try:
        return _threads.get()
    except LookupError:
        limiter = CapacityLimiter(1)
        _threads.set(limiter)
        return limiter


def _folder_of(url: str) -> str:
    scheme, _, rest = url.partition(":")
    if scheme != "json":
        raise ConfigurationError(f"{url!r} is no URL of a JSON store: write json:path/to/folder")
    path = rest.removeprefix("//") or DEFAULT_FOLDER
    if path.startswith("/"):
        path = "/" + path.lstrip("/")
    return os.path.realpath(path)
