"""What the benchmark starts: a Redis server, and workers, with their CPU time and memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a `redis-server` of its own on a free port; nothing goes to disk."""
    # Not the 6.2 that a package of the tests puts beside Python: it does not count what was read.
    beside = str(Path(sys.prefix, "bin"))
    places = [place for place in os.environ["PATH"].split(os.pathsep) if place != beside]
    binary = shutil.which("redis-server", path=os.pathsep.join(places))
    if binary is None:
        raise SystemExit("redis-server is not on PATH; install Redis 7 (Debian: redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait_for(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    with Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except RedisConnectionError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.02)


class Process:
    """A worker and its children, with what it writes in a file; gone when the block ends."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to end with its children
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            pass  # several wait for tasks, or for a blocking read, longer than we do
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it is left
        self._process.wait()
        self._output.close()

    @property
    def exited(self) -> int | None:
        """Its exit status, if it is over."""
        return self._process.poll()

    def said(self) -> str:
        """The end of what it wrote."""
        self._output.seek(0)
        return self._output.read()[-1500:].strip()

    def tree(self) -> list[int]:
        """Its process id and those of its children, their children included."""
        found = [self._process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue  # it ended meanwhile
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all its processes."""
        return sum(_cpu(pid) for pid in self.tree())

    def memory_mb(self) -> float:
        """Resident memory of all its processes, what they share counted in each."""
        return sum(_resident(pid) for pid in self.tree())


def _cpu(pid: int) -> float:
    try:
        fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it ended meanwhile
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0  # it ended meanwhile
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
