"""A virtual environment for each peer, made once and kept; uv if it is there, else venv and pip."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalogue import Entry

NAMED = ("redis", "hiredis", "uvloop", "gevent", "coredis", "kombu", "msgspec", "taskiq-redis")


class InstallationError(Exception):
    """A peer could not be installed; says what the installer said."""


def environment(entry: Entry, folder: Path, *, fresh: bool = False) -> Path:
    """The Python of the peer's environment, made or completed where it is not yet.

    Raises:
        InstallationError: The installer failed.
    """
    place = folder / entry.name
    python = place / "bin" / "python"
    wanted = hashlib.sha256(json.dumps([sys.version, *entry.packages]).encode()).hexdigest()
    stamp = place / "installed"
    if not fresh and stamp.exists() and stamp.read_text() == wanted:
        return python
    if place.exists():
        shutil.rmtree(place)
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(place)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *entry.packages])
    else:
        _run([sys.executable, "-m", "venv", str(place)])
        _run([str(python), "-m", "pip", "install", "--quiet", *entry.packages])
    stamp.write_text(wanted)
    return python


def versions(entry: Entry, python: Path) -> dict[str, str]:
    """What is installed: the peer's own package first, then what its speed hangs on."""
    text = "import importlib.metadata as m, json; print(json.dumps("
    text += "{d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
    done = subprocess.run([str(python), "-c", text], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    own = own_package(entry)
    return {name: found[name] for name in (own, *NAMED) if name in found}


def own_package(entry: Entry) -> str:
    """The name of the package that the peer is."""
    if entry.kind == "ours":
        return "omnidaemon"
    return entry.packages[0].partition("[")[0].partition("==")[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise InstallationError(f"{' '.join(command)}:\n{done.stdout[-2000:]}")
