"""A program that a test has started, whose lines can be waited for."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

SECONDS = 60.0  # machines that run tests are shared, and stand still at times
OURS = ("OMNIDAEMON_", "EVENT_BUS_", "STORAGE_", "REDIS_", "JSON_STORAGE_", "LOG_")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with these."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**env, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **changes}


def freeze(pid: int, folder: Path) -> None:
    """Stops a process, but not in the moment in which it has a database of the folder locked.

    Nobody else could write in it then, for as long as the process stands still.
    """
    # By their companions: to open the file itself by anything but SQLite ends this process's locks.
    databases = [Path(str(wal).removesuffix("-wal")) for wal in folder.rglob("*-wal")]
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        if all(_can_be_written(file) for file in databases):
            return
        os.kill(pid, signal.SIGCONT)
        threading.Event().wait(0.01)
    pytest.fail(f"process {pid} always has a database locked")


def _can_be_written(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


class Started:
    """A running program, whose lines (of both streams) can be waited for, for so many seconds."""

    def __init__(
        self,
        folder: Path,
        command: tuple[str, ...],
        env: dict[str, str],
        *,
        seconds: float = SECONDS,
    ) -> None:
        self.seconds = seconds
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def line(self, *words: str) -> str:
        """The next line that has all the words; what comes before it is passed over."""
        deadline = time.monotonic() + self.seconds
        while True:
            line = self._next(deadline, f"no line with {words}")
            if line is None:
                pytest.fail(f"ended without a line with {words}:\n" + "\n".join(self.lines))
            if all(word in line for word in words):
                return line

    def _next(self, deadline: float, what: str) -> str | None:
        try:
            line = self._coming.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"{what} within {self.seconds} s:\n" + "\n".join(self.lines))
        if line is not None:
            self.lines.append(line)
        return line

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """Signals the whole process group, as a terminal does."""
        os.killpg(self.pid, number)

    def ended(self) -> int:
        """Waits for the end of it and of all that writes to its streams; the exit code."""
        deadline = time.monotonic() + self.seconds
        while self._next(deadline, "no end") is not None:
            pass
        return self.process.wait(self.seconds)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def clean_up(self) -> None:
        self.process.kill()  # a supervisor's children drain then
        self.process.wait()
        self._reader.join(self.seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
