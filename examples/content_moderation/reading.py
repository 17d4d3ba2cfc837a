"""Reads the file that is to be judged, once: what is judged is what was read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from msgspec import Struct

MOST_BYTES = 2_000_000


class NotAFile(Exception):
    """There is something else under the path: a folder, a link, a pipe."""


class Content(Struct, frozen=True):
    """A file as it was read.

    Attributes:
        path: Where it lies.
        sha256: Of all its bytes.
        text: None if it is no text, or too long to be judged.
        why_none: The reason then.
        identity: Device, inode, size and time of change: another file under the path has another.
    """

    path: Path
    sha256: str
    text: str | None
    why_none: str
    identity: tuple[int, int, int, int]


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a file from another, or from a later version of it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, to be read; asked when it is open, so that nobody can replace it in between.

    Raises:
        FileNotFoundError: There is none (any more).
        NotAFile: It is no regular file; links are not followed, for they may lead anywhere.
        OSError: It cannot be opened.
    """
    try:
        # NONBLOCK: opening a pipe would wait for somebody who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise
        raise NotAFile(f"{path} is no regular file") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(f"{path} is no regular file")
        yield file


def read(path: Path) -> Content:
    """Reads a regular file; raises as `opened`."""
    with opened(path) as file:
        found = identity(os.fstat(file.fileno()))
        start = file.read(MOST_BYTES + 1)
        digest = hashlib.sha256(start)
        while block := file.read(1 << 20):
            digest.update(block)
    text, why = _decoded(start)
    return Content(path, digest.hexdigest(), text, why, found)


def _decoded(data: bytes) -> tuple[str | None, str]:
    if len(data) > MOST_BYTES:
        return None, f"more than {MOST_BYTES:,} bytes"
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None, "no text in UTF-8 or UTF-16"
    return (None, "no text: it has zero bytes") if "\0" in text else (text, "")
