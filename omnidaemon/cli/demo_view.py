"""How the demo shows itself: live bars on a terminal, plain lines in a pipe, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from omnidaemon.cli.demo_files import Chosen
from omnidaemon.cli.output import many, on_terminal, plain, print_table, say, span
from omnidaemon.records import RunRecord

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

AGENTS = ("extract_text", "measure", "summarize")
_SHOWN_LETTERS = 160


class Report(Struct, frozen=True):
    """What became of one document.

    Attributes:
        name: The document.
        words: How many it has.
        headings: How many it has.
        minutes: How long reading it takes.
        telling: Its most telling sentences.
        runs: Of all agents together.
        retries: Those of them that repeated a failed one.
        seconds: From publishing to the last answer.
        failure: Who gave up and why; empty if nobody did.
    """

    name: str
    words: int
    headings: int
    minutes: float
    telling: list[str]
    runs: int
    retries: int
    seconds: float
    failure: str


class View:
    """Says in plain lines what happens."""

    def __init__(self) -> None:
        self._total = 0
        self._done = dict.fromkeys(AGENTS, 0)

    def starts(self, chosen: Chosen, file: Path, processes: int) -> None:
        """The files are chosen."""
        self._total = len(chosen.files)
        self.say(f"{many(self._total, 'text file')} of {chosen.folder}")
        for why, count in chosen.skipped.items():
            self.say(f"left out: {count} {why}")
        workers = "a worker process" if processes == 1 else f"{processes} worker processes"
        self.say(f"{workers} and the embedded database {file}")

    def published(self, count: int) -> None:
        """All events are stored."""
        self.say(f"document.uploaded: {many(count, 'event')} published")

    def ran(self, name: str, run: RunRecord) -> None:
        """A record of a run is new."""
        if run.cause is not None:
            what = f"{run.agent} failed on {name}, run {run.attempts}: {run.cause.message}"
            if run.retry_at is None:
                self.say(f"{what}; given up")
            else:
                self.say(f"{what}; again in {run.retry_at - run.finished_at:.1f} s")
        elif run.attempts > 1:
            self.say(f"{run.agent} succeeded on {name}, run {run.attempts}")
        if run.status != "failed":
            self._done[run.agent] += 1
            self.moved(run.agent, self._done[run.agent])

    def moved(self, agent: str, done: int) -> None:
        """An agent is done with so many documents."""
        if done == self._total:
            self.say(f"{agent}: {many(done, 'document')}")

    def say(self, text: str) -> None:
        """A line."""
        say(plain(text))


class _Live(View):
    """Shows a bar per agent, and lines above them."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def published(self, count: int) -> None:
        for name in ("document.uploaded", *AGENTS):
            self._bars[name] = self._progress.add_task(name, total=count)
        self._progress.update(self._bars["document.uploaded"], completed=count)

    def moved(self, agent: str, done: int) -> None:
        self._progress.update(self._bars[agent], completed=done)

    def say(self, text: str) -> None:
        from rich.text import Text

        failed = " failed on " in text
        self._progress.console.print(Text(plain(text), style="yellow" if failed else ""))


@contextmanager
def view() -> Iterator[View]:
    """The view that fits where standard output goes."""
    if not on_terminal():
        yield View()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns) as progress:
        yield _Live(progress)


def print_reports(reports: Sequence[Report], seconds: float) -> None:
    """The table of all documents, and the sums."""
    click.echo()
    print_table(
        [
            ("document", "text"),
            ("words", "number"),
            ("headings", "number"),
            ("reading", "number"),
            ("runs", "number"),
            ("retries", "number"),
            ("took", "number"),
            ("most telling sentence", "below"),
        ],
        [
            (
                report.name,
                f"{report.words:,}",
                report.headings,
                f"{report.minutes:.1f} min",
                report.runs,
                report.retries,
                span(report.seconds),
                report.failure or _cut(report.telling[0] if report.telling else "-"),
            )
            for report in reports
        ],
    )
    words, minutes = sum(r.words for r in reports), sum(r.minutes for r in reports)
    runs, retries = sum(r.runs for r in reports), sum(r.retries for r in reports)
    click.echo()
    say(
        f"{many(len(reports), 'document')}, {many(words, 'word')}, {span(minutes * 60)} of "
        f"reading; {many(runs, 'run')} of {len(AGENTS)} agents, {retries} of them repeated after "
        f"a failure, in {span(seconds)}."
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 1]}…"
