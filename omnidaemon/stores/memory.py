"""The memory store: records of one process, gone with it."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import checkpoint

from omnidaemon.drivers.memory import check_changes, open_board
from omnidaemon.drivers.memory_records import Shelf
from omnidaemon.drivers.opened import Opened
from omnidaemon.messages import Count, Record, Write
from omnidaemon.stores.base import place_number


class MemoryStore(Opened):
    """A store on a board of this process; a transport with the same name shares it.

    Args:
        url: `memory://name`, or `memory` for a board of its own.
        clock: What it reads the time from, in seconds: the same for all who share the board. None
            for the event loop's time.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._board = open_board(url)
        self.backend = self._board.backend
        self._clock = clock

    def _shelf(self, collection: str) -> Shelf:
        return self._board.shelf(collection, self._board.now(self._clock))

    async def write(self, *changes: Write | Count) -> None:
        """See the contract."""
        await checkpoint()  # one who writes in a loop lets the others run
        check_changes(changes)
        with self._board.lock:
            self._board.apply(changes, self._board.now(self._clock))

    async def read(self, collection: str, *keys: str) -> list[Record | None]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            shelf = self._shelf(collection)
            return [shelf.get(key) for key in keys]

    async def browse(
        self,
        collection: str,
        *,
        prefix: str = "",
        label: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Record]:
        """See the contract; with a label, only its records are looked at."""
        await checkpoint()
        number = place_number(before)
        with self._board.lock:
            return self._shelf(collection).newest(prefix, label, limit, number)

    async def remove(self, collection: str, *keys: str) -> int:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            shelf = self._shelf(collection)
            return sum(shelf.drop(key) for key in keys)

    async def totals(self, collection: str, *, prefix: str = "") -> dict[str, dict[str, float]]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            counters = self._shelf(collection).counters
            return {key: dict(fields) for key, fields in counters.items() if key.startswith(prefix)}

    async def clear(self, collection: str) -> int:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            return len(self._board.take_down(collection, self._board.now(self._clock)))

    async def check(self) -> None:
        """See the contract."""
