"""The SQLite database that transports and stores of a process share, and the thread it lives in.

All calls that have come while the last commit went on run in one transaction (group commit): with
synced commits the disk is the limit, and one sync serves them all. Writers of several processes
queue at a lock file, because SQLite's own waiting sleeps up to 100 ms at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from omnidaemon.drivers.bell import Bell, Ear, loop_caller
from omnidaemon.drivers.file_lock import FileLock
from omnidaemon.drivers.sqlite_schema import connect
from omnidaemon.drivers.wake import Key, Kind, Wake
from omnidaemon.errors import ConfigurationError, OmniDaemonError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

POLL_SECONDS = 1.0
_MOST_CALLS = 500
_ANYBODY = object()
_FULL, _NORMAL = 2, 1


class _Call(Generic[T]):
    """One call on its way through the database's thread."""

    def __init__(self, work: Work[T] | None, *, durable: bool = False, write: bool = False) -> None:
        self.work = work
        self.durable = durable
        self.write = write
        self.result: T
        self.error: Exception | None = None
        self.done = False
        self.event: anyio.Event | None = None
        self.notify: Callable[..., object] | None = None

    def awaited(self) -> Self:
        """Makes it one that a task of the running event loop waits for."""
        self.event, self.notify = anyio.Event(), loop_caller()
        return self


class Database:
    """One file, its thread and its connection; made by `Database.acquire`.

    Attributes:
        trace: For tests: given to the connection's `set_trace_callback` when it is opened.
        bell: Rung with ("topics", name) and ("tasks", id) after commits, of other processes too.
    """

    trace: ClassVar[Callable[[str], object] | None] = None

    def __init__(self, path: str) -> None:
        self.path = path
        self.process = os.getpid()
        self.bell = Bell()
        self.closed = False
        self.references = 0
        self._calls: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._wake = Wake(path + ".wake", self.bell)
        self._thread = threading.Thread(
            target=self._serve, name=f"omnidaemon-sqlite-{os.path.basename(path)}", daemon=True
        )
        # The rest belongs to the thread.
        self._connection: sqlite3.Connection
        self._lock: FileLock
        self._begun = False
        self._synchronous = 0
        self._rings: set[Key] = set()
        self._kinds: set[Kind] = set()
        self._changes = 0
        self._inboxes = 0
        self._version = 0
        self._missed = False
        self._polled = 0.0

    @classmethod
    def acquire(cls, path: str) -> Database:
        """The process's database at the path, opened on first use; `release` it once."""
        with _registry_guard:
            database = _registry.get(path)
            if database is None or database.closed:
                database = _registry[path] = cls(path)
            database.references += 1
            return database

    async def release(self) -> None:
        """Lets go of it; who does so last closes it."""
        with _registry_guard:
            self.references -= 1
            if self.references or self.closed:
                return
            if _registry.get(self.path) is self:
                del _registry[self.path]
        end = self.stop(_Call[None](None).awaited())
        if end is not None and end.event is not None:
            with anyio.CancelScope(shield=True):
                await end.event.wait()

    def stop(self, end: _Call[None]) -> _Call[None] | None:
        """Closes it after the calls that have come; None if it runs no more."""
        with self._guard:
            if self.closed:
                return None
            self.closed = True
            if self._thread.ident is None:
                return None
            self._calls.put(end)
            return end

    def join(self, seconds: float) -> None:
        """Waits until the thread has ended, if it ran."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def forget(self) -> None:
        """In a forked child: lets go of the parent's files without touching what they mean."""
        self._wake.forget()
        if hasattr(self, "_lock"):
            self._lock.close()

    def listen(self, key: Key) -> Ear:
        """Hears what is rung for the key; while anybody does, the file is polled."""
        return self.bell.listen(key, _ANYBODY)

    async def run(
        self,
        work: Work[T],
        *,
        durable: bool = True,
        write: bool = True,
        cancelled: Callable[[T], object] | None = None,
    ) -> T:
        """Runs the work in a transaction, together with others'; returns when that is committed.

        Args:
            work: Called with the connection, in its thread; called again if another call of its
                transaction fails, so what it does elsewhere must bear repeating.
            durable: The commit is synced to disk before this returns.
            write: It writes. Alone with others that do not, it takes no write lock.
            cancelled: Called with the result if the task was cancelled by asyncio's own means,
                which can be put off but not ignored. anyio's cancellation waits by itself.

        Raises:
            sqlite3.Error: What SQLite said; nothing of the call is stored.
        """
        await checkpoint_if_cancelled()
        call = _Call(work, durable=durable, write=write).awaited()
        self.submit(call)
        event = cast(anyio.Event, call.event)
        interrupt = None
        while not call.done:
            try:
                with anyio.CancelScope(shield=True):
                    await event.wait()
            except anyio.get_cancelled_exc_class() as error:
                interrupt = error
        if interrupt is not None:
            if cancelled is not None and call.error is None:
                cancelled(call.result)
            raise interrupt
        if call.error is not None:
            raise call.error
        return call.result

    def run_later(self, work: Work[object]) -> None:
        """Runs the work some time soon; nobody hears how it went."""
        with contextlib.suppress(sqlite3.ProgrammingError):
            self.submit(_Call(work, write=True))

    def submit(self, call: _Call[Any]) -> None:
        """Hands a call to the thread."""
        with self._guard:
            if self.closed:
                raise sqlite3.ProgrammingError("it was closed while it was used")
            if self._thread.ident is None:
                self._thread.start()
            self._calls.put(call)

    # From here on: in the thread, from within a call's work.

    def ring(self, key: Key) -> None:
        """Rings the key, here and in other processes, once the transaction is committed."""
        self._rings.add(key)

    def attend(self, connection: sqlite3.Connection, kind: Kind) -> None:
        """Sees to it that other processes tell this one what they ring of that kind."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._wake.listen(kind)
            # Read by every commit that rings: whoever commits later than this sees the pipe.
            connection.execute("UPDATE signals SET inboxes = inboxes + 1")

    # From here on: the thread itself.

    def _serve(self) -> None:
        try:
            self._open()
        except (OmniDaemonError, sqlite3.Error, OSError) as error:
            self._fail(error)
            return
        end = None
        while end is None:
            calls = self._gather()
            if calls and calls[-1].work is None:
                end = calls.pop()
            if calls:
                self._do(calls)
                self._complete(calls)
            self._poll()
        self._wake.close()
        self._connection.close()
        self._lock.close()
        self._complete([end])

    def _open(self) -> None:
        directory = os.path.dirname(self.path)
        try:
            os.makedirs(directory, exist_ok=True)
            self._lock = FileLock(self.path + ".lock")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write in {directory}, where the database is to be: {error.strerror}; give"
                " another path, or make that a directory that this user may write in"
            ) from error
        with self._lock:
            self._connection = connect(self.path)
        self._connection.set_trace_callback(Database.trace)
        signals = self._connection.execute("SELECT changes, inboxes FROM signals").fetchone()
        self._changes, self._inboxes = signals
        self._wake.refresh()

    def _fail(self, error: Exception) -> None:
        with self._guard:
            self.closed = True
        calls = []
        while not self._calls.empty():
            calls.append(self._calls.get())
            calls[-1].error = error
        self._complete(calls)

    def _gather(self) -> list[_Call[Any]]:
        timeout = POLL_SECONDS if self.bell.listened(_ANYBODY) else None
        calls: list[_Call[Any]] = []
        with contextlib.suppress(queue.Empty):
            calls.append(self._calls.get(timeout=timeout))
            while len(calls) < _MOST_CALLS and calls[-1].work is not None:
                calls.append(self._calls.get_nowait())
        return calls

    def _do(self, calls: list[_Call[Any]]) -> None:
        try:
            results = self._transact(calls)
        # Whatever a call raises is its caller's; the thread goes on.
        except Exception as error:
            if len(calls) == 1 or not self._begun:
                for call in calls:
                    call.error = error
                return
            for call in calls:  # so that the one that failed fails alone
                self._do([call])
            return
        for call, result in zip(calls, results, strict=True):
            call.result = result

    def _transact(self, calls: list[_Call[Any]]) -> list[Any]:
        write = any(call.write for call in calls)
        self._begun = False
        with self._lock if write else contextlib.nullcontext():
            self._begin(write, any(call.durable and call.write for call in calls))
            self._begun = True
            self._rings.clear()
            try:
                results = [call.work(self._connection) for call in calls if call.work is not None]
                told = bool(self._rings) and self._sign()
                self._connection.execute("COMMIT")
            except BaseException:
                # What was announced in it is not, and what was read may be undone.
                self._kinds.clear()
                self._inboxes = -1
                self._roll_back()
                raise
        if self._rings:
            self.bell.ring(*self._rings)
            if told:
                self._wake.refresh()
            self._wake.tell(self._rings)
        return results

    def _begin(self, write: bool, durable: bool) -> None:
        self._roll_back()  # of a transaction whose rollback had failed
        if not write:
            self._connection.execute("BEGIN")
            return
        # An unsynced commit is in order in the log, so the next synced one syncs it too.
        synchronous = _FULL if durable else _NORMAL
        if synchronous != self._synchronous:
            # A script, because this PRAGMA works when it is compiled, and others are cached.
            self._connection.executescript(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        self._connection.execute("BEGIN IMMEDIATE")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _sign(self) -> bool:
        """Notes that something is rung; True if other processes began to listen since the last."""
        ((changes, inboxes),) = self._connection.execute(
            "UPDATE signals SET changes = changes + 1 RETURNING changes, inboxes"
        ).fetchall()
        self._missed |= changes != self._changes + 1
        self._changes = changes
        changed = bool(inboxes != self._inboxes)
        self._inboxes = inboxes
        return changed

    def _poll(self) -> None:
        """Once a second while anybody waits: rings all if other processes have rung anything."""
        if time.monotonic() < self._polled + POLL_SECONDS or not self.bell.listened(_ANYBODY):
            return
        self._polled = time.monotonic()
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                (changes,) = self._connection.execute("SELECT changes FROM signals").fetchone()
                self._missed |= changes != self._changes
                self._version, self._changes = version, changes
        except sqlite3.Error:
            self._missed = True  # those who wait find out what it is, and can tell somebody
        if self._missed:
            self._missed = False
            self.bell.ring_all()

    def _complete(self, calls: list[_Call[Any]]) -> None:
        loops: dict[Callable[..., object], list[_Call[Any]]] = {}
        for call in calls:
            if call.notify is not None:
                loops.setdefault(call.notify, []).append(call)
        for notify, its_calls in loops.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed, nobody waits there
                notify(_finish, its_calls)


def _finish(calls: list[_Call[Any]]) -> None:
    for call in calls:
        call.done = True
        if call.event is not None:
            call.event.set()


_registry: dict[str, Database] = {}
_registry_guard = threading.Lock()
_inherited: list[Database] = []


def _stop_all() -> None:
    with _registry_guard:
        databases = list(_registry.values())
    for database in databases:
        database.stop(_Call[None](None))
    for database in databases:
        database.join(2.0)


def _forget_all() -> None:
    global _registry_guard
    _registry_guard = threading.Lock()  # another thread may have held it when this one forked
    for database in _registry.values():
        database.forget()
        # Kept for ever: the parent's connection must not even be closed in a child.
        _inherited.append(database)
    _registry.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
