"""The contract of stores: collections of keyed bytes with expiry, and counters.

Laws (`tests/contract/test_store_laws.py` holds every backend to them):

- `write` applies all of its changes or none.
- A record written again replaces the old one, with its label and time to live, and is the newest.
- An expired record is gone for every call, whether or not its bytes are removed yet.
- `browse` gives the newest first. Collections do not see each other.
- Going on from a record's place gives what was older, each once, whatever is written, removed or
  expires in between; what is written meanwhile is not among it, as it is newer.

Everything works from any event loop of the process, one after another, with no `close` between.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from omnidaemon.errors import InvalidSettings
from omnidaemon.messages import Count, Record, Write


def place_number(before: str | None) -> int | None:
    """A place that is a number, as most backends write it.

    Raises:
        InvalidSettings: It is none.
    """
    if before is None:
        return None
    if not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InvalidSettings(f"before={before[:100]!r} is no place that this store has given")
    return int(before)


class Store(Protocol):
    """Where records are kept.

    Attributes:
        backend: Names what is behind it (never a password); a transport with the same value
            shares it and can apply changes together with a settlement.
    """

    backend: str

    async def open(self) -> None:
        """Connects; every other call does so by itself when needed."""

    async def close(self) -> None:
        """Lets go of what it holds open; a later call connects again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def write(self, *changes: Write | Count) -> None:
        """Applies the changes in order, all or none."""

    async def read(self, collection: str, *keys: str) -> list[Record | None]:
        """The records with these keys, None where there is none."""

    async def browse(
        self,
        collection: str,
        *,
        prefix: str = "",
        label: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Record]:
        """The newest records whose key starts with `prefix` and, if given, have the label.

        Args:
            collection: Which set of records.
            prefix: What their keys start with.
            label: Only those with this label.
            limit: At most so many.
            before: The `place` of a record that `browse` gave; only older ones are given.

        Raises:
            InvalidSettings: `before` is none of this backend's places.
        """

    async def remove(self, collection: str, *keys: str) -> int:
        """Removes these records; returns how many there were."""

    async def totals(self, collection: str, *, prefix: str = "") -> dict[str, dict[str, float]]:
        """Counters by key and field."""

    async def clear(self, collection: str) -> int:
        """Removes the collection's records and counters; returns how many keys there were."""

    async def check(self) -> None:
        """Raises StoreError if the backend does not answer."""
