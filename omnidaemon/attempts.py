"""Earlier runs of a task: what a record is told of them when the task is run once more.

A record is replaced by each run. What runs and succeeds at once pays nothing for this: only where
an event was tried before is its old record read, just before the settlement that replaces it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from omnidaemon.messages import Settlement, Verdict, Write
from omnidaemon.outcomes import Cause
from omnidaemon.records import RESULTS, Attempt, RunRecord, runs_in
from omnidaemon.stores.base import Store

KEPT = 10
"""Earlier runs that a record remembers: each takes about 200 bytes, and a message at most this."""
MESSAGE_MOST = 500

Settle = Callable[[list[Settlement]], Awaitable[Sequence[Verdict]]]

_run = msgspec.json.Decoder(RunRecord)


def remembering(store: Store, settle: Settle) -> Settle:
    """Settles with the earlier runs in the records of those events that had some.

    They are within the record's bytes, so the settlement is the same single step as without them.
    Raises what `store` and `settle` raise; the same call may then be made again.
    """

    async def remember_and_settle(batch: list[Settlement]) -> Sequence[Verdict]:
        tried = [s for s in batch if s.delivery.attempt > 1 or s.delivery.replays]
        return await settle(await _remembered(store, batch) if tried else batch)

    return remember_and_settle


async def _remembered(store: Store, batch: list[Settlement]) -> list[Settlement]:
    keys = {key for s in batch if (key := _record_key(s)) is not None}
    if not keys:  # what is handed back needs no store, which may be away
        return batch
    found = [record for record in await store.read(RESULTS, *keys) if record is not None]
    earlier = dict(zip((record.key for record in found), runs_in(found), strict=True))
    return [_told(settlement, earlier.get(_record_key(settlement) or "")) for settlement in batch]


def _record_key(settlement: Settlement) -> str | None:
    """The key of the record it writes, if its event was tried before."""
    delivery, changes = settlement.delivery, settlement.changes
    if delivery.attempt == 1 and not delivery.replays:
        return None
    first = changes[0] if changes else None
    return first.key if isinstance(first, Write) and first.collection == RESULTS else None


def _told(settlement: Settlement, earlier: RunRecord | None) -> Settlement:
    first = settlement.changes[0] if settlement.changes else None
    if earlier is None or not isinstance(first, Write) or first.value is None:
        return settlement
    record = _run.decode(first.value)
    if (earlier.started_at, earlier.worker) == (record.started_at, record.worker):
        return settlement  # it is this very run, whose settlement comes again
    history = (*earlier.history, _attempt(earlier))[-KEPT:]
    value = msgspec.json.encode(msgspec.structs.replace(record, history=history))
    write = msgspec.structs.replace(first, value=value)
    news = None if settlement.news is None else value  # who is told of it sees what is kept
    return msgspec.structs.replace(settlement, changes=(write, *settlement.changes[1:]), news=news)


def _attempt(run: RunRecord) -> Attempt:
    cause = run.cause
    return Attempt(
        run.attempts,
        run.replays,
        run.status,
        run.started_at,
        run.finished_at,
        None if cause is None else Cause(cause.type, cause.message[:MESSAGE_MOST]),
        run.retry_at,
        run.worker,
        run.crashes,
    )
