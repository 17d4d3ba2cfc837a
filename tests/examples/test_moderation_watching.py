"""The publisher that watches: whole files, told by the system or not, through failures."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from examples.content_moderation import publisher, watching
from examples.content_moderation.seen import Seen
from examples.content_moderation.watching import Quiet, notified, walk
from omnidaemon import App, ConnectionLost, Envelope
from omnidaemon.envelope import load
from tests.examples.conftest import ROOT, events, names, place
from tests.process.conftest import Started, environment

pytestmark = pytest.mark.usefixtures("inbox")


def test_a_file_is_quiet_when_two_looks_find_it_the_same(inbox):
    quiet, file = Quiet(), place(inbox / "1.txt", "x")
    assert quiet.settled([file]) == []
    place(file, "xy")
    assert quiet.settled([file]) == []
    assert quiet.restless == {file}
    assert quiet.settled([file]) == [file]
    assert quiet.restless == set()
    place(inbox / "draft", "xz").rename(file)
    assert quiet.settled([file]) == []
    file.unlink()
    assert quiet.settled([file]) == []
    assert quiet.restless == set()


def test_what_a_broker_did_not_take_is_taken_up_at_the_next_look(inbox, monkeypatch, capsys):
    file = place(inbox / "1.txt", "x")
    real, failures = App.send_many, [ConnectionLost("gone"), ConnectionLost("gone")]

    async def send_many(self: App, batch: list[Envelope]) -> Any:
        if failures:
            raise failures.pop()
        return await real(self, batch)

    async def looks() -> AsyncIterator[list[Path]]:
        for files in ([file], [], [], []):
            yield files

    async def body() -> None:
        async with App() as app:
            await publisher.follow(app, Seen(inbox.parent / "seen.db"), [inbox], looks())

    monkeypatch.setattr(App, "send_many", send_many)
    anyio.run(body)
    assert names() == ["1.txt"]
    assert capsys.readouterr().err.count("will try again: gone") == 2


def test_a_full_look_finds_what_no_event_told(inbox, monkeypatch):
    """The operating system may lose events; here it tells none at all."""
    pytest.importorskip("watchfiles")

    async def silent(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        while True:
            await anyio.lowlevel.checkpoint()
            yield set()

    async def body() -> None:
        found: set[str] = set()
        async for files in notified([inbox]):
            found.update(file.name for file in files)
            if found == {"1.txt"} and not (inbox / "2.txt").exists():
                place(inbox / "2.txt", "x")
            elif len(found) == 2:
                break
        assert found == {"1.txt", "2.txt"}

    place(inbox / "1.txt", "x")
    monkeypatch.setattr("watchfiles.awatch", silent)
    monkeypatch.setattr(watching, "FULL_LOOK_SECONDS", 0.0)
    anyio.run(body)


def test_without_the_package_for_native_events_there_is_a_clear_error(inbox, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(SystemExit, match="pip install watchfiles, or use --watch"):
        publisher.main([str(inbox), "--watchdog"])


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a publisher that watches, and waits until it has published what is there."""
    started: list[Started] = []

    def watch(*arguments: str) -> Started:
        env = environment(
            PYTHONPATH=str(ROOT),
            EVENT_BUS_TYPE="sqlite+fast",
            MODERATION_HOME=str(tmp_path / "home"),
        )
        program = (sys.executable, "-m", "examples.content_moderation.publisher", "inbox")
        started.append(Started(tmp_path, (*program, *arguments), env))
        started[-1].line("watching", "inbox")
        return started[-1]

    yield watch
    for process in started:
        process.clean_up()


@pytest.mark.parametrize("how", [["--watch", "--interval", "0.1"], ["--watchdog"]], ids=str)
def test_watching_publishes_each_version_once_and_whole(inbox, watch, tmp_path, how):
    place(inbox / "0.txt", "there before")
    process = watch(*how)
    process.line("published", "/0.txt")
    # Written under another name, then renamed, as editors and downloads do.
    place(inbox / "1.txt.tmp", "draft").rename(inbox / "1.txt")
    process.line("published", "/1.txt")
    place(tmp_path / "whole/2.txt", "two")
    place(tmp_path / "whole/3.txt", "three")
    (tmp_path / "whole").rename(inbox / "whole")
    process.line("published", "/2.txt")
    process.line("published", "/3.txt")
    (inbox / "whole/2.txt").unlink()
    place(inbox / "draft", "replaced").replace(inbox / "1.txt")
    process.line("published", "/1.txt")
    # One that grows: the versions in between may be seen or not, the last one is.
    with (inbox / "4.txt").open("w", buffering=1) as file:
        for n in range(5_000):
            file.write(f"line {n}\n")
    process.line("published", "/4.txt")
    place(inbox / "end.txt", "end")
    process.line("published", "/end.txt")
    process.send(signal.SIGTERM)
    assert process.ended() == 0
    assert "Traceback" not in process.text
    published = [load(event.content) for event in events()]
    counts = [Path(event["path"]).name for event in published]
    assert sorted(set(counts)) == ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "end.txt"]
    assert counts.count("0.txt") == counts.count("2.txt") == counts.count("end.txt") == 1
    assert counts.count("1.txt") == 2
    assert len({event["sha256"] for event in published}) == len(published)
    assert not re.search(r"\.tmp|draft", json.dumps(published))


def test_walking_has_a_fixed_order(inbox):
    for name in ("b/2", "b/1", "a/2", "c"):
        place(inbox / name, "x")
    assert [str(file.relative_to(inbox)) for file in walk(inbox, [inbox])] == [
        "c",
        "a/2",
        "b/1",
        "b/2",
    ]
