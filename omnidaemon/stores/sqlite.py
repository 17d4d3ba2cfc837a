"""The SQLite store: records and counters in the file that the SQLite transport uses as well."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from omnidaemon.drivers.sqlite_client import Client
from omnidaemon.drivers.sqlite_records import apply_changes
from omnidaemon.errors import StoreError
from omnidaemon.messages import Count, Record, Write
from omnidaemon.stores.base import place_number

_LIVE = "(expires IS NULL OR expires > :now)"

# Numbers first, values after: sorting must not carry the values along.
_BROWSE = """
SELECT r.key, r.value, r.label, r.written, CAST(r.n AS TEXT) FROM
    (SELECT n FROM records {index} WHERE collection = :collection AND {condition} AND {live}
        ORDER BY n DESC LIMIT :limit) newest
CROSS JOIN records r ON r.n = newest.n ORDER BY r.n DESC
"""


class SQLiteStore(Client):
    """A store on a file; any number of them, and of processes, share it.

    Args:
        url: `sqlite:///absolute/path`, `sqlite:relative/path`, or `sqlite+fast:` likewise.
        clock: Unix time in seconds, by which records expire.
    """

    failure = StoreError

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(url, clock)

    async def write(self, *changes: Write | Count) -> None:
        """See the contract."""
        if changes:
            await self.run(lambda connection: apply_changes(connection, changes, self.clock()))

    async def read(self, collection: str, *keys: str) -> list[Record | None]:
        """See the contract."""
        values = self._values(collection, keys=json.dumps(keys))

        def work(connection: sqlite3.Connection) -> list[Record | None]:
            rows = connection.execute(
                "SELECT key, value, label, written FROM records WHERE collection = :collection"
                f" AND key IN (SELECT value FROM json_each(:keys)) AND {_LIVE}",
                values,
            )
            records = {row[0]: Record(*row) for row in rows}
            return [records.get(key) for key in keys]

        return await self.run(work, write=False)

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
        values = self._values(collection, label=label, limit=limit, before=place_number(before))
        # Named, because SQLite has no statistics here and guesses wrong about large collections.
        condition, index = "1", "INDEXED BY records_newest"
        if label is not None:
            condition, index = "label = :label", "INDEXED BY records_label"
        if prefix:
            between, bounds = _starting_with(prefix)
            condition, index = f"{condition} AND {between}", ""
            values |= bounds
        if before is not None:
            # The sign keeps it out of the choice of an index.
            condition += " AND +n < :before" if prefix else " AND n < :before"
        statement = _BROWSE.format(index=index, condition=condition, live=_LIVE)

        def work(connection: sqlite3.Connection) -> list[Record]:
            return [Record(*row) for row in connection.execute(statement, values)]

        return await self.run(work, write=False)

    async def remove(self, collection: str, *keys: str) -> int:
        """See the contract."""
        values = self._values(collection, keys=json.dumps(keys))

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM records WHERE collection = :collection"
                f" AND key IN (SELECT value FROM json_each(:keys)) AND {_LIVE}",
                values,
            ).rowcount

        return await self.run(work)

    async def totals(self, collection: str, *, prefix: str = "") -> dict[str, dict[str, float]]:
        """See the contract."""
        between, bounds = _starting_with(prefix)
        values = self._values(collection, **bounds)

        def work(connection: sqlite3.Connection) -> dict[str, dict[str, float]]:
            counters: dict[str, dict[str, float]] = {}
            for key, field, value in connection.execute(
                "SELECT key, field, value FROM counters"
                f" WHERE collection = :collection AND {between}",
                values,
            ):
                counters.setdefault(key, {})[field] = value
            return counters

        return await self.run(work, write=False)

    async def clear(self, collection: str) -> int:
        """See the contract."""
        values = self._values(collection)

        def work(connection: sqlite3.Connection) -> int:
            (count,) = connection.execute(
                "SELECT count(*) FROM (SELECT key FROM records WHERE collection = :collection"
                f" AND {_LIVE} UNION SELECT key FROM counters WHERE collection = :collection)",
                values,
            ).fetchone()
            connection.execute("DELETE FROM records WHERE collection = ?", (collection,))
            connection.execute("DELETE FROM counters WHERE collection = ?", (collection,))
            return int(count)

        return await self.run(work)

    async def check(self) -> None:
        """See the contract."""
        await self.run(lambda connection: connection.execute("SELECT 1 FROM records"), write=False)

    def _values(self, collection: str, **more: object) -> dict[str, Any]:
        return {"collection": collection, "now": self.clock(), **more}


def _starting_with(prefix: str) -> tuple[str, dict[str, str]]:
    """A condition on `key` that an index can answer, and its values.

    What starts with a prefix lies between it and the prefix with its last character raised; SQLite
    orders text by code point here. LIKE would not tell upper case from lower.
    """
    bounds = {"prefix": prefix}
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1])
        if code < 0x10FFFF:
            # The code points of surrogates are no characters: no text has them.
            following = 0xE000 if code == 0xD7FF else code + 1
            return "key >= :prefix AND key < :beyond", bounds | {
                "beyond": prefix[: end - 1] + chr(following)
            }
    return "key >= :prefix", bounds
