"""Wakes other processes on this machine: named pipes in a directory beside the database.

A process that waits makes a pipe, called `topics-...` for those that wait for work or `tasks-...`
for those that watch results, and reads it in a small thread. A process that has committed
something worth waking for writes a line into each pipe of the kind. Missing pipes, full pipes and
systems without pipes cost a second, no more: a slow poll stands beneath (`drivers/sqlite.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import threading
from collections.abc import Iterable
from typing import Literal

from omnidaemon.drivers.bell import Bell

Kind = Literal["topics", "tasks"]
Key = tuple[Kind, str]

_KINDS: tuple[Kind, ...] = ("topics", "tasks")
_MOST_LINES = 100
_EVERYTHING = b"*\n"
_READ = 1 << 16  # as much as a pipe holds
_ATOMIC = getattr(select, "PIPE_BUF", 512)  # POSIX promises 512


class Wake:
    """The pipes of one database: those this process reads, and those it writes to."""

    def __init__(self, directory: str, bell: Bell) -> None:
        self._directory = directory
        self._bell = bell
        self._inboxes: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._closed = False

    def listen(self, kind: Kind) -> None:
        """Makes a pipe of that kind and rings the bell for what arrives; where it can be done."""
        if any(name.startswith(kind) for name in self._inboxes) or not hasattr(os, "mkfifo"):
            return
        name = f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
        path = os.path.join(self._directory, name)
        try:
            os.makedirs(self._directory, exist_ok=True)
            # Under another name until it is open: a pipe that nobody has open counts as left
            # behind by a dead process, and is removed by whoever finds it.
            os.mkfifo(path + ".new")
            # For writing too: else each writer that closes it would be an end of file.
            pipe = os.open(path + ".new", os.O_RDWR)
            os.rename(path + ".new", path)
        except OSError:
            return  # the slow poll serves
        self._inboxes[name] = pipe
        threading.Thread(
            target=self._read, args=(pipe,), name=f"omnidaemon-wake-{kind}", daemon=True
        ).start()

    def refresh(self) -> None:
        """Looks which pipes there are now."""
        try:
            names = set(os.listdir(self._directory))
        except OSError:
            names = set()
        for name in self._others.keys() - names:
            os.close(self._others.pop(name))
        for name in names - self._others.keys() - self._inboxes.keys():
            if name.startswith(_KINDS) and not name.endswith(".new"):
                self._open(name)

    def tell(self, keys: Iterable[Key]) -> None:
        """Writes the keys to the pipes of their kind; one write each, which arrives whole."""
        if not self._others:
            return
        for kind in _KINDS:
            pipes = [name for name in self._others if name.startswith(kind)]
            lines = [name for of, name in keys if of == kind] if pipes else []
            if lines:
                data = _lines(kind, lines)
                for pipe in pipes:
                    self._write(pipe, data)

    def close(self) -> None:
        """Removes the pipes of this process."""
        self._closed = True
        for name, pipe in self._inboxes.items():
            self._unlink(name)
            # The reader closes it, so that it never reads from a number given to another file.
            with contextlib.suppress(OSError):
                os.write(pipe, _EVERYTHING)
        self._inboxes = {}
        for pipe in self._others.values():
            os.close(pipe)
        self._others = {}

    def forget(self) -> None:
        """In a forked child: lets go of the parent's pipes without removing them."""
        for pipe in (*self._inboxes.values(), *self._others.values()):
            os.close(pipe)
        self._inboxes, self._others = {}, {}

    def _open(self, name: str) -> None:
        path = os.path.join(self._directory, name)
        try:
            self._others[name] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:  # another user's or too many open files: its slow poll serves
            if error.errno == errno.ENXIO:  # nobody reads it: its process is dead
                self._unlink(name)

    def _write(self, name: str, data: bytes) -> None:
        try:
            os.write(self._others[name], data)
        except BlockingIOError:
            pass  # full: its process is awake, and takes a full pipe for "look at everything"
        except OSError as error:
            os.close(self._others.pop(name))
            if error.errno == errno.EPIPE:  # its process is gone
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, name))

    def _read(self, pipe: int) -> None:
        rest = b""
        while not self._closed:
            try:
                data = os.read(pipe, _READ)
            except OSError:
                return  # closed in a forked child
            *lines, rest = (rest + data).split(b"\n")
            if b"*" in lines or len(data) + _ATOMIC >= _READ:
                self._bell.ring_all()
            else:
                self._bell.ring(*map(_key, set(lines)))
        os.close(pipe)


def _lines(kind: Kind, names: list[str]) -> bytes:
    if len(names) > _MOST_LINES or any("\n" in name for name in names):
        return _EVERYTHING
    data = "".join(f"{kind} {name}\n" for name in names).encode()
    return data if len(data) <= _ATOMIC else _EVERYTHING


def _key(line: bytes) -> Key:
    kind, _, name = line.decode(errors="replace").partition(" ")
    return ("tasks" if kind == "tasks" else "topics"), name
