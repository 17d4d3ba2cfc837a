"""`omnidaemon top`: the whole fleet on one screen, drawn again every second."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import TOPIC, Seconds, json_option
from omnidaemon.cli.output import emit_json, on_terminal
from omnidaemon.cli.top_sample import Sample, Sampler
from omnidaemon.cli.top_view import print_sample, screen
from omnidaemon.errors import InvalidSettings, OmniDaemonError

_LOOK_SECONDS = 5.0
_QUIT = b"qQ\x03\x04"


@click.command()
@click.option("--topic", type=TOPIC, help="Only this topic's agents.")
@click.option(
    "--interval",
    type=Seconds(3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look, print that, and end; the same in a pipe.")
@json_option
def top(topic: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Watch agents, rates, lag and failures, drawn again in place.

    Agents in trouble come first (!: it fails or has dead letters, ·: events wait and nobody takes
    them), and beneath them stands what failed. q or Ctrl-C ends it. In a pipe, with --once and with
    --json it looks twice, --interval apart, prints rates and numbers once, and ends.
    """
    if interval < 0.1:
        raise InvalidSettings(f"--interval {interval:g}: give seconds from 0.1 up")
    if once or as_json or not on_terminal() or os.environ.get("TERM", "dumb") == "dumb":
        sample, where = backend.run(lambda app: _two_looks(app, topic, interval))
        if as_json:
            emit_json(sample.public())
        else:
            print_sample(sample, where)
        return
    backend.run(lambda app: _watch(app, topic, interval))


async def _two_looks(app: App, topic: str | None, interval: float) -> tuple[Sample, str]:
    sampler = Sampler(app, topic)
    await sampler.look()
    await anyio.sleep(interval)
    return await sampler.look(), app.transport.backend


async def _watch(app: App, topic: str | None, interval: float) -> None:
    sampler = Sampler(app, topic)
    sample = await sampler.look()  # what fails at once is an error, and not a screen
    async with anyio.create_task_group() as group:
        group.start_soon(_end_by_signal, group.cancel_scope)
        if sys.stdin is not None and sys.stdin.isatty():
            group.start_soon(_end_by_key, group.cancel_scope)
        await _draw(app, sampler, sample, interval)


async def _draw(app: App, sampler: Sampler, sample: Sample, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    trouble: str | None = None

    def shown() -> Any:
        return screen(
            sample,
            where=app.transport.backend,
            width=console.width,
            height=console.height,
            trouble=trouble,
            keys=f"q quits; looks every {interval:g} s",
        )

    with Live(shown(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(shown(), refresh=True)
            await anyio.sleep(interval)
            try:
                with anyio.fail_after(_LOOK_SECONDS):
                    sample, trouble = await sampler.look(), None
            except TimeoutError:
                trouble = f"no answer within {_LOOK_SECONDS:g} s; looking again"
            except OmniDaemonError as error:
                trouble = f"{error}; looking again"


async def _end_by_signal(scope: anyio.CancelScope) -> None:
    # As signals, so that the screen and the terminal are given back whatever ends it.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async for _ in received:
            scope.cancel()


async def _end_by_key(scope: anyio.CancelScope) -> None:
    with _single_keys():
        while True:
            await anyio.wait_readable(sys.stdin)
            keys = os.read(sys.stdin.fileno(), 100)
            if not keys or set(keys) & set(_QUIT):
                scope.cancel()
                return


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys arrive without Enter and are not echoed."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
