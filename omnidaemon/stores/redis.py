"""The Redis store: records and counters beside the topics of the Redis transport."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.redis_changes import Blobs, packed_changes
from omnidaemon.drivers.redis_client import Client
from omnidaemon.errors import InvalidSettings, StoreError
from omnidaemon.messages import Count, Record, Write


class RedisStore(Client):
    """A store on Redis, a server or a cluster; any number of them, and of machines, share it.

    Args:
        url: `redis://host:6379/0`, `rediss://` or `unix://`;
            `redis+sentinel://host1:26379,host2:26379/service/0`;
            `redis+cluster://host1:6379,host2:6379`; `?prefix=` is what keys start with.
    """

    failure = StoreError

    async def write(self, *changes: Write | Count) -> None:
        """See the contract."""
        if changes:
            blobs = Blobs()
            packed = packed_changes(changes, blobs)
            collections = list({change.collection for change in changes})
            await self._run(
                scripts.WRITE, collections, blobs, changes=packed, collections=collections
            )

    async def read(self, collection: str, *keys: str) -> list[Record | None]:
        """See the contract."""
        if not keys:
            return []
        found = await self._run(scripts.READ, [collection], collection=collection, keys=keys)
        return [None if record is None else _record(*record) for record in found]

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
        arguments: dict[str, Any] = {"collection": collection, "limit": limit}
        if label is not None:
            arguments["label"] = f"={label}"
        start = prefix.encode()
        # No UTF-8 has the byte ff: beyond all that start so.
        between = [b"[" + start, b"(" + start + b"\xff"] if prefix else []
        if before is not None:
            arguments["before"], arguments["beside"] = _parsed(before)
        found = await self._run(scripts.BROWSE, [collection], between, **arguments)
        return [_record(*record) for record in found]

    async def remove(self, collection: str, *keys: str) -> int:
        """See the contract."""
        if not keys:
            return 0
        unique: Sequence[str] = list(dict.fromkeys(keys))
        found = await self._run(scripts.REMOVE, [collection], collection=collection, keys=unique)
        return int(found)

    async def totals(self, collection: str, *, prefix: str = "") -> dict[str, dict[str, float]]:
        """See the contract."""
        found = await self.call("HGETALL", self.keys.counts(collection))
        counters: dict[str, dict[str, float]] = {}
        for name, value in zip(found[::2], found[1::2], strict=True):
            length, _, rest = name.partition(b":")
            key, field = rest[: int(length)].decode(), rest[int(length) :].decode()
            if key.startswith(prefix):
                counters.setdefault(key, {})[field] = float(value)
        return counters

    async def clear(self, collection: str) -> int:
        """See the contract."""
        return int(await self._run(scripts.CLEAR, [collection], collection=collection))

    async def _run(
        self,
        script: scripts.Script,
        collections: Iterable[str],
        blobs: Sequence[bytes] = (),
        /,
        **arguments: Any,
    ) -> Any:
        keys = self.keys.collections(collections)
        return await self.run(script, keys, blobs, prefix=self.keys.records, **arguments)


def _parsed(before: str) -> tuple[int, str]:
    """A place is when it was written, in microseconds, and which record it is."""
    moment, _, key = before.partition("-")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 17):
        raise InvalidSettings(f"before={before[:100]!r} is no place that this store has given")
    return int(moment), key


def _record(key: bytes, written: int, stored: bytes, place: bytes = b"") -> Record:
    length, _, rest = stored.partition(b":")
    index = rest[: int(length)]
    label = index.partition(b":")[2]
    value = rest[int(length) :]
    name = key.decode()
    return Record(
        name,
        value,
        label[1:].decode() if label else None,
        written / 1000,
        f"{place.decode()}-{name}" if place else "",
    )
