"""Where this installation of OmniDaemon came from, and how another project installs the same."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

_EXTRAS = "redis"
_METADATA = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_WHEEL = (
    "Wheel-Version: 1.0\nGenerator: omnidaemon init\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip can say: the same installation makes the same wheel."""


class Source(Struct, frozen=True):
    """How a project installs this very package.

    Attributes:
        requirement: What its pyproject.toml depends on: always a place, never a name alone.
        origin: One line about it.
        readme: A few lines about it.
        wheel: The wheel's file name, and how it is made, if the project carries it along.
        git: True if installing needs git.
    """

    requirement: str
    origin: str
    readme: str
    wheel: str | None = None
    git: bool = False


def find_source() -> Source:
    """Reads what the installer wrote down (direct_url.json, PEP 610).

    A repository or a wheel on a server can be named to other machines. A folder or a file of this
    machine cannot, nor an index that pip was pointed to once: then the project carries a wheel.
    """
    text = importlib.metadata.distribution("omnidaemon").read_text("direct_url.json")
    return _source(json.loads(text) if text else {})


def _source(direct: dict[str, Any]) -> Source:
    url = direct.get("url", "")
    part = f"#subdirectory={direct['subdirectory']}" if "subdirectory" in direct else ""
    vcs = direct.get("vcs_info")
    if vcs is not None and urlsplit(url).scheme != "file":
        place = f"{vcs['vcs']}+{url}@{vcs['commit_id']}{part}"
        return Source(
            f"omnidaemon[{_EXTRAS}] @ {place}",
            "The commit that `omnidaemon init` was installed from.",
            f"From `{place}`: the commit that wrote this project. To upgrade, name another one in "
            "`pyproject.toml`.",
            git=vcs["vcs"] == "git",
        )
    if urlsplit(url).scheme in ("http", "https") and not part:
        digest = direct.get("archive_info", {}).get("hashes", {}).get("sha256")
        place = f"{url}#sha256={digest}" if digest else url
        return Source(
            f"omnidaemon[{_EXTRAS}] @ {place}",
            "The file that `omnidaemon init` was installed from.",
            f"From `{url}`, the file that the writer of this project was installed from. To "
            "upgrade, name another one in `pyproject.toml`.",
        )
    name = f"omnidaemon-{importlib.metadata.version('omnidaemon')}-py3-none-any.whl"
    return Source(
        f"omnidaemon[{_EXTRAS}] @ {{root:uri}}/vendor/{name}",
        "Packed from the installation that ran `omnidaemon init`.",
        f"From `vendor/{name}`, which `omnidaemon init` packed from its own installation"
        f"{f' ({url})' if url else ''}: no other machine could install from there. To upgrade, put "
        "a newer wheel beside it and name that in `pyproject.toml`.",
        wheel=name,
    )


def pack_wheel() -> bytes:
    """The running installation as a wheel; it is pure Python, so that nothing is built."""
    metadata = importlib.metadata.distribution("omnidaemon")
    info = f"omnidaemon-{metadata.version}.dist-info"
    contents = dict(_package_files())
    for name in _METADATA:
        contents[f"{info}/{name}"] = (metadata.read_text(name) or "").encode()
    contents[f"{info}/WHEEL"] = _WHEEL.encode()
    rows = [
        f"{name},sha256={_digest(content)},{len(content)}" for name, content in contents.items()
    ]
    record = f"{info}/RECORD"
    contents[record] = "\n".join([*rows, f"{record},,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _package_files() -> Iterator[tuple[str, bytes]]:
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
            yield f"omnidaemon/{file.relative_to(package).as_posix()}", file.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
