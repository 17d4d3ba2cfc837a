"""The table of settings, from the Settings struct: its docstring, its fields and their defaults."""

from __future__ import annotations

import inspect
import re
from typing import Literal, get_args, get_origin, get_type_hints

from msgspec.structs import fields

from omnidaemon.settings import Settings

# As the struct's docstring has them: `name: What it means (VARIABLE).`
_ATTRIBUTE = re.compile(
    r"^    (?P<name>\w+): (?P<text>.+?) \((?P<variable>[A-Z_]+)\)\.$", re.DOTALL | re.MULTILINE
)
_WORDS = {True: "`true`", False: "`false`", None: "none", (): "none"}


def settings_table() -> str:
    """A row for each variable, in the order of the struct."""
    attributes = (inspect.getdoc(Settings) or "").partition("Attributes:\n")[2]
    found = {}
    for part in re.split(r"\n(?=    \w)", attributes):
        if match := _ATTRIBUTE.match(part.rstrip()):
            found[match["name"]] = match["variable"], " ".join(match["text"].split())
    kinds = get_type_hints(Settings)
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for field in fields(Settings):
        if field.name in found:
            variable, text = found[field.name]
            choices = _choices(kinds[field.name])
            rows.append(f"| `{variable}` | {_default(field.default)} | {text}.{choices} |")
    return "\n".join(rows) + "\n"


def _choices(kind: object) -> str:
    names = [
        name
        for part in (kind, *get_args(kind))
        if get_origin(part) is Literal
        for name in get_args(part)
    ]
    return f" One of {', '.join(f'`{name}`' for name in names)}." if names else ""


def _default(value: object) -> str:
    if isinstance(value, bool | tuple) or value is None:
        return _WORDS[value]
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"
