"""The SQLite file: where it lies, what tables it has, and whether it is ours to use.

Time is Unix seconds from the caller's clock throughout; SQLite's own clock is never asked.

- An event's key is `topic << 40 | seq`: one B-tree, clustered by topic, and as the sequence has no
  holes above the oldest event kept, lag and size are subtractions: `topics.last` is the last
  number given, `topics.size` the bytes ever stored, `events.pos` what it was after the event.
- `topics.floor`: what a group that is made when no other is there starts at.
- `groups.cursor` is the last sequence number handed out; what lies beyond is not stored per group.
- A delivery is a row from its claim until it is settled. `owner` NULL means that it waits until
  `due` (-1 if it was handed back); else `due` is when the lease ends. `count` rises with every
  claim: it is the fence.
  Replayed dead letters have a negative `seq`, which no event has, and carry their own body, since
  their event may be gone.
- `groups.pardoned`: when leases were last given once more after a silence of all consumers; 0 if
  never, NULL if nobody has renewed a lease yet, so that silence says nothing.
- `signals` has one row: how often something happened that others wait for, and how often a process
  began to listen (`drivers/wake.py`).
"""

from __future__ import annotations

import os
import sqlite3

from omnidaemon.errors import ConfigurationError

APPLICATION_ID = 0x4F4D4E49  # "OMNI"
VERSION = 1
OLDEST_SQLITE = (3, 35, 0)  # RETURNING
DEFAULT_PATH = ".omnidaemon_data/omnidaemon.db"
BUSY_SECONDS = 5.0

TOPIC_SHIFT = 40
SEQ_MASK = (1 << TOPIC_SHIFT) - 1

SCHEMA = (
    """CREATE TABLE topics(
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
        last INTEGER NOT NULL, size INTEGER NOT NULL, floor INTEGER NOT NULL)""",
    # The body stands last: a large one lies in overflow pages, which the others need not read.
    """CREATE TABLE events(
        key INTEGER PRIMARY KEY, id TEXT NOT NULL, pos INTEGER NOT NULL, stored REAL NOT NULL,
        body BLOB NOT NULL)""",
    "CREATE INDEX events_id ON events(id)",
    # AUTOINCREMENT: a group made again has a new id, so that no old token fits it.
    """CREATE TABLE groups(
        id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, name TEXT NOT NULL,
        cursor INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0,
        removed INTEGER NOT NULL DEFAULT 0, lease REAL NOT NULL, seen REAL NOT NULL,
        pardoned REAL, UNIQUE(topic, name))""",
    """CREATE TABLE members(
        grp INTEGER NOT NULL, name TEXT NOT NULL, lease REAL NOT NULL, seen REAL NOT NULL,
        PRIMARY KEY(grp, name)) WITHOUT ROWID""",
    """CREATE TABLE deliveries(
        grp INTEGER NOT NULL, seq INTEGER NOT NULL, owner TEXT, count INTEGER NOT NULL,
        attempt INTEGER NOT NULL, crashes INTEGER NOT NULL, replays INTEGER NOT NULL,
        due REAL NOT NULL, origin INTEGER, id TEXT, body BLOB,
        PRIMARY KEY(grp, seq)) WITHOUT ROWID""",
    "CREATE INDEX deliveries_due ON deliveries(grp, due)",
    "CREATE INDEX deliveries_id ON deliveries(id) WHERE id IS NOT NULL",
    """CREATE TABLE delayed(
        n INTEGER PRIMARY KEY, topic INTEGER NOT NULL, due REAL NOT NULL, id TEXT NOT NULL,
        body BLOB NOT NULL)""",
    "CREATE INDEX delayed_due ON delayed(topic, due)",
    "CREATE INDEX delayed_id ON delayed(id)",
    # AUTOINCREMENT: the number names a replay too, so it is never given twice.
    """CREATE TABLE dead(
        n INTEGER PRIMARY KEY AUTOINCREMENT, grp INTEGER NOT NULL, seq INTEGER NOT NULL,
        id TEXT NOT NULL, attempt INTEGER NOT NULL, replays INTEGER NOT NULL, buried REAL NOT NULL,
        reason BLOB NOT NULL, body BLOB NOT NULL)""",
    "CREATE INDEX dead_grp ON dead(grp, buried)",
    "CREATE INDEX dead_id ON dead(id)",
    """CREATE TABLE records(
        n INTEGER PRIMARY KEY, collection TEXT NOT NULL, key TEXT NOT NULL, label TEXT,
        written REAL NOT NULL, expires REAL, value BLOB NOT NULL, UNIQUE(collection, key))""",
    "CREATE INDEX records_newest ON records(collection, n)",
    "CREATE INDEX records_label ON records(collection, label, n)",
    "CREATE INDEX records_expires ON records(expires) WHERE expires IS NOT NULL",
    """CREATE TABLE counters(
        collection TEXT NOT NULL, key TEXT NOT NULL, field TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY(collection, key, field)) WITHOUT ROWID""",
    "CREATE TABLE signals(changes INTEGER NOT NULL, inboxes INTEGER NOT NULL)",
    "INSERT INTO signals VALUES (0, 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_ADDED = {"groups": {"pardoned": "REAL"}}
"""Columns that files of the same format may lack: older programs do well without them."""


def parse_url(url: str) -> tuple[str, bool]:
    """Returns the absolute real path a URL names, and whether its commits are synced to disk.

    `sqlite:///abs.db` is absolute; `sqlite:rel.db` and `sqlite://rel.db` are relative to the
    working directory; nothing after the scheme means `.omnidaemon_data/omnidaemon.db`. The scheme
    `sqlite+fast` leaves syncing to the checkpoints.
    """
    scheme, _, rest = url.partition(":")
    if scheme not in ("sqlite", "sqlite+fast"):
        raise ConfigurationError(f"{url!r} is no SQLite URL: write sqlite:///path/to/file.db")
    path = rest.removeprefix("//") or DEFAULT_PATH
    if path == ":memory:":
        raise ConfigurationError(f"{url!r}: SQLite is used with a file here; write memory: instead")
    if path.startswith("/"):
        path = "/" + path.lstrip("/")
    return os.path.realpath(path), scheme == "sqlite"


def connect(path: str) -> sqlite3.Connection:
    """Opens the file, makes what is missing, and returns the connection of this thread.

    Raises:
        ConfigurationError: The file cannot be used: not a database, another program's, made by a
            newer version, or not writable.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old: this Python needs one with 3.35 or newer"
        )
    connection = None
    try:
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256
        )
        _prepare(connection, path)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise _unusable(path, error) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    _look(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(
            f"{path} lies where SQLite cannot share it (no write-ahead log there, journal mode"
            f" {mode!r}): give a path on a local disk"
        )
    # Larger than the default 1000 pages: a batch writes some hundred, each checkpoint syncs twice.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -32000")
    connection.execute("PRAGMA temp_store = MEMORY")
    # A write lock even if nothing is missing: a file that cannot be written says so now.
    connection.execute("BEGIN IMMEDIATE")
    if not _look(connection, path):
        for statement in SCHEMA:
            connection.execute(statement)
    else:
        connection.execute("UPDATE signals SET changes = changes")
        for table, columns in _ADDED.items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in columns.keys() - there:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {columns[column]}")
    connection.execute("COMMIT")


def _look(connection: sqlite3.Connection, path: str) -> bool:
    """True if the tables are there, False if the file is new; raises if it is another's."""
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner == APPLICATION_ID:
        if version > VERSION:
            raise ConfigurationError(
                f"{path} was written by a newer OmniDaemon (its format is {version}, this one knows"
                f" {VERSION}): update OmniDaemon, or give another path"
            )
        return True
    if tables or owner:
        raise ConfigurationError(
            f"{path} is the database of another program; it was left as it is: give another path"
        )
    return False


def _unusable(path: str, error: sqlite3.Error) -> ConfigurationError:
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(
            f"{path} is not a SQLite database; it was left as it is: give another path"
        )
    return ConfigurationError(f"cannot open the database {explain(error, path)}")


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, nothing of this call was stored",
    sqlite3.SQLITE_READONLY: "it is read-only: check the permissions of the file and its directory",
    sqlite3.SQLITE_BUSY: "another program has locked it: end that program's transaction",
    sqlite3.SQLITE_LOCKED: "another program has locked it: end that program's transaction",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or save what .recover finds",
    sqlite3.SQLITE_NOTADB: "it is no database any more: restore a backup or give another path",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the path and the permissions",
    sqlite3.SQLITE_PERM: "access is not permitted: check the permissions",
    sqlite3.SQLITE_IOERR: "reading or writing failed: check the disk",
}


def explain(error: sqlite3.Error, path: str) -> str:
    """Says what happened, to which file, and what to do next."""
    # Errors of the sqlite3 module itself (a wrong use) carry no code.
    code = getattr(error, "sqlite_errorcode", None)
    advice = _ADVICE.get(code & 0xFF) if isinstance(code, int) else None
    return f"{path}: {advice} ({error})" if advice else f"{path}: {error}"
