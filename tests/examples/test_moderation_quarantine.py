"""The quarantine: nothing is overwritten, nothing is lost, whenever a run is cut off."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from examples.content_moderation import quarantine, reading
from examples.content_moderation.quarantine import ChangedMeanwhile, Quarantine
from examples.content_moderation.values import Verdict


def judged(file: Path, event_id: str = "e1") -> tuple[reading.Content, Verdict]:
    content = reading.read(file)
    return content, Verdict(event_id, str(file), content.sha256, "quarantine", [], 1.0)


def test_files_of_one_name_do_not_overwrite_each_other(home, write):
    store = Quarantine(home)
    for n in range(3):
        assert store.put(*judged(write(f"bad {n}"), f"e{n}")).quarantined_to
    texts = [(home / f"files/e{n}/note.txt").read_text() for n in range(3)]
    assert texts == ["bad 0", "bad 1", "bad 2"]


def test_the_same_event_leaves_a_new_file_of_the_name_alone(home, write):
    store, content_and_verdict = Quarantine(home), judged(write("bad"))
    first = store.put(*content_and_verdict)
    newer = write("newer")
    assert store.put(*content_and_verdict) == first
    assert newer.read_text() == "newer"
    assert Path(first.quarantined_to or "").read_text() == "bad"


def test_a_run_cut_off_before_the_move_is_done_again(home, write, monkeypatch):
    store, (content, verdict) = Quarantine(home), judged(write("bad"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.put(content, verdict)
    assert content.path.exists()
    assert store.find("e1") is None
    assert Path(store.put(content, verdict).quarantined_to or "").read_text() == "bad"


def test_a_version_that_was_not_judged_stays_where_it_is(home, write, monkeypatch):
    store, (content, verdict) = Quarantine(home), judged(write("bad"))
    write("better")
    with pytest.raises(ChangedMeanwhile):
        store.put(content, verdict)
    assert content.path.read_text() == "better"
    # Replaced between the look and the move:
    content, verdict = judged(write("bad"), "e2")
    write("better", "draft").rename(content.path)

    def at_first_the_same(status: os.stat_result) -> tuple[int, int, int, int]:
        return content.identity if content.path.exists() else reading.identity(status)

    monkeypatch.setattr(quarantine, "identity", at_first_the_same)
    with pytest.raises(ChangedMeanwhile):
        store.put(content, verdict)
    assert content.path.read_text() == "better"
    assert not list(home.glob("files/e2/*"))


def test_across_file_systems_the_file_is_copied_whole_and_then_removed(home, write, monkeypatch):
    store, (content, verdict) = Quarantine(home), judged(write("bad"))
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == content.path:
            raise OSError(errno.EXDEV, "another file system")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with monkeypatch.context() as patch:  # killed between copying and removing
        patch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.put(content, verdict)
    assert content.path.exists()
    found = store.find("e1")
    assert found is not None
    assert Path(found.quarantined_to or "").read_text() == "bad"
    assert not content.path.exists()
