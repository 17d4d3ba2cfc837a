"""The publisher: each version of a file once, whole, also if it dies or the broker does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from examples.content_moderation import ingest, publisher, seen
from examples.content_moderation.seen import Seen
from examples.content_moderation.watching import wanted
from omnidaemon import App, ConnectionLost, Envelope
from omnidaemon.envelope import load
from tests.examples.conftest import events, names, place

pytestmark = pytest.mark.usefixtures("inbox")


# One look


def test_only_what_is_new_or_has_changed_is_published(inbox, capsys):
    one, two = place(inbox / "1.txt", "one"), place(inbox / "deep/2.txt", "two")
    publisher.main([str(inbox)])
    assert names() == ["1.txt", "2.txt"]
    assert "2 published of 2 files" in capsys.readouterr().out
    publisher.main([str(inbox), str(inbox / "deep")])  # named twice, looked at once
    assert "0 published of 2 files" in capsys.readouterr().out
    place(two, "changed")
    os.utime(one)  # touched, and the same
    publisher.main([str(inbox)])
    assert names() == ["1.txt", "2.txt", "2.txt"]
    first, second = [load(event.content) for event in events()][1:]
    assert first["sha256"] != second["sha256"]
    assert second["path"] == str(two)


def test_a_change_within_the_same_tick_of_the_clock_is_seen(inbox):
    file = place(inbox / "1.txt", "one", age=0)
    publisher.main([str(inbox)])
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    publisher.main([str(inbox)])
    assert names() == ["1.txt", "1.txt"]


def test_an_old_file_with_its_old_time_is_not_read_again(inbox, monkeypatch):
    place(inbox / "1.txt", "one")
    publisher.main([str(inbox)])
    monkeypatch.setattr(seen.hashlib, "file_digest", None)
    publisher.main([str(inbox)])
    assert names() == ["1.txt"]


def test_drafts_links_and_hidden_things_are_left_out(inbox, tmp_path):
    for name in ("a.tmp", "b.part", "c~", ".hidden", ".git/config", "d.swp"):
        place(inbox / name, "x")
    (inbox / "link.txt").symlink_to(place(tmp_path / "elsewhere.txt", "x"))
    (inbox / "folder").symlink_to(tmp_path)
    os.mkfifo(inbox / "pipe")
    place(inbox / "real.txt", "x")
    publisher.main([str(inbox)])
    assert names() == ["real.txt"]


def test_folders_below_a_hidden_one_may_be_watched(tmp_path):
    inbox = tmp_path / ".omniagent/inbox"
    assert wanted(inbox / "a.txt", [inbox])
    assert not wanted(inbox / ".a.txt", [inbox])
    assert not wanted(tmp_path / "a.txt", [inbox])


def test_a_file_that_may_not_be_read_holds_no_other_up(inbox, monkeypatch, capsys):
    first, _ = place(inbox / "1.txt", "x"), place(inbox / "2.txt", "x")
    real = seen.opened

    def refuse(file: Path) -> Any:
        if file == first:  # root, as whom tests may run, can read everything
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(file)

    monkeypatch.setattr(seen, "opened", refuse)
    publisher.main([str(inbox)])
    assert names() == ["2.txt"]
    assert "1.txt' is left out: Permission denied" in capsys.readouterr().err


def test_a_name_that_cannot_travel_holds_no_other_up(inbox, capsys):
    place(inbox / os.fsdecode(b"\xff.txt"), "x")
    place(inbox / "z.txt", "x")
    publisher.main([str(inbox)])
    assert names() == ["z.txt"]
    assert "\\udcff.txt' is left out: its name is not UTF-8" in capsys.readouterr().err


def test_a_file_that_comes_back_is_new_unless_the_whole_folder_was_away(inbox, tmp_path):
    file = place(inbox / "1.txt", "x")
    publisher.main([str(inbox)])
    away = file.rename(tmp_path / "away.txt")
    publisher.main([str(inbox)])
    away.rename(file)
    publisher.main([str(inbox)])
    first, second = events()
    assert first.id != second.id
    memory = Seen(tmp_path / "home/publisher.db")
    inbox.rename(tmp_path / "unmounted")
    memory.forget_missing(inbox)
    (tmp_path / "unmounted").rename(inbox)
    assert memory.changes([file]) == []


@pytest.mark.parametrize("when", ["before it is stored", "before it is remembered"])
def test_what_was_cut_off_is_published_with_the_same_id(inbox, monkeypatch, when):
    place(inbox / "1.txt", "x")
    ids: list[str] = []
    real = App.send_many

    async def send_many(self: App, batch: list[Envelope]) -> Any:
        ids.extend(event.id for event in batch)
        if len(ids) > 1:
            return await real(self, batch)
        if when == "before it is remembered":
            await real(self, batch)
        raise ConnectionLost("gone")

    monkeypatch.setattr(App, "send_many", send_many)
    with pytest.raises(SystemExit, match="gone"):
        publisher.main([str(inbox)])
    publisher.main([str(inbox)])
    publisher.main([str(inbox)])
    assert len(ids) == 2
    assert {event.id for event in events()} == {ids[0]} == {ids[1]}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["gone"],
        ["inbox", "--watch", "--watchdog"],
        ["inbox", "--watch", "--interval", "0"],
        ["inbox", "--task", "single_file", "--file", "x.txt"],
        ["inbox", "--file", "x.txt"],
        ["--task", "single_file"],
        ["--task", "single_file", "--file", "gone"],
        ["."],  # the quarantine lies within
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, tmp_path, capsys):
    place(tmp_path / "x.txt", "x")
    with pytest.raises(SystemExit, match="2"):
        publisher.main(arguments)
    assert "error: " in capsys.readouterr().err


def test_a_single_file_is_published_whatever_is_remembered(inbox, capsys):
    place(inbox / "1.txt", "x")
    for _ in range(2):
        publisher.main(["--task", "single_file", "--file", "inbox/1.txt"])
    ids = capsys.readouterr().out.split()
    assert [event.id for event in events()] == ids
    assert {load(event.content)["path"] for event in events()} == {str(inbox / "1.txt")}


def test_ingest_sends_what_is_known_about_a_file(inbox, capsys):
    place(inbox / "1.txt", "x")
    ingest.main(["inbox/1.txt", "--metadata", '{"author": "ada", "n": [1]}'])
    (event,) = events()
    assert capsys.readouterr().out.split() == [event.id]
    assert event.source == "ingest"
    assert load(event.content)["metadata"] == {"author": "ada", "n": [1]}
    assert load(event.content)["path"] == str(inbox / "1.txt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone is no file"),
        (["x", "--metadata", "{"], "give a JSON object"),
        (["x", "--metadata", "[]"], "give a JSON object"),
    ],
)
def test_ingest_refuses_what_it_cannot_send(arguments, said, tmp_path, capsys):
    place(tmp_path / "x", "x")
    with pytest.raises(SystemExit, match="2"):
        ingest.main(arguments)
    assert said in capsys.readouterr().err
    assert events() == []


def test_ingest_says_when_no_verdict_comes(inbox):
    place(inbox / "1.txt", "x")
    with pytest.raises(SystemExit, match="has no result"):
        ingest.main([str(inbox / "1.txt"), "--wait", "0.1"])
