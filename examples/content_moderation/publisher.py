"""Publishes the files of folders to the moderator, each version once.

python -m examples.content_moderation.publisher FOLDER...              what is new, then ends
python -m examples.content_moderation.publisher FOLDER... --watch      looks every second
python -m examples.content_moderation.publisher FOLDER... --watchdog   is told by the system
python -m examples.content_moderation.publisher --task single_file --file PATH
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from examples.content_moderation.seen import Change, Seen
from examples.content_moderation.settings import Settings, load
from examples.content_moderation.values import TASKS, FileTask
from examples.content_moderation.watching import notified, polled, walk
from omnidaemon import App, BacklogFull, ConnectionLost, Envelope, OmniDaemonError

BATCH = 100


def options_of(arguments: Sequence[str] | None, settings: Settings) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.content_moderation.publisher",
        description="Publishes the files of folders to the moderator, each version once.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="go on, and look every --interval")
    how.add_argument("--watchdog", action="store_true", help="go on, told by the system")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds; default: %(default)s")
    parser.add_argument("--task", choices=["scan", "single_file"], default="scan")
    parser.add_argument("--file", type=Path, help="what --task single_file publishes")
    parser.add_argument(
        "--seen", type=Path, default=settings.seen, help="the memory; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    if options.task == "single_file":
        if options.file is None or options.folders or options.watch or options.watchdog:
            parser.error("--task single_file takes --file PATH, and no folders")
        if not options.file.is_file():
            parser.error(f"{options.file} is no file")
    elif not options.folders or options.file is not None:
        parser.error("name one folder or more, or --task single_file --file PATH")
    if not 0.01 <= options.interval <= 86_400:
        parser.error(f"--interval {options.interval}: give seconds, from 0.01 to a day")
    options.folders = list(dict.fromkeys(folder.resolve() for folder in options.folders))
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
        if settings.quarantine.resolve().is_relative_to(folder):
            parser.error(f"the quarantine, {settings.quarantine}, lies within {folder}")
    return options


async def publish(app: App, seen: Seen, files: list[Path]) -> int:
    """Publishes those of the files that are new or have changed; returns how many."""
    changes = await anyio.to_thread.run_sync(seen.changes, files)
    for start in range(0, len(changes), BATCH):
        batch = changes[start : start + BATCH]
        await app.send_many([event_of(change) for change in batch])
        await anyio.to_thread.run_sync(seen.published, batch)
        for change in batch:
            print(f"published {change.path} as {change.event_id}", flush=True)
    return len(changes)


def event_of(change: Change) -> Envelope:
    """The event for one version of a file; its id was chosen before."""
    task = FileTask(str(change.path), change.sha256, {"name": change.path.name})
    return Envelope(TASKS, task, change.event_id, source="publisher")


async def scan(app: App, seen: Seen, folders: list[Path]) -> None:
    """Publishes what has come since the last time."""
    files = [file for folder in folders for file in walk(folder, folders)]
    for folder in folders:
        seen.forget_missing(folder)
    count = await publish(app, seen, list(dict.fromkeys(files)))
    print(f"{count} published of {len(set(files))} files")


async def follow(
    app: App, seen: Seen, folders: list[Path], looks: AsyncIterator[list[Path]]
) -> None:
    """Publishes what comes, for ever; what a broker did not take is taken up at the next look."""
    failed: list[Path] = []
    async for files in looks:
        for folder in folders:
            await anyio.to_thread.run_sync(seen.forget_missing, folder)
        files = list(dict.fromkeys([*failed, *files]))
        try:
            await publish(app, seen, files)
        except (ConnectionLost, BacklogFull) as error:
            print(f"not published, will try again: {error}", file=sys.stderr, flush=True)
            failed = files
        else:
            failed = []


async def obey(scope: anyio.CancelScope) -> None:
    """Ends the watching on Ctrl-C or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def run(options: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    seen, folders = Seen(options.seen), options.folders
    async with App("content-moderation-publisher") as app:
        if options.task == "single_file":
            path = str(options.file.absolute())
            task = await app.send(TASKS, FileTask(path), source="publisher")
            print(task.id)
        elif options.watch or options.watchdog:
            async with anyio.create_task_group() as group:
                group.start_soon(obey, group.cancel_scope)
                names = ", ".join(map(str, folders))
                print(f"watching {names}; Ctrl-C ends it", flush=True)
                looks = polled(folders, options.interval) if options.watch else notified(folders)
                await follow(app, seen, folders, looks)
        else:
            await scan(app, seen, folders)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it; errors are one line on stderr and exit code 1."""
    problem = ""
    try:
        anyio.run(run, options_of(arguments, load()))
    except* OmniDaemonError as errors:  # in a group where a folder is watched
        problem = "; ".join(str(error) for error in errors.exceptions)
    if problem:
        sys.exit(problem)


if __name__ == "__main__":
    main()
