"""The page of patterns: what each file of examples/patterns says of itself, and its agents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docs.generate.regions import ROOT, excerpt

FOLDER = ROOT / "examples" / "patterns"


def patterns_text() -> str:
    """A section for each pattern, in the order of the folder's README."""
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([^]]+)\]\((\w+)\.py\) \| ([^|]+) \|", table, re.MULTILINE)
    return "\n".join(_pattern(title, name) for title, name, _ in listed)


def _pattern(title: str, name: str) -> str:
    file = FOLDER / f"{name}.py"
    lines = [f"## {title}", "", *_prose(file)]
    lines += [f"<!-- file: examples/patterns/{name}.py #agent -->", "```python"]
    lines += [excerpt(file, ["#agent"]) + "```", ""]
    commands = " and ".join(f"`{command}`" for command in _commands(file))
    lines += [f"Run {commands}, in two terminals.", ""]
    return "\n".join(lines)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _prose(file: Path) -> Iterator[str]:
    """The paragraphs of the docstring but for the commands."""
    _, _, text = _docstring(file).partition(": ")  # the title stands above
    for paragraph in f"{text[0].upper()}{text[1:]}".split("\n\n"):
        if not paragraph.startswith("    "):
            text = re.sub(r"^(When|Promised|Not promised):", r"**\1:**", paragraph)
            text = re.sub(r"(?<= )(Not promised):", r"**\1:**", text)
            yield from (text, "")


def _commands(file: Path) -> Iterator[str]:
    for line in _docstring(file).splitlines():
        if line.startswith("    "):
            yield line.partition("  #")[0].strip()
