"""How `omnidaemon top` looks: a screen that is drawn again, and plain text for a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from omnidaemon.cli.output import STYLES, clock, many, on_terminal, plain, print_table, span
from omnidaemon.cli.top_sample import Failure, Line, Sample

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_HEADS = (
    (100, ("workers", "lag", "in flight", "waiting", "done/s", "failed/s", "dead", "mean")),
    (70, ("lag", "in flight", "done/s", "failed/s", "dead")),
    (0, ("lag", "failed/s", "dead")),
)
"""What is shown of an agent from which width on."""
_MOST_FAILURES = 6
_MARKS = ("  ", "· ", "! ")
_NAME_STYLES = ("", "yellow", "bold red")


def state_of(line: Line) -> str:
    """The agent's state in a word or two."""
    return "no worker" if line.agent.status == "stopped" else line.agent.status


def rate(value: float | None) -> str:
    """A number per second for people."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def print_sample(sample: Sample, where: str) -> None:
    """Prints a sample once: totals, agents, failures.

    Args:
        sample: What is printed.
        where: Which backends were looked at.
    """
    if on_terminal():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(screen(sample, where=where, width=console.width))
        return
    click.echo(", ".join(text for text, _ in [*_who(sample), *_totals(sample)]))
    if not sample.lines:
        return
    click.echo()
    print_table(
        [
            ("topic/agent", "text"),
            ("state", "status"),
            ("workers", "number"),
            ("lag", "number"),
            ("in flight", "number"),
            ("waiting", "number"),
            ("done/s", "number"),
            ("failed/s", "alarm"),
            ("dead", "alarm"),
            ("mean", "number"),
        ],
        [
            (
                f"{line.agent.topic}/{line.agent.name}",
                state_of(line),
                line.workers,
                line.lag,
                line.in_flight,
                line.waiting,
                rate(line.done_rate),
                rate(line.failed_rate),
                line.dead,
                span(line.counted.average),
            )
            for line in sample.lines
        ],
    )
    if sample.failures:
        click.echo()
        print_table(
            [
                ("failed", "text"),
                ("topic/agent", "text"),
                ("now", "status"),
                ("times", "number"),
                ("newest task", "id"),
                ("cause", "below"),
            ],
            [
                (
                    clock(one.at),
                    f"{one.topic}/{one.agent}",
                    one.kind,
                    one.count,
                    one.task_id,
                    f"{one.type}: {one.message}",
                )
                for one in sample.failures
            ],
        )


def _who(sample: Sample) -> list[tuple[str, str]]:
    return [
        (sample.status, STYLES.get(sample.status, "green")),
        (f"{many(len(sample.workers), 'worker')}, {many(len(sample.lines), 'agent')}", ""),
    ]


def _totals(sample: Sample) -> list[tuple[str, str]]:
    """The sums, in pieces with their styles."""
    failed, dead = sample.total("failed_rate"), int(sample.total("dead"))
    waiting = int(sample.total("waiting"))
    return [
        (f"{rate(sample.total('done_rate'))} done/s", "bold"),
        (f"{rate(failed)} failed/s", "bold red" if failed else ""),
        (f"lag {int(sample.total('lag')):,}", ""),
        (f"{int(sample.total('in_flight')):,} in flight", ""),
        (f"{waiting:,} waiting", "yellow" if waiting else ""),
        (f"{dead:,} dead", "bold red" if dead else ""),
    ]


def screen(
    sample: Sample,
    *,
    where: str,
    width: int,
    height: int | None = None,
    trouble: str | None = None,
    keys: str = "",
) -> RenderableType:
    """The whole screen.

    Args:
        sample: What is shown.
        where: Which backends are looked at.
        width: Of the terminal, in letters.
        height: Of the terminal, in lines; None shows all agents.
        trouble: Why there is no newer sample; None if this one is fresh.
        keys: The last line: which keys do what.
    """
    from rich.console import Group
    from rich.text import Text

    failures = _failures(sample.failures, width)
    totals = Text("  ").join(Text(text, style=style) for text, style in _totals(sample))
    totals.no_wrap = True
    parts: list[RenderableType] = [_title(sample, where, width), totals, Text()]
    if trouble is not None:
        parts.insert(1, Text(plain(trouble), style="white on red", no_wrap=True))
    # What failed is always on the screen; agents get the lines that are left.
    taken = len(parts) + len(failures) + len(("heading", "", "keys"))
    room = len(sample.lines) if height is None else max(1, height - taken)
    parts += [_agents(sample.lines, width, room), *failures]
    if keys:
        parts += [Text(), Text(keys, style="dim")]
    return Group(*parts)


def _title(sample: Sample, where: str, width: int) -> Text:
    """Who and how many on the left, the time on the right, the backend if there is room."""
    from rich.text import Text

    title = Text("omnidaemon top", style="bold", no_wrap=True)
    for text, style in _who(sample):
        title.append("  ").append(text, style=style or "not bold")
    now = clock(sample.at)
    room = width - title.cell_len - len(now) - 4
    shown = where if len(where) <= room else f"…{where[len(where) - room + 1 :]}"
    title.append(f"  {shown if room > 8 else '':<{max(0, room)}}  ", style="not bold dim")
    return title.append(now, style="not bold")


def _agents(lines: Sequence[Line], width: int, room: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return Text("no agents: start some with `omnidaemon worker MODULE:APP`", style="yellow")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    table.add_column("  topic/agent", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    heads = next(heads for least, heads in _HEADS if width >= least)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    shown = lines if len(lines) <= room else lines[: max(1, room - 1)]
    for line in shown:
        cells = {
            "workers": Text(str(line.workers)),
            "lag": Text(f"{line.lag:,}", style="yellow" if line.trouble == 1 else ""),
            "in flight": Text(f"{line.in_flight:,}", style="cyan" if line.in_flight else "dim"),
            "waiting": Text(f"{line.waiting:,}", style="yellow" if line.waiting else "dim"),
            "done/s": Text(rate(line.done_rate)),
            "failed/s": Text(rate(line.failed_rate), style="bold red" if line.failed_rate else ""),
            "dead": Text(f"{line.dead:,}", style="bold red" if line.dead else "dim"),
            "mean": Text(span(line.counted.average)),
        }
        name = f"{_MARKS[line.trouble]}{plain(line.agent.topic)}/{plain(line.agent.name)}"
        state = state_of(line)
        table.add_row(
            Text(name, style=_NAME_STYLES[line.trouble]),
            Text(state, style=STYLES.get(state, "")),
            *(cells[head] for head in heads),
        )
    if len(shown) == len(lines):
        return table
    return Group(table, Text(f"  … {many(len(lines) - len(shown), 'more agent')}", style="dim"))


def _failures(failures: Sequence[Failure], width: int) -> list[RenderableType]:
    """For each who, how often and when, and beneath it why."""
    from rich.text import Text

    if not failures:
        return [Text(), Text("nothing has failed", style="green")]
    lines: list[RenderableType] = [Text(), Text("What failed", style="bold")]
    for one in failures[:_MOST_FAILURES]:
        kind = "given up" if one.kind == "dead" else "runs again"
        times = "" if one.count == 1 else f", {one.count:,}{'+' if one.more else ''}×"
        task = f"  task {plain(one.task_id)}"
        head = Text("  ", no_wrap=True)
        head.append(f"{plain(one.topic)}/{plain(one.agent)}", style=_failure_style(one))
        head.append(f"  {kind}{times}, {clock(one.at)}")
        if head.cell_len + len(task) <= width:
            head.append(task, style="dim")
        head.truncate(width, overflow="ellipsis")
        cause = textwrap.wrap(
            f"{plain(one.type)}: {plain(one.message)}", width - 4, max_lines=2, placeholder=" …"
        )
        lines += [head, *(Text(f"    {line}", no_wrap=True) for line in cause)]
    if len(failures) > _MOST_FAILURES:
        more = len(failures) - _MOST_FAILURES
        lines.append(Text(f"  … {more} more: omnidaemon bus dlq --topic TOPIC", style="dim"))
    return lines


def _failure_style(failure: Failure) -> str:
    return "bold red" if failure.kind == "dead" else "yellow"
