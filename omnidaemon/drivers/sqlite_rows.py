"""Many rows in few steps.

sqlite3 lets go of the GIL at every row it binds or fetches, and a busy event loop takes it for up
to a switch interval each time: 100 rows fetched one by one took 0.4 s beside a busy loop, packed
into one row 8 ms (measured). So rows go in by multi-row VALUES and come out as one row.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

_STEP = 16  # row counts per statement are multiples of it: few texts, which stay prepared
_MOST = 128

_decode = msgspec.json.Decoder(list[list[Any]]).decode


@functools.cache
def _values(head: str, columns: int, rows: int, tail: str) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"{head} VALUES {','.join([row] * rows)} {tail}"


def insert(
    connection: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> int:
    """Inserts the rows by `head VALUES (...), ... tail`; returns the last rowid."""
    done, last = 0, 0
    while done < len(rows):
        left = len(rows) - done
        size = left if left < _STEP else min(left - left % _STEP, _MOST)
        chunk = rows[done : done + size]
        statement = _values(head, len(chunk[0]), size, tail)
        last = connection.execute(statement, list(chain.from_iterable(chunk))).lastrowid or 0
        done += size
    return last


def fetch(
    connection: sqlite3.Connection, columns: str, source: str, values: Sequence[Any]
) -> Iterator[tuple[list[Any], bytes]]:
    """Yields each row of `source` as its columns and its `body`.

    Args:
        connection: Of this thread.
        columns: Names of JSON-able columns of the source, separated by commas.
        source: A SELECT with these columns and a blob named `body`.
        values: For its placeholders.
    """
    try:
        packed, joined = connection.execute(
            f"SELECT json_group_array(json_array({columns}, length(body))),"
            f" CAST(group_concat(body, '') AS BLOB) FROM ({source})",
            values,
        ).fetchone()
    except sqlite3.DataError:  # together they are larger than one value may be (1 GB)
        yield from _one_by_one(connection, columns, source, values)
        return
    rows = _decode(packed)
    sizes = [row.pop() for row in rows]
    if len(joined or b"") != sum(sizes):
        # Older SQLite ends what it joins at a zero byte, which a body may have.
        yield from _one_by_one(connection, columns, source, values)
        return
    start = 0
    for row, size in zip(rows, sizes, strict=True):
        yield row, joined[start : start + size] if joined else b""
        start += size


def _one_by_one(
    connection: sqlite3.Connection, columns: str, source: str, values: Sequence[Any]
) -> Iterator[tuple[list[Any], bytes]]:
    for *cells, body in connection.execute(f"SELECT {columns}, body FROM ({source})", values):
        yield cells, body
