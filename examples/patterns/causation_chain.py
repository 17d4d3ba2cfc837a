"""Causation chain: each event names the event that caused it, so what happened can be told.

When: somebody will ask why a parcel was sent. `ctx.send` and replies carry on the correlation id
and set the causation id; an agent beside the others writes the trail down.

Promised: the trail has each event once, by its id. Not promised: that a cause is written down
before its effect, or that `ctx.send` publishes once: it publishes at once, and a run that is
repeated publishes again, another event with the same cause. A reply (`reply_to`) is published once.

    omnidaemon worker examples.patterns.causation_chain:app
    python -m examples.patterns.causation_chain
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio

from omnidaemon import App, Context

TRAIL = Path("trail.db")

# --8<-- [start:agent]
app = App("causation-chain")


@app.agent("order.placed")
async def reserve(order: dict[str, int], ctx: Context) -> None:
    for product, count in order.items():
        await ctx.send("stock.reserved", {"product": product, "count": count})


@app.agent("stock.reserved")
async def ship(line: dict[str, object], ctx: Context) -> None:
    await ctx.send("parcel.wanted", {"label": f"{line['count']} × {line['product']}"})


@app.agent("order.placed", name="trail")
@app.agent("stock.reserved", name="trail")
@app.agent("parcel.wanted", name="trail")
def write_down(ctx: Context) -> None:
    """Listens to all three topics; a repeat changes nothing."""
    with closing(open_trail()) as db, db:
        db.execute(
            "INSERT OR IGNORE INTO trail VALUES (?, ?, ?, ?)",
            (ctx.id, ctx.causation_id, ctx.correlation_id or ctx.id, ctx.topic),
        )


def open_trail() -> sqlite3.Connection:
    db = sqlite3.connect(TRAIL)
    db.execute(
        "CREATE TABLE IF NOT EXISTS trail"
        " (event TEXT PRIMARY KEY, cause TEXT, correlation TEXT, topic TEXT)"
    )
    return db


def story(correlation: str) -> list[str]:
    """Every event of one order, indented below its cause."""
    with closing(open_trail()) as db:
        rows = db.execute(
            "WITH RECURSIVE told(event, topic, depth, place) AS ("
            " SELECT event, topic, 0, event FROM trail WHERE correlation = ? AND cause IS NULL"
            " UNION ALL SELECT t.event, t.topic, depth + 1, place || t.event"
            " FROM trail t JOIN told ON t.cause = told.event) "
            "SELECT topic, depth FROM told ORDER BY place",
            (correlation,),
        ).fetchall()
    return [f"{'  ' * depth}{topic}" for topic, depth in rows]


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        first = await app.send("order.placed", {"lamp": 1, "bulb": 3})
        with anyio.fail_after(20):
            while len(told := story(first.id)) < 5:
                await anyio.sleep(0.1)
    print("\n".join(told))


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
