"""Moves files out of the way: nothing is overwritten, nothing is lost, a repeat changes nothing.

    quarantine/files/<event id>/<file name>     the file
    quarantine/verdicts/<event id>.json         the verdict that moved it

The verdict is written before the file is moved, so that a run which is repeated after a crash finds
out how far the first one came.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from examples.content_moderation.reading import Content, identity
from examples.content_moderation.values import Verdict


class ChangedMeanwhile(Exception):
    """Another version lies there than the one that was judged: judge again."""


class Quarantine:
    """A folder for files that nobody shall stumble upon.

    Best on the file system of the files: then moving is one step. Otherwise the file is copied and
    then removed, and a version that is saved in that very moment is removed unjudged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, event_id: str) -> Verdict | None:
        """What an earlier run of the same event has moved; completes what it had begun."""
        try:
            sidecar = self._sidecar(event_id).read_bytes()
        except FileNotFoundError:
            return None
        verdict = msgspec.json.decode(sidecar, type=Verdict)
        if not self._place(event_id, verdict.path).exists():
            return None  # it was cut off before the file was moved
        source = Path(verdict.path)
        if source.is_file() and not source.is_symlink() and _digest(source) == verdict.sha256:
            source.unlink()  # it was cut off between copying and removing
        return verdict

    def put(self, content: Content, verdict: Verdict) -> Verdict:
        """Moves the file, and returns the verdict with its new place.

        Raises:
            ChangedMeanwhile: The file is not the one that was judged; it stays where it is.
            OSError: It cannot be moved.
        """
        with self._locked():
            if (earlier := self.find(verdict.event_id)) is not None:
                return earlier
            place = self._place(verdict.event_id, verdict.path)
            for folder in (place.parent.parent, place.parent, self._sidecar("").parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            verdict = msgspec.structs.replace(verdict, quarantined_to=str(place))
            self._write(self._sidecar(verdict.event_id), msgspec.json.encode(verdict))
            _move(content, place)
        return verdict

    def _sidecar(self, event_id: str) -> Path:
        # Event ids may hold colons and dots, but no slash, and begin with a letter or digit.
        return self.folder / "verdicts" / f"{event_id}.json"

    def _place(self, event_id: str, path: str) -> Path:
        return self.folder / "files" / event_id / Path(path).name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time: two workers may have the same event if one was taken for dead."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, file: Path, data: bytes) -> None:
        draft = file.with_suffix(".draft")
        with draft.open("wb") as out:
            out.write(msgspec.json.format(data, indent=2))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)


def _move(content: Content, place: Path) -> None:
    # Nothing lies at `place`: this event alone has that folder, and the lock is held.
    # A newer version is let lie; the look after the move is for one that comes in between.
    if identity(content.path.lstat()) != content.identity:
        raise ChangedMeanwhile(f"{content.path} has changed since it was judged")
    try:
        content.path.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(content, place)
        return
    if identity(place.lstat()) == content.identity:
        return
    # It was replaced in the last moment. Back with it, unless an even newer one lies there.
    try:
        os.link(place, content.path)
        place.unlink()
    except FileExistsError:
        place.rename(place.with_name(f"{place.name}.superseded"))
    raise ChangedMeanwhile(f"{content.path} was replaced while it was moved")


def _copy(content: Content, place: Path) -> None:
    """To another file system: the file is whole under its new name before the old one goes."""
    draft = place.with_name(f"{place.name}.draft")
    shutil.copy2(content.path, draft, follow_symlinks=False)
    with draft.open("rb+") as out:
        os.fsync(out.fileno())
    if _digest(draft) != content.sha256:
        draft.unlink()
        raise ChangedMeanwhile(f"{content.path} was changed while it was copied")
    draft.rename(place)
    content.path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
