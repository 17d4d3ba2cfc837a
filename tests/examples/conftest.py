"""What the tests of examples share: a pattern by its name, a folder that is moderated."""

from __future__ import annotations

import importlib
import os
import sqlite3
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.content_moderation.app import app
from examples.content_moderation.values import TASKS, FileTask
from omnidaemon import App, Envelope
from omnidaemon.envelope import decode, load
from omnidaemon.testing import run, serve

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600


def shows(name: str) -> Callable[[Any], Any]:
    """Says which file of `examples/patterns` a test is about."""
    return pytest.mark.parametrize("pattern", [name], indirect=True)


@pytest.fixture
def pattern(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> types.ModuleType:
    """The module as if just imported, in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    monkeypatch.chdir(tmp_path)
    return importlib.reload(importlib.import_module(f"examples.patterns.{request.param}"))


@pytest.fixture
def publish(pattern: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Runs the publisher beside a worker, on a virtual clock, and returns what it printed."""

    async def body() -> None:
        async with serve(pattern.app):
            await pattern.main()

    def publish() -> str:
        run(body)
        return capsys.readouterr().out

    return publish


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder; events go to a file of the test's own, and so does what is remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENT_BUS_TYPE", "sqlite+fast")
    monkeypatch.setenv("MODERATION_HOME", str(tmp_path / "home"))
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def events() -> list[Envelope]:
    """What was published, the oldest first."""

    async def body() -> list[Envelope]:
        async with App() as app:
            return [decode(event.body) for event in await app.transport.browse(TASKS, 100)][::-1]

    return anyio.run(body)


def names() -> list[str]:
    return [Path(load(event.content)["path"]).name for event in events()]


def place(file: Path, text: str, *, age: float = HOUR) -> Path:
    """Writes a file that seems to be that many seconds old."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    then = file.stat().st_mtime - age
    os.utime(file, (then, then))
    return file


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The example's home, with nothing else said by the environment."""
    for name in [n for n in os.environ if n.startswith(("MODERATION_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    monkeypatch.setenv("MODERATION_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "note.txt") -> Path:
        file = tmp_path / "inbox" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


def moderated(*tasks: FileTask, **options: Any) -> list[Any]:
    """What the moderator makes of the files, when the reviewer has ended as well."""
    results = []

    async def body() -> None:
        async with serve(app) as served:
            for task in tasks:
                handle = await app.send(TASKS, task, **options)
                results.append(await handle.result("moderator", timeout=60))
            await served.settled()

    anyio.run(body)  # files are read in threads, which a virtual clock does not wait for
    return results


def rows(home: Path, columns: str = "status, summary") -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "moderation.db") as db:
        found = db.execute(f"SELECT {columns} FROM moderation_reviews ORDER BY path").fetchall()
    db.close()
    return found
