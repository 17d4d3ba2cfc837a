"""Conversation by correlation_id: events that belong together share an id, and the agent a memory.

When: an answer depends on what was said before. The history lies in a table, not in the agent, so
that any worker can take the next turn.

Promised: a turn that is run again is remembered once, because the event's id is its key. Not
promised: order. Events of one conversation can overtake each other, so a caller waits for an answer
before the next turn, as people do.

    omnidaemon worker examples.patterns.conversation:app
    python -m examples.patterns.conversation
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio

from omnidaemon import App, Context
from omnidaemon.envelope import new_id

HISTORY = Path("conversations.db")

# --8<-- [start:agent]
app = App("conversation")


@app.agent("list.said")
def shopping_list(said: str, ctx: Context) -> str:
    """Keeps a shopping list for each conversation: `add milk`, `drop milk`, anything else shows."""
    # Without a correlation id, an event begins a conversation of its own.
    conversation = ctx.correlation_id or ctx.id
    with closing(sqlite3.connect(HISTORY)) as db, db:  # the inner `db` commits
        db.execute(
            "CREATE TABLE IF NOT EXISTS turns (n INTEGER PRIMARY KEY, event TEXT UNIQUE,"
            " conversation TEXT, said TEXT)"
        )
        db.execute(
            "INSERT OR IGNORE INTO turns (event, conversation, said) VALUES (?, ?, ?)",
            (ctx.id, conversation, said),
        )
        turns = db.execute(
            "SELECT said FROM turns WHERE conversation = ? ORDER BY n", (conversation,)
        ).fetchall()
    wanted: dict[str, None] = {}
    for (turn,) in turns:
        verb, _, thing = turn.partition(" ")
        if verb == "add":
            wanted[thing] = None
        elif verb == "drop":
            wanted.pop(thing, None)
    return ", ".join(wanted) or "nothing"


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        ada, ben = new_id(), new_id()
        for conversation, said in (
            (ada, "add milk"),
            (ben, "add tea"),
            (ada, "add bread"),
            (ada, "drop milk"),
            (ben, "what now?"),
        ):
            answer = await app.request("list.said", said, correlation_id=conversation, timeout=20)
            print(f"{'ada' if conversation == ada else 'ben'}: {said} -> {answer}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
