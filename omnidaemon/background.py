"""A worker in the background of a caller's own event loop: started, left alone, and shut down.

It is bound to asyncio, the loop of those who are not a worker process: the worker runs in one task
that opens and closes everything inside itself, and whoever starts or ends it only signals it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from omnidaemon.agents import Agent
from omnidaemon.app import App
from omnidaemon.worker.worker import Worker

logger = logging.getLogger("omnidaemon.worker")
_HANDLING: list[Background] = []


class Background:
    """A worker that runs an app's agents in one task of the running event loop.

    Args:
        app: The app; while it has no agents the worker waits for the first.
        resume: True lifts pauses of the app's agents.
    """

    def __init__(self, app: App, *, resume: bool) -> None:
        self._app = app
        self._worker = Worker(app, resume=resume)
        self._loop = asyncio.get_running_loop()
        self._stopping = self._dying = False
        self._signals = 0
        self._first = asyncio.Event()
        self._settled = asyncio.Event()
        self._up = asyncio.Event()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._main, is_main = _main_task()
        if is_main:
            self._main.add_done_callback(self._loop_ends)
        self._task = self._loop.create_task(self._run(), name=f"omnidaemon {self._worker.id}")

    @property
    def id(self) -> str:
        """The worker's id."""
        return self._worker.id

    @property
    def running(self) -> bool:
        """True from the start to the end; False also if its event loop ended before it did."""
        return not (self._task.done() or self._loop.is_closed())

    async def started(self) -> None:
        """Waits until the agents registered so far are served; raises what kept them from it."""
        await self._settled.wait()
        if self._ended.done():
            self._ended.result()

    async def add(self, agent: Agent) -> None:
        """Serves an agent that the app has got meanwhile; returns once its group is joined."""
        if asyncio.get_running_loop() is self._loop:
            await self._add(agent)
        else:
            added = asyncio.run_coroutine_threadsafe(self._add(agent), self._loop)
            await asyncio.wrap_future(added)

    async def _add(self, agent: Agent) -> None:
        self._first.set()
        await self._up.wait()
        # It may have come before the others had joined, and then it has joined with them.
        if not self._ended.done() and agent not in self._worker.agents:
            await self._worker.add(agent)

    def drop(self, topic: str, name: str) -> None:
        """Serves this agent no longer."""
        self._loop.call_soon_threadsafe(self._worker.drop, topic, name)

    async def stop(self) -> None:
        """Drains, and returns when all is closed; from any event loop. Raises what broke it."""
        if not self.running:
            if self._ended.done():
                self._ended.result()
            return
        if asyncio.get_running_loop() is self._loop:
            self._stop()
        else:
            self._loop.call_soon_threadsafe(self._stop)
        # Shielded: who gives up waiting does not take the end from the others that wait.
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def _loop_ends(self, main: asyncio.Task[Any]) -> None:  # noqa: ARG002  asyncio's signature
        """Cancels the worker before asyncio.run, whose task has ended, cancels every task.

        Else its runs could not tell that from a handler which cancels itself, and would fail.
        """
        self._stopping = True
        self._worker.cancel()

    def _stop(self) -> None:
        self._stopping = True
        self._first.set()
        self._worker.stop()

    async def _run(self) -> None:
        before = self._handle_sigterm()
        failure: BaseException | None = None
        try:
            await self._wait_and_work()
        except Exception as error:
            # Here nobody awaits: `started` and `stop` raise it to those who ask.
            failure = error
            if self._worker.ready.is_set():
                logger.critical("worker %s broke, and runs nothing more", self.id, exc_info=error)
        finally:
            self._main.remove_done_callback(self._loop_ends)
            if before is not None:
                _HANDLING.remove(self)
                last = _HANDLING[-1]._on_sigterm if _HANDLING else signal.SIG_DFL
                signal.signal(signal.SIGTERM, last)
            if failure is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(failure)
            self._is_up()
            if self._dying:
                signal.raise_signal(signal.SIGTERM)

    async def _wait_and_work(self) -> None:
        if not self._app.agents:
            self._settled.set()
            await self._first.wait()
        if not self._stopping:
            ready = self._loop.create_task(self._worker.ready.wait())
            ready.add_done_callback(lambda _: self._is_up())
            try:
                await self._worker.run()
            finally:
                ready.cancel()

    def _is_up(self) -> None:
        self._settled.set()
        self._up.set()

    # SIGTERM

    def _handle_sigterm(self) -> Any:
        """Turns SIGTERM into a cancellation of the main task, where nobody handles it.

        Without, the process would end on the spot: no `finally`, and every run a crash to those who
        take it over. Returns what handled it before; None where it is left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            return None  # signals are the main thread's
        before = signal.getsignal(signal.SIGTERM)
        handled = getattr(before, "__self__", None)
        if before is not signal.SIG_DFL and not isinstance(handled, Background):
            return None
        _HANDLING.append(self)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if not isinstance(sys.excepthook, _QuietEnd):
            sys.excepthook = _QuietEnd(sys.excepthook)
        return before

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  theirs
        self._signals += 1
        if self._signals > 2 or self._loop.is_closed():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        elif self._signals == 1:
            _QuietEnd.wanted = True
            self._loop.call_soon_threadsafe(self._cancel_main)
        else:
            self._loop.call_soon_threadsafe(self._worker.abort)

    def _cancel_main(self) -> None:
        logger.info("SIGTERM: the main task is cancelled, so that its `finally` can shut down")
        if not self._main.cancel():
            self._dying = True  # a loop that runs for ever: drained, the signal does its work
            self._stop()


def _main_task() -> tuple[asyncio.Task[Any], bool]:
    """The task that asyncio.run runs, and True; the current one where that cannot be told.

    asyncio.run's own handler of SIGINT knows it.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, functools.partial):
        main = handler.keywords.get("main_task")
        if isinstance(main, asyncio.Task) and main.get_loop() is asyncio.get_running_loop():
            return main, True
    current = asyncio.current_task()
    assert current is not None  # who calls is a coroutine
    return current, False


class _QuietEnd:
    """Ends the process with 0 when the cancellation that SIGTERM became comes out at the top.

    The program did as it was told, and has drained: a traceback and an exit code of 1 would make
    every deploy look like a failure.
    """

    wanted = False

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(
        self, kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        if self.wanted and issubclass(kind, asyncio.CancelledError):
            raise SystemExit(0)
        self._hook(kind, value, traceback)
