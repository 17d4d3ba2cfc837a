"""Draws pages: templates, the assets beside them, and how numbers and times read."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

from jinja2 import DictLoader, Environment, StrictUndefined
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from omnidaemon.admin.answers import Refused
from omnidaemon.records import datable, iso

NOTICE = "omnidaemon_notice"
THEME = "omnidaemon_theme"
THEMES = ("auto", "light", "dark")

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NUMBERS = re.compile(r"[0-9a-fA-F]*[0-9][0-9a-fA-F]*")
_PLAIN = "/:@!$&'()*+,;=-._~"  # what a path may hold as it is


def base_of(request: Request) -> str:
    """`/ui`, below the path that the API is mounted at."""
    return f"{request.scope.get('root_path', '')}/ui"


def address(base: str, path: str, **query: str | int | None) -> str:
    """A path below the base, its parts quoted, with what is not empty of the query."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return quote(base + path, safe=_PLAIN) + (f"?{urlencode(given)}" if given else "")


def is_ours(base: str, wanted: str) -> bool:
    """Whether this leads to a page of the dashboard, and nowhere else."""
    ours = wanted == base or wanted.startswith((f"{base}/", f"{base}?"))
    return ours and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()


class Drawing:
    """Draws pages from the templates of this package, and has its assets.

    Attributes:
        assets: Content and media type by name.
        version: A hash of all assets, part of their addresses, so that browsers may keep them.
    """

    def __init__(self) -> None:
        # All are read at once: drawing a page must not wait for a disk.
        found = {file.name: file.read_bytes() for file in sorted((_HERE / "static").iterdir())}
        self.assets = {
            name: (data, _TYPES[Path(name).suffix])
            for name, data in found.items()
            if Path(name).suffix in _TYPES
        }
        everything = b"".join(data for data, _ in self.assets.values())
        self.version = hashlib.sha256(everything).hexdigest()[:12]
        templates = {file.name: file.read_text("utf-8") for file in (_HERE / "templates").iterdir()}
        self._env = Environment(
            loader=DictLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for show in (ago, duration, first_line, moment, number, preview, short, size):
            self._env.filters[show.__name__] = show
        self._env.globals["ui"] = self._env.get_template("parts.html").module

    def page(
        self,
        request: Request,
        template: str,
        status: int,
        values: dict[str, Any],
        fragment: str | None = None,
    ) -> Response:
        """The page, or its block of the name `fragment`.

        Raises:
            Refused: There is no such block.
        """
        base = base_of(request)
        theme = request.cookies.get(THEME, "")
        notice = unquote(request.cookies.get(NOTICE, ""))
        query = request.url.query
        context = {
            "base": base,
            "url": lambda path, **query: address(base, path, **query),
            "static": lambda name: f"{base}/static/{self.version}/{name}",
            "here": quote(request.scope["path"], safe=_PLAIN) + (f"?{query}" if query else ""),
            "theme": theme if theme in THEMES else "auto",
            "notice": notice,
            "now": time.time(),
            **values,
        }
        drawn = self._env.get_template(template)
        if fragment is not None:
            if fragment not in drawn.blocks:
                raise Refused(404, f"this page has no part {fragment!r}")
            text = "".join(drawn.blocks[fragment](drawn.new_context(context)))
        else:
            text = drawn.render(context)
        answer = Response(text, status, media_type="text/html; charset=utf-8")
        if notice and fragment is None:
            answer.delete_cookie(NOTICE, path=base)
        return answer


# How numbers and times read


def moment(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return iso(at)


def ago(at: float, now: float) -> str:
    """How long ago, or in how long, in the words that the browser goes on with."""
    seconds = now - datable(at)
    if abs(seconds) < 1:
        return "just now"
    text = duration(abs(seconds), parts=1)
    return f"{text} ago" if seconds > 0 else f"in {text}"


def duration(seconds: float, parts: int = 2) -> str:
    """Seconds as people write them: <1 ms, 4 ms, 1.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 and parts > 1 else f"{int(seconds)} s"
    left = int(seconds)
    found = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= length:
            found.append(f"{left // length} {unit}")
            left %= length
    return " ".join(found[:parts])


def number(value: float) -> str:
    """With thin spaces between thousands, and one digit after the point where that matters."""
    if value != int(value):
        return f"{value:.1f}" if abs(value) >= 0.1 else "<0.1"
    return f"{int(value):,}".replace(",", "\u2009")


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def first_line(text: str, most: int = 200) -> str:
    """The first line that says anything, cut."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def short(name: str) -> str:
    """An id by its beginning, where those of one sender differ; they end alike."""
    return name if len(name) <= 20 else f"{name[:18]}…"


def preview(data: bytes | Raw, most: int = 100) -> str:
    """The beginning of what a run returned."""
    text = bytes(memoryview(data)[: most * 4]).decode("utf-8", "replace")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def alike(text: str) -> str:
    """An error's first line without what differs from one task to the next: numbers and ids."""
    return _NUMBERS.sub("#", first_line(text))
