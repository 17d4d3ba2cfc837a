"""One worker process: its signals, its word to a supervisor, and an end that nothing holds up."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

import anyio
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.drivers.bell import loop_caller
from omnidaemon.worker.exporter import Port, exporting
from omnidaemon.worker.tally import Tally
from omnidaemon.worker.worker import Worker

logger = logging.getLogger("omnidaemon.worker")

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]
_THREAD_SECONDS = 0.5


class Lifeline(Struct, frozen=True):
    """The ends of two pipes that a supervised process holds.

    Attributes:
        ready: Written to once the worker is ready.
        alive: Readable, with nothing to read, once the supervisor is gone.
    """

    ready: int
    alive: int


def run_worker(
    app: App,
    *,
    grace: float | None,
    resume: bool,
    lifeline: Lifeline | None = None,
    metrics: Port | None = None,
) -> None:
    """Runs the app's agents until a signal ends it; the whole of a worker process's life.

    The first signal drains, the second cancels what runs and hands it back, the third ends the
    process as it stands.

    Raises:
        ConfigurationError: The app has no agents, a backend is not usable, or metrics are insisted
            on and cannot be served.
        TransportError: The transport could not be opened.
        StoreError: The store could not be opened.
    """
    # A database thread needs Python's lock again after every step of SQLite, and a busy event
    # loop keeps it for a whole switch interval each time: 146 rows/s were measured with Python's
    # default of 5 ms, and 33,571 with this.
    sys.setswitchinterval(0.0005)
    uvloop = importlib.util.find_spec("uvloop") is not None
    anyio.run(
        partial(_serve, app, grace, resume, lifeline, metrics),
        backend_options={"use_uvloop": uvloop},
    )
    _leave_threads()


async def _serve(
    app: App,
    grace: float | None,
    resume: bool,
    lifeline: Lifeline | None,
    metrics: Port | None,
) -> None:
    tally = None if metrics is None else Tally()
    worker = Worker(app, grace=grace, resume=resume, tally=tally)
    with _signals_stop(worker), ExitStack() as stack:
        if metrics is not None and tally is not None:
            stack.enter_context(exporting(worker, tally, metrics))
        async with anyio.create_task_group() as group:
            if lifeline is not None:
                group.start_soon(_report_ready, worker, lifeline.ready)
                group.start_soon(_drain_when_orphaned, worker, lifeline.alive)
            await worker.run()
            group.cancel_scope.cancel()


@contextmanager
def _signals_stop(worker: Worker) -> Iterator[None]:
    """Handles signals in the interpreter, not in the event loop, which a handler may block."""
    call = loop_caller()
    steps = iter((worker.stop, worker.abort))

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  their signature
        step = next(steps, None)
        if step is None:
            os.write(2, b"omnidaemon: a third signal: ending as it stands\n")
            os._exit(1)
        call(step)

    # What was told to ignore a signal (nohup) goes on doing so.
    before = {
        number: signal.signal(number, handle)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _report_ready(worker: Worker, ready: int) -> None:
    await worker.ready.wait()
    try:
        os.write(ready, b".")
    except BrokenPipeError:
        pass  # the supervisor is gone, which the other pipe tells
    os.close(ready)


async def _drain_when_orphaned(worker: Worker, alive: int) -> None:
    await anyio.wait_readable(alive)
    logger.warning("the supervisor is gone")
    worker.stop()


def _leave_threads() -> None:
    """Ends the process hard if a handler that was abandoned still runs in its thread.

    The interpreter would wait for it, for hours perhaps; its message is handed back already.
    """
    deadline = time.monotonic() + _THREAD_SECONDS  # idle threads need a moment to end
    running = 0
    for thread in threading.enumerate():
        if thread.name == "AnyIO worker thread":
            thread.join(max(0.0, deadline - time.monotonic()))
            running += thread.is_alive()
    if running:
        logger.warning("%d handlers still run in their threads, and end here", running)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
