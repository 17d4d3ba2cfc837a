"""The table `moderation_reviews`; `python -m examples.content_moderation.reviews` shows it."""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from examples.content_moderation.settings import load
from examples.content_moderation.values import Verdict

_TABLE = """
CREATE TABLE IF NOT EXISTS moderation_reviews (
    event_id       TEXT PRIMARY KEY,  -- of the file's event: a verdict that comes again finds it
    path           TEXT NOT NULL,
    sha256         TEXT NOT NULL,
    action         TEXT NOT NULL,
    status         TEXT NOT NULL,     -- passed, open (a person has to look), or removed
    summary        TEXT NOT NULL,
    findings       TEXT NOT NULL,     -- JSON
    second_opinion TEXT,
    quarantined_to TEXT,
    metadata       TEXT NOT NULL,     -- JSON
    tenant_id      TEXT,
    source         TEXT,
    moderated_at   REAL NOT NULL,     -- Unix time
    reviewed_at    REAL NOT NULL
)
"""
# A repeat changes nothing; the verdict of a replayed dead letter is newer, and replaces the row.
_STORE = """
INSERT INTO moderation_reviews VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO UPDATE SET
    sha256 = excluded.sha256, action = excluded.action, status = excluded.status,
    summary = excluded.summary, findings = excluded.findings,
    second_opinion = excluded.second_opinion, quarantined_to = excluded.quarantined_to,
    moderated_at = excluded.moderated_at, reviewed_at = excluded.reviewed_at
WHERE excluded.moderated_at > moderation_reviews.moderated_at
"""


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """The database, its table made if it is not there; committed at the end."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=30)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")  # readers and the reviewer do not wait for another
        db.execute(_TABLE)
        yield db


def store(
    db: sqlite3.Connection,
    verdict: Verdict,
    status: str,
    summary: str,
    *,
    tenant_id: str | None = None,
    source: str | None = None,
) -> None:
    """Writes a review down, once for each event."""
    as_json = [
        msgspec.json.encode(value).decode() for value in (verdict.findings, verdict.metadata)
    ]
    db.execute(
        _STORE,
        (
            verdict.event_id, verdict.path, verdict.sha256, verdict.action, status, summary,
            as_json[0], verdict.second_opinion, verdict.quarantined_to, as_json[1],
            tenant_id, source, verdict.moderated_at, time.time(),
        ),
    )  # fmt: skip


def main() -> None:
    """Prints the newest reviews."""
    parser = argparse.ArgumentParser(description="Show the newest reviews.")
    parser.add_argument(
        "--db", type=Path, help="default: MODERATION_DB, ~/.omniagent/moderation.db"
    )
    parser.add_argument("--limit", type=int, default=20, help="default: %(default)s")
    options = parser.parse_args()
    database = options.db or load().database
    if not database.exists():
        parser.exit(1, f"there is no {database} yet: has a worker run?\n")
    with opened(database) as db:
        rows = db.execute(
            "SELECT status, path, summary FROM moderation_reviews"
            " ORDER BY reviewed_at DESC LIMIT ?",
            (options.limit,),
        ).fetchall()
    for status, path, summary in rows:
        print(f"{status:8} {path}\n         {summary}")
    print(f"{len(rows)} reviews of {database}")


if __name__ == "__main__":
    main()
