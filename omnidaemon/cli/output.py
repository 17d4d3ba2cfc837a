"""What commands print: tables on a terminal, aligned text in a pipe, JSON when asked for."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import click
import msgspec

Kind = Literal["text", "number", "alarm", "id", "below", "status"]
Column = tuple[str, Kind]

STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "failed": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
    "stopped": "yellow",
    "no worker": "yellow",
    "paused": "yellow",
    "dead": "bold red",
}
_RIGHT = ("number", "alarm")
_BELOW_WIDTH = 40
_BELOW_LINES = 3
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def on_terminal() -> bool:
    """True if a person looks at standard output."""
    return sys.stdout.isatty()


def emit_json(value: Any) -> None:
    """Prints the value as JSON and nothing else."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def plain(value: object) -> str:
    """The value on one line, without what could move a terminal's cursor or change its colours."""
    text = "-" if value is None or value == "" else str(value)
    return _CONTROL.sub(lambda found: " " if found[0] == "\n" else repr(found[0])[1:-1], text)


def compact(value: Any, most: int | None = None) -> str:
    """The value as JSON on one line, cut to `most` characters."""
    text = msgspec.json.encode(value).decode()
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def clock(moment: float) -> str:
    """Local time; with the date unless it is today."""
    local, today = time.localtime(moment), time.localtime()
    form = "%H:%M:%S" if local[:3] == today[:3] else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, local)


def many(count: int, noun: str) -> str:
    """The count with its noun, in the plural where it needs one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def span(seconds: float) -> str:
    """A length of time for people: 12 ms, 3.4 s, 5 min 20 s, 3 h 10 min, 2 d 4 h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, one, other in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "min")):
        if whole >= big:
            return f"{whole // big} {one} {whole % big // small} {other}"
    return f"{whole // 60} min {whole % 60} s"


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under their columns' names.

    Args:
        columns: Name and kind. On a terminal "text" wraps, "number" is aligned to the right,
            "alarm" too and is red unless it is 0, "id" and "status" keep their width, and "below"
            goes to a line of its own if all do not fit beside each other. In a pipe every row is
            one line.
        rows: A value for each column.
    """
    cells = [[plain(value) for value in row] for row in rows]
    if not on_terminal():
        for line in _aligned(columns, cells):
            click.echo(line)
        return
    below = [n for n, (_, kind) in enumerate(columns) if kind == "below"]
    widths = _widths(columns, cells)
    needed = sum(min(w, _BELOW_WIDTH) if n in below else w for n, w in enumerate(widths))
    if below and needed + 2 * len(columns) > _terminal_width():
        _print_stacked(columns, cells, below)
    else:
        _print_rich(columns, cells)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(name), *(len(r[n]) for r in rows)) for n, (name, _) in enumerate(columns)]


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = _widths(columns, rows)
    for row in [[name for name, _ in columns], *rows]:
        padded = (
            cell.rjust(width) if kind in _RIGHT else cell.ljust(width)
            for cell, width, (_, kind) in zip(row, widths, columns, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _print_stacked(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], below: Sequence[int]
) -> None:
    """Each row's short values in a line, and the long ones wrapped beneath."""
    beside = [n for n in range(len(columns)) if n not in below]
    heads = _aligned([columns[n] for n in beside], [[row[n] for n in beside] for row in rows])
    click.secho(next(heads), bold=True)
    for head, row in zip(heads, rows, strict=True):
        click.echo(head)
        text = "  ".join(row[n] for n in below)
        for line in textwrap.wrap(text, _terminal_width() - 3, max_lines=_BELOW_LINES):
            click.secho(f"   {line}", dim=True)


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, kind in columns:
        table.add_column(
            Text(name),
            justify="right" if kind in _RIGHT else "left",
            no_wrap=kind in ("id", "status", *_RIGHT),
            overflow="fold",
        )
    for row in rows:
        # Text, never str: rich would read what stands in brackets as its own markup.
        table.add_row(
            *(
                Text(cell, style=_style(cell, kind))
                for cell, (_, kind) in zip(row, columns, strict=True)
            )
        )
    Console(highlight=False).print(table)


def _style(cell: str, kind: Kind) -> str:
    if kind == "alarm":
        return "" if cell in ("0", "-") else "bold red"
    return STYLES.get(cell, "") if kind == "status" else ""


def print_tree(branches: Sequence[tuple[str, Sequence[Sequence[tuple[str, str]]]]]) -> None:
    """Prints names with what belongs to each.

    Args:
        branches: A name and its lines; a line consists of pieces with their styles.
    """
    if not on_terminal():
        for name, lines in branches:
            click.echo(plain(name))
            for pieces in lines:
                click.echo("  " + "  ".join(text for text, _ in pieces).rstrip())
        return
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    console = Console(highlight=False)
    for name, lines in branches:
        tree = Tree(Text(plain(name), style="bold"), guide_style="dim")
        for pieces in lines:
            line = Text("  ").join(Text(text, style=style) for text, style in pieces)
            line.no_wrap, line.overflow = True, "ellipsis"
            tree.add(line)
        console.print(tree)


def print_facts(facts: Sequence[tuple[str, object]], *, indent: str = "") -> None:
    """Prints name and value, one per line."""
    width = max(len(name) for name, _ in facts) + 1
    for name, value in facts:
        say(plain(value), first=f"{indent}{name + ':':<{width}}  ")


def say(text: str, *, first: str = "") -> None:
    """Prints text behind `first`; on a terminal wrapped at words, aligned behind it."""
    if not on_terminal():
        click.echo(f"{first}{text}")
        return
    room = max(20, _terminal_width() - len(first))
    for line in textwrap.wrap(text, room, break_on_hyphens=False) or [""]:
        click.echo(f"{first}{line}")
        first = " " * len(first)


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns
