"""What the publisher remembers: which version of which file it has published.

A file that is new or has changed is written down with the id of its event before that is published,
and marked when it is stored. A publisher that dies in between publishes the same id again, which
the agents recognise.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from examples.content_moderation.reading import NotAFile, opened
from omnidaemon.envelope import new_id

_TABLE = """
CREATE TABLE IF NOT EXISTS seen (
    path      TEXT PRIMARY KEY,
    mtime_ns  INTEGER NOT NULL,  -- 0: look into the file next time
    size      INTEGER NOT NULL,
    sha256    TEXT NOT NULL,
    event_id  TEXT NOT NULL,
    published INTEGER NOT NULL
)
"""
RACY_NANOSECONDS = 2_000_000_000
"""Two changes within a tick of the file system's clock look alike: so young a time says little."""


class Change(Struct, frozen=True):
    """A version of a file that is to be published."""

    path: Path
    sha256: str
    event_id: str


class Seen:
    """The memory, in an SQLite file that publishers may share."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._unreadable: set[Path] = set()

    def changes(self, files: Iterable[Path]) -> list[Change]:
        """Those of the files that are new, have changed, or whose publishing was cut off."""
        with closing(self._open()) as db:
            found = (self._change(db, file) for file in files)
            return [change for change in found if change is not None]

    def _change(self, db: sqlite3.Connection, file: Path) -> Change | None:
        try:
            change = _change(db, file)
        except (FileNotFoundError, NotAFile):
            return None  # it has gone meanwhile, or is a link or a pipe
        except (PermissionError, UnicodeEncodeError) as error:
            if file not in self._unreadable:  # said once, looked at each time
                self._unreadable.add(file)
                named = isinstance(error, UnicodeEncodeError)
                why = "its name is not UTF-8" if named else "Permission denied"
                print(f"{str(file)!a} is left out: {why}", file=sys.stderr, flush=True)
            return None
        self._unreadable.discard(file)
        return change

    def published(self, changes: Iterable[Change]) -> None:
        """Remembers that these are stored."""
        with closing(self._open()) as db:
            db.execute("BEGIN")
            for change in changes:
                db.execute(
                    "UPDATE seen SET published = 1 WHERE path = ? AND event_id = ?",
                    (str(change.path), change.event_id),
                )
            db.execute("COMMIT")

    def forget_missing(self, folder: Path) -> None:
        """Forgets files of the folder that are gone, so that they count as new if they come back.

        A folder that is gone itself may be a disk that is not there now: nothing is forgotten.
        """
        if not folder.is_dir():
            return
        with closing(self._open()) as db:
            for (path,) in db.execute("SELECT path FROM seen").fetchall():
                if Path(path).is_relative_to(folder) and not os.path.lexists(path):
                    db.execute("DELETE FROM seen WHERE path = ?", (path,))

    def _open(self) -> sqlite3.Connection:
        self.database.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.database, isolation_level=None, timeout=30)
        db.execute(_TABLE)
        return db


def _change(db: sqlite3.Connection, file: Path) -> Change | None:
    status = file.lstat()
    path, mtime = str(file), status.st_mtime_ns
    row = db.execute(
        "SELECT published FROM seen WHERE path = ? AND mtime_ns = ? AND size = ?",
        (path, mtime, status.st_size),
    ).fetchone()
    if row == (1,):
        return None
    with opened(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    trusted = mtime if mtime < time.time_ns() - RACY_NANOSECONDS else 0
    # IMMEDIATE: of two publishers on one folder the second finds what the first has written.
    db.execute("BEGIN IMMEDIATE")
    known = db.execute("SELECT sha256, event_id, published FROM seen WHERE path = ?", (path,))
    sha256, event_id, published = known.fetchone() or ("", "", 0)
    if sha256 != digest:
        event_id, published = new_id(), 0
    db.execute(
        "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
        (path, trusted, status.st_size, digest, event_id, published),
    )
    db.execute("COMMIT")
    return None if published else Change(file, digest, event_id)
