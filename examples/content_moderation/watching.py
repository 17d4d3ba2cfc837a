"""Two ways to watch folders: by looking again and again, or told by the operating system.

Both wait until a file is quiet: what was touched counts when two looks in a row find it the same.
So a file that is being written is not taken half, and one that is replaced whole (written under
another name, then renamed) is taken once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread

from examples.content_moderation.reading import identity
from omnidaemon import ConfigurationError

HALF_WRITTEN = (".crdownload", ".part", ".partial", ".swp", ".tmp", "~")
QUIET_MILLISECONDS = 300
FULL_LOOK_SECONDS = 60.0
"""Native events can be lost (a queue that overflows, some network file systems)."""


def wanted(file: Path, folders: Iterable[Path]) -> bool:
    """Whether the file counts: nothing hidden below its folder, nothing that has a draft's name."""
    for folder in folders:
        if file.is_relative_to(folder):
            parts = file.relative_to(folder).parts
            hidden = any(part.startswith(".") for part in parts)
            return bool(parts) and not hidden and not parts[-1].endswith(HALF_WRITTEN)
    return False


def walk(folder: Path, folders: Iterable[Path]) -> Iterator[Path]:
    """The files in the folder, and in those within it, in a fixed order; links are not followed."""
    folders = list(folders)
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if wanted(Path(place, name), folders):
                yield Path(place, name)


class Quiet:
    """Knows which of the files it is shown are as they were when it saw them last.

    Attributes:
        restless: The others of the last call.
    """

    def __init__(self) -> None:
        self._last: dict[Path, tuple[int, int, int, int]] = {}
        self.restless: set[Path] = set()

    def settled(self, files: Iterable[Path]) -> list[Path]:
        """Those that have not changed since the call before this one, which showed them too."""
        now: dict[Path, tuple[int, int, int, int]] = {}
        for file in files:
            try:
                now[file] = identity(file.lstat())
            except (FileNotFoundError, PermissionError):  # gone, or in a folder that is shut
                continue
        before, self._last = self._last, now
        settled = [file for file, found in now.items() if before.get(file) == found]
        self.restless = now.keys() - set(settled)
        return settled


async def polled(folders: list[Path], interval: float) -> AsyncIterator[list[Path]]:
    """Every `interval` seconds, all files that are quiet."""
    quiet = Quiet()

    def look() -> list[Path]:
        return quiet.settled(file for folder in folders for file in walk(folder, folders))

    while True:
        yield await anyio.to_thread.run_sync(look)
        await anyio.sleep(interval)


async def notified(folders: list[Path]) -> AsyncIterator[list[Path]]:
    """The files that the operating system names, once they are quiet; at first, all there are.

    Raises:
        ConfigurationError: The package `watchfiles` is missing.
    """
    try:
        from watchfiles import awatch
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "--watchdog needs the package 'watchfiles', which is not installed: pip install "
            "watchfiles, or use --watch"
        ) from error
    quiet, touched, look_at = Quiet(), set[Path](), 0.0
    # It is on when it yields for the first time: what changes during the first look is not missed.
    async for events in awatch(
        *folders,
        watch_filter=None,
        debounce=4 * QUIET_MILLISECONDS,
        step=QUIET_MILLISECONDS // 3,
        rust_timeout=QUIET_MILLISECONDS,
        yield_on_timeout=True,
    ):
        named = {Path(path) for _, path in events}
        if anyio.current_time() >= look_at:
            look_at = anyio.current_time() + FULL_LOOK_SECONDS
            named.update(folders)
        touched |= await anyio.to_thread.run_sync(_files, named, folders)
        settled = await anyio.to_thread.run_sync(quiet.settled, sorted(touched))
        touched = quiet.restless
        if settled or named:
            yield settled


def _files(paths: Iterable[Path], folders: list[Path]) -> set[Path]:
    """The files that are named, and those within folders that are: a folder may be moved in."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            found.update(walk(path, folders))
        elif wanted(path, folders):
            found.add(path)
    return found
