"""The supervisor: keeps worker processes running through crashes and changes of their code."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import anyio
from anyio.abc import Process

from omnidaemon.errors import ConfigurationError, MissingExtra

logger = logging.getLogger("omnidaemon.supervisor")

HEALTHY_SECONDS = 10.0
"""A process that was ready and lived so long has not failed to start."""
LONGEST_PAUSE = 30.0
RELOAD_GRACE = 5.0
"""Running handlers get so long when code changes: whoever edits is waiting."""


class Child:
    """A worker process as its parent sees it.

    Attributes:
        pid: Its process id.
        was_ready: True from the moment its worker was ready.
        replaced: True if it was asked to make room for another.
    """

    def __init__(self, process: Process, ready: int) -> None:
        self.pid = process.pid
        self.was_ready = False
        self.replaced = False
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self._process = process
        self._ready = ready

    async def wait(self) -> int:
        """Returns the exit code; minus the signal's number if one ended it."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._wait_ready)
            code = await self._process.wait()
            group.cancel_scope.cancel()
        self.ended.set()
        return code

    async def _wait_ready(self) -> None:
        await anyio.wait_readable(self._ready)
        if os.read(self._ready, 1):  # nothing to read: it ended before it was ready
            self.was_ready = True
            self.ready.set()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, if it still lives."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


class Nursery:
    """Starts worker processes that notice when this one is gone, however it went.

    Each holds the reading end of a pipe that only this process can write to, and drains when the
    system closes it.
    """

    def __init__(self) -> None:
        self._alive, self._held = os.pipe()

    def close(self) -> None:
        """Closes the pipe: what still lives drains."""
        os.close(self._alive)
        os.close(self._held)

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> AbstractAsyncContextManager[Child]:
        """Starts `omnidaemon worker` with these arguments; on exit it is dead.

        It gets a session of its own, so that a terminal's Ctrl-C comes once, from here.
        """
        return self._start(arguments, env, stderr)

    @asynccontextmanager
    async def _start(
        self, arguments: Sequence[str], env: dict[str, str] | None, stderr: IO[bytes] | None
    ) -> AsyncIterator[Child]:
        ready, report = os.pipe()
        try:
            try:
                process = await anyio.open_process(
                    [
                        sys.executable,
                        "-m",
                        "omnidaemon",
                        "worker",
                        *arguments,
                        "--lifeline",
                        f"{report}:{self._alive}",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=None if stderr is None else stderr,
                    stderr=stderr,
                    env=env,
                    start_new_session=True,
                    pass_fds=(report, self._alive),
                )
            finally:
                os.close(report)
            async with process:  # kills it if this is cancelled
                yield Child(process, ready)
        finally:
            os.close(ready)


class Supervisor:
    """Keeps `processes` workers running until a signal ends it.

    Args:
        arguments: For `omnidaemon worker`, in each process.
        processes: How many.
        resume: True lets the first processes lift pauses, as if a person had started them.
        reload_dir: The folder whose Python files are watched; a change replaces all processes.

    Raises:
        MissingExtra: There is something to watch and nothing to watch it with.
        ConfigurationError: The system cannot do what this needs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        processes: int = 1,
        resume: bool = False,
        reload_dir: Path | None = None,
    ) -> None:
        if os.name != "posix":
            raise ConfigurationError("--processes and --reload need Linux, macOS or another Unix")
        self._arguments = list(arguments)
        self._processes = processes
        self._resume = resume
        self._reload_dir = reload_dir
        self._env = dict(os.environ)
        if reload_dir is not None:
            _require_watchfiles()
            # Python takes a cached module for the current one if its size and the second of its
            # change are the same, and two quick edits can agree in both.
            self._env["PYTHONDONTWRITEBYTECODE"] = "1"
        self._code = 0
        self._children: set[Child] = set()
        self._nursery = Nursery()
        self._stop = anyio.Event()
        self._ready = anyio.Event()
        self._change = anyio.Event()

    async def run(self) -> int:
        """Supervises until all processes have ended; returns the exit code."""
        try:
            async with anyio.create_task_group() as watchers:
                watchers.start_soon(self._obey)
                if self._reload_dir is not None:
                    watchers.start_soon(self._watch, self._reload_dir)
                async with anyio.create_task_group() as slots:
                    # One goes ahead: what is set up wrongly is said once, not by all of them.
                    slots.start_soon(self._keep, 1)
                    await _first_of(self._ready, self._stop)
                    for slot in range(2, self._processes + 1):
                        slots.start_soon(self._keep, slot)
                watchers.cancel_scope.cancel()
        finally:
            self._nursery.close()
        return self._code

    async def _obey(self) -> None:
        """First signal: all drain. Second: all hand back at once. Third: all are killed."""
        received = 0
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                received += 1
                if received == 1:
                    logger.info("stopping %d processes", len(self._children))
                    self._stop.set()
                for child in self._children:
                    child.send(signal.SIGTERM if received < 3 else signal.SIGKILL)

    async def _keep(self, slot: int) -> None:
        """Keeps one process running: starts it again when it ends, later each time it fails."""
        failures = 0
        first = True
        while not self._stop.is_set():
            change = self._change
            began = anyio.current_time()
            child, code = await self._live(slot, first)
            first = False
            if self._stop.is_set() or child.replaced:
                continue
            what = f"process {child.pid} ended ({_ending(code)})"
            if not child.was_ready and code in (1, 2):
                if not self._ready.is_set():
                    self._code = code  # it has said itself what is wrong
                    self._stop.set()
                    return
                if self._reload_dir is not None:
                    logger.error("%s; it is started again after the next change", what)
                    await _first_of(change, self._stop)
                    continue
            healthy = child.was_ready and anyio.current_time() - began > HEALTHY_SECONDS
            failures = 1 if healthy else failures + 1
            # Jitter, so that processes that fail together do not all come back together.
            pause = min(LONGEST_PAUSE, 0.25 * 2**failures) * (0.5 + random.random() / 2)
            logger.error("%s; another is started in %.1f s", what, pause)
            with anyio.move_on_after(pause):
                await _first_of(change, self._stop)

    async def _live(self, slot: int, first: bool) -> tuple[Child, int]:
        """One process from its start to its end."""
        arguments = list(self._arguments)
        if self._resume and first:
            arguments.append("--resume")
        if slot > 1 or not first:
            arguments.append("--quiet")
        if slot > 1:
            arguments += ["--slot", str(slot)]
        async with self._nursery.start(arguments, env=self._env) as child:
            self._children.add(child)
            if self._stop.is_set():  # while it was being started
                child.send(signal.SIGTERM)
            async with anyio.create_task_group() as group:
                group.start_soon(self._greet, child)
                code = await child.wait()
                group.cancel_scope.cancel()
            self._children.discard(child)
        return child, code

    async def _greet(self, child: Child) -> None:
        await child.ready.wait()
        logger.info("process %d is ready", child.pid)
        self._ready.set()

    async def _watch(self, directory: Path) -> None:
        from watchfiles import PythonFilter, awatch

        logger.info("watching the Python files of %s", directory)
        async with anyio.create_task_group() as group:
            async for changes in awatch(directory, watch_filter=PythonFilter(), debounce=400):
                names = sorted({path.removeprefix(f"{directory}{os.sep}") for _, path in changes})
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                logger.info("%s%s changed: starting again", ", ".join(names[:3]), more)
                change, self._change = self._change, anyio.Event()
                for child in self._children:
                    child.replaced = True
                    group.start_soon(self._replace, child)
                change.set()

    async def _replace(self, child: Child) -> None:
        """Drains a process whose code is old: asked, pressed after a while, killed in the end."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            child.send(number)
            with anyio.move_on_after(RELOAD_GRACE):
                await child.ended.wait()
                return


async def _first_of(*events: anyio.Event) -> None:
    async with anyio.create_task_group() as group:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        for event in events:
            group.start_soon(wait, event)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _require_watchfiles() -> None:
    try:
        import watchfiles  # noqa: F401  only asked whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "--reload needs the package 'watchfiles', which is not installed: install this package "
            "with its extra `reload`, or: pip install watchfiles"
        ) from error
