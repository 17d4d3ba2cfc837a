"""`omnidaemon demo`: a real worker, real files, and what three agents make of them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import anyio
import click
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.cli.demo_agents import Document
from omnidaemon.cli.demo_files import Chosen, choose
from omnidaemon.cli.demo_view import AGENTS, Report, View, print_reports, view
from omnidaemon.cli.output import say
from omnidaemon.envelope import Envelope
from omnidaemon.errors import OmniDaemonError
from omnidaemon.records import RunRecord
from omnidaemon.settings import Settings, load_settings
from omnidaemon.worker.supervisor import Child, Nursery

_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 30.0
_DRAIN_SECONDS = 5.0


class _Place(Struct, frozen=True):
    """Where the demo's data lies.

    Attributes:
        file: The database.
        log: What the workers log.
        env: The environment in which every command uses this database.
        look: The part of it that must be typed, as a shell reads it.
        settings: The settings in that environment.
    """

    file: Path
    log: Path
    env: dict[str, str]
    look: str
    settings: Settings


@click.command()
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder with text files.  [default: this project's own documentation]",
)
@click.option(
    "--processes", type=click.IntRange(1, 16), default=1, show_default=True, help="Workers."
)
def demo(path: Path | None, processes: int) -> None:
    """See a pipeline of agents work on text files, on the embedded database.

    A worker is started; each text file of the folder becomes an event document.uploaded. The agent
    extract_text sends its words on as text.extracted, where two agents get every one: measure and
    summarize. One of them fails once on purpose, and is retried. Their answers become events of
    analysis.completed.
    """
    chosen = choose(path)
    place = _place()
    began = time.monotonic()
    reports = anyio.run(_demo, chosen, place, processes)
    print_reports(reports, time.monotonic() - began)
    _print_further(place)
    if dead := [report for report in reports if report.failure]:
        raise OmniDaemonError(
            f"{len(dead)} of {len(reports)} documents failed; {dead[0].name}: {dead[0].failure}"
        )


def _place() -> _Place:
    usual = load_settings()
    folder = Path(usual.json_storage_dir)
    file = folder / "demo.db"
    typed = {"OMNIDAEMON_SQLITE": str(file)}
    if usual.storage not in (None, "sqlite"):
        typed["STORAGE_BACKEND"] = "sqlite"
    if usual.event_bus != "sqlite":
        typed["EVENT_BUS_TYPE"] = "sqlite"
    env = {
        **os.environ,
        "EVENT_BUS_TYPE": "sqlite",
        "STORAGE_BACKEND": "sqlite",
        "OMNIDAEMON_SQLITE": str(file),
    }
    look = " ".join(f"{name}={shlex.quote(value)}" for name, value in typed.items())
    return _Place(file, folder / "demo-worker.log", env, look, load_settings(env))


async def _demo(chosen: Chosen, place: _Place, processes: int) -> list[Report]:
    async with App("demo", settings=place.settings) as app:  # makes the folder, too
        with place.log.open("ab") as log, view() as shown:
            shown.starts(chosen, place.file, processes)
            async with _workers(place, processes, log) as workers:
                follower = _Follower(app, chosen, shown)
                await follower.publish()
                return await follower.follow(workers, place.log)


@asynccontextmanager
async def _workers(place: _Place, processes: int, log: IO[bytes]) -> AsyncIterator[list[Child]]:
    """Worker processes for the length of the block; they drain when it ends."""
    nursery = Nursery()
    arguments = ["omnidaemon.cli.demo_agents:app", "--grace", str(_DRAIN_SECONDS)]
    workers: list[Child] = []

    async def live(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with nursery.start(arguments, env=place.env, stderr=log) as child:
            workers.append(child)
            task_status.started()
            await child.wait()

    try:
        async with anyio.create_task_group() as group:
            for _ in range(processes):
                await group.start(live)
            try:
                yield workers
            finally:
                for child in workers:
                    child.send(signal.SIGTERM)
                with anyio.move_on_after(_DRAIN_SECONDS, shield=True):
                    for child in workers:
                        await child.ended.wait()
                group.cancel_scope.cancel()
    finally:
        nursery.close()


class _Follower:
    """Publishes the documents, and reads from the records what becomes of them."""

    def __init__(self, app: App, chosen: Chosen, shown: View) -> None:
        self._app = app
        self._shown = shown
        self._chosen = chosen
        self._published = 0.0
        self._names: dict[str, str] = {}
        self._runs: dict[tuple[str, str], RunRecord] = {}

    async def publish(self) -> None:
        """One event per file, all together."""
        folder, files = self._chosen.folder.resolve(), self._chosen.files
        documents = [
            Document(str(file.resolve()), str(file.resolve().relative_to(folder)), n == 0)
            for n, file in enumerate(files)
        ]
        self._published = time.time()
        handles = await self._app.send_many(
            Envelope("document.uploaded", document, source="omnidaemon demo")
            for document in documents
        )
        self._names = {
            handle.id: document.name for handle, document in zip(handles, documents, strict=True)
        }
        self._shown.published(len(handles))

    async def follow(self, workers: list[Child], log: Path) -> list[Report]:
        """Waits until all agents are done with all documents."""
        moved = time.monotonic()
        while not self._over():
            if await self._look():
                moved = time.monotonic()
            if any(worker.ended.is_set() for worker in workers):
                raise OmniDaemonError(f"a worker has ended: {_last_line(log)}")
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                raise OmniDaemonError(
                    f"nothing has moved for {_PATIENCE_SECONDS:.0f} s; the worker's log is {log}"
                )
            await anyio.sleep(_LOOK_SECONDS)
        return [self._report(document) for document in self._names]

    async def _look(self) -> bool:
        """Reads the records; True if there is news."""
        news = False
        limit = min(10_000, 4 * len(self._names) + 100)
        for topic in ("document.uploaded", "text.extracted"):
            for run in await self._app.tasks.newest(topic, limit):
                # What an event causes is correlated with it by its id.
                document = run.correlation_id or run.task_id
                key = document, run.agent
                before = self._runs.get(key)
                if document in self._names and run != before:
                    news = True
                    self._runs[key] = run
                    self._shown.ran(self._names[document], run)
        return news

    def _over(self) -> bool:
        return bool(self._names) and all(self._is_over(document) for document in self._names)

    def _is_over(self, document: str) -> bool:
        runs = [self._runs.get((document, agent)) for agent in AGENTS]
        if runs[0] is not None and runs[0].status == "dead":
            return True  # nothing follows it
        return all(run is not None and run.status in ("succeeded", "dead") for run in runs)

    def _report(self, document: str) -> Report:
        runs = {agent: self._runs.get((document, agent)) for agent in AGENTS}
        done = [run for run in runs.values() if run is not None]
        measured, summary = runs["measure"], runs["summarize"]
        dead = [run for run in done if run.status == "dead"]
        counts = measured.value if measured and measured.status == "succeeded" else {}
        telling = summary.value["telling"] if summary and summary.status == "succeeded" else []
        return Report(
            name=self._names[document],
            words=counts.get("words", 0),
            headings=len(counts.get("headings", ())),
            minutes=counts.get("reading_minutes", 0.0),
            telling=telling,
            runs=sum(run.attempts for run in done),
            retries=sum(run.attempts - 1 for run in done),
            seconds=max(run.finished_at for run in done) - self._published,
            failure="; ".join(
                f"{run.agent}: {run.cause.type}: {run.cause.message}" for run in dead if run.cause
            ),
        )


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return f"{lines[-1]} (its log is {log})" if lines else f"its log, {log}, is empty"


def _print_further(place: _Place) -> None:
    click.echo()
    say(f"The data stays in {place.file}, the worker's log in {place.log}. Look further:")
    for command in ("task list --topic text.extracted", "bus list --groups", "metrics"):
        click.echo(f"  {place.look} {_own_name()} {command}")


def _own_name() -> str:
    """How this program was called, so that the commands shown work when typed."""
    called = Path(sys.argv[0])
    if called.name != "omnidaemon":
        return f"{Path(sys.executable).name} -m omnidaemon"
    found = shutil.which("omnidaemon")
    if found is not None and Path(found).resolve() == called.resolve():
        return "omnidaemon"
    return shlex.quote(os.path.relpath(called))
