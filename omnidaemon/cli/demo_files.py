"""Which files the demo looks at: the real text files of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from omnidaemon.errors import InvalidSettings

ENDINGS = (".md", ".markdown", ".rst", ".txt")
MOST_FILES = 200
MOST_BYTES = 300_000
_OTHERS = {"node_modules", "__pycache__", "site-packages", "venv", "build", "dist"}


class Chosen(Struct, frozen=True):
    """The files, and how many were left out for which reason."""

    folder: Path
    files: list[Path]
    skipped: dict[str, int]


def choose(folder: Path | None) -> Chosen:
    """Takes the folder's text files, or with None those of this project's own documentation.

    Raises:
        InvalidSettings: There are none.
    """
    if folder is not None:
        chosen = _chosen(folder, _walk(folder))
    else:
        project = Path(__file__).parents[2]
        if (project / "docs").is_dir() and (project / "pyproject.toml").is_file():
            beside = sorted(file for file in project.iterdir() if file.suffix in ENDINGS)
            chosen = _chosen(project, [*beside, *_walk(project / "docs")])
        else:  # installed without its sources
            chosen = _chosen(Path.cwd(), _walk(Path.cwd()))
    if not chosen.files:
        left = "; ".join(f"{count} {why}" for why, count in chosen.skipped.items())
        raise InvalidSettings(
            f"no text files ({', '.join(ENDINGS)}) in {chosen.folder}"
            f"{f' ({left})' if left else ''}: name a folder that has some with --path"
        )
    return chosen


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if n not in _OTHERS and not n.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(place, name)


def _chosen(folder: Path, candidates: Iterator[Path] | list[Path]) -> Chosen:
    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for file in candidates:
        if len(files) == MOST_FILES:
            skipped[f"beyond the first {MOST_FILES}"] += 1
        elif why := _unusable(file):
            skipped[why] += 1
        else:
            files.append(file)
    return Chosen(folder, files, dict(skipped))


def _unusable(file: Path) -> str | None:
    try:
        if file.stat().st_size > MOST_BYTES:
            return f"over {MOST_BYTES // 1000} kB"
        text = file.read_bytes().decode("utf-8-sig")
    except OSError:
        return "unreadable"
    except UnicodeDecodeError:
        return "not UTF-8 text"
    if "\0" in text:
        return "not text"
    return None if text.strip() else "empty"
