"""Idempotent handler: an event that is run twice takes effect once.

When: an agent changes something outside that must not change twice. Delivery is at least once: a
worker can die after the work and before its settlement, and then the event is run again.

Promised: the booking and its key are written in one transaction, so either both are there or
neither, and a repeat finds the key and returns the first receipt. It holds because the key lies in
the same database as the effect. Not promised: the same for an effect elsewhere. A payment provider
or a mail server must be handed the key and keep it itself.

    omnidaemon worker examples.patterns.idempotent_handler:app
    python -m examples.patterns.idempotent_handler
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from omnidaemon import App, Context
from omnidaemon.app import CallNext

BOOKS = Path("books.db")


async def crash_once(ctx: Context, call_next: CallNext) -> Any:
    """Fails every first run after its work, as a crash at the worst moment would: to show it."""
    result = await call_next(ctx)
    if ctx.attempt == 1:
        raise ConnectionError("lost after the work, before the settlement")
    return result


app = App("idempotent-handler", middleware=[crash_once])


# --8<-- [start:agent]
class Payment(Struct):
    invoice: str
    account: str
    cents: int


@app.agent("payment.due")
def book(payment: Payment, ctx: Context) -> dict[str, object]:
    """Books a payment once, however often it is run.

    The key is the invoice. `ctx.id` would do against repeated runs; the invoice also stops a
    publisher that sends the same payment twice, as two events.
    """
    with closing(open_books()) as db:
        # IMMEDIATE: of two workers with the same payment one waits here, then finds the key.
        db.execute("BEGIN IMMEDIATE")
        key = f"pay:{payment.invoice}"
        row = db.execute("SELECT receipt FROM keys WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return {"receipt": row[0], "repeat": True}
        entry = (payment.account, payment.cents)
        receipt = db.execute("INSERT INTO entries VALUES (NULL, ?, ?)", entry).lastrowid
        db.execute("INSERT INTO keys VALUES (?, ?)", (key, receipt))
        db.execute("COMMIT")
    return {"receipt": receipt, "repeat": False}


def open_books() -> sqlite3.Connection:
    db = sqlite3.connect(BOOKS, isolation_level=None, timeout=30)
    db.execute("CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, receipt INTEGER)")
    db.execute("CREATE TABLE IF NOT EXISTS entries (n INTEGER PRIMARY KEY, account, cents INTEGER)")
    return db


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    payment = Payment("2026-17", "ada", 2950)
    async with app:
        print(await app.request("payment.due", payment, timeout=20))  # was run twice
        print(await app.request("payment.due", payment, timeout=20))  # and was sent twice
    with closing(open_books()) as db:
        print(db.execute("SELECT account, count(*), sum(cents) FROM entries GROUP BY 1").fetchall())


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
