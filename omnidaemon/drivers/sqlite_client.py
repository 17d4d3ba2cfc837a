"""What a transport and a store on SQLite have in common: a place in the process's database."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

from omnidaemon.drivers.opened import Opened
from omnidaemon.drivers.sqlite import Database, Work
from omnidaemon.drivers.sqlite_schema import explain, parse_url
from omnidaemon.errors import OmniDaemonError

T = TypeVar("T")


class Client(Opened):
    """Opens, closes and asks the database that its URL names.

    Attributes:
        backend: "sqlite:" and the file's real path.
        failure: The error that SQLite's errors are raised as.
    """

    failure: ClassVar[type[OmniDaemonError]]

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._path, self._durable = parse_url(url)
        self.backend = f"sqlite:{self._path}"
        self.clock = clock
        self._database: Database | None = None
        self._guard = threading.Lock()

    async def open(self) -> None:
        """See the contract."""
        await self.run(lambda _: None, write=False)

    async def close(self) -> None:
        """See the contract."""
        database, self._database = self._database, None
        if database is not None and database.process == os.getpid():
            await database.release()

    @property
    def database(self) -> Database:
        """The process's database; after a fork, or where opening failed, a new one."""
        database = self._database
        if database is not None and _usable(database):
            return database
        with self._guard:  # several event loops may come at once, and it is acquired once
            database = self._database
            if database is None or not _usable(database):
                database = self._database = Database.acquire(self._path)
            return database

    async def run(
        self,
        work: Work[T],
        *,
        durable: bool = True,
        write: bool = True,
        cancelled: Callable[[T], object] | None = None,
    ) -> T:
        """As `Database.run`, with SQLite's errors translated."""
        try:
            return await self.database.run(
                work, durable=durable and self._durable, write=write, cancelled=cancelled
            )
        except sqlite3.Error as error:
            raise self.failure(explain(error, self._path)) from error


def _usable(database: Database) -> bool:
    return not database.closed and database.process == os.getpid()
