"""How groups are shown: how far each is, and which of them nobody serves any more."""

from __future__ import annotations

from collections.abc import Sequence

from omnidaemon.cli.output import clock, many, plain, print_table
from omnidaemon.messages import GroupInfo


def print_groups(groups: Sequence[tuple[str, GroupInfo | None]], what: str) -> None:
    """Prints a line per group.

    Args:
        groups: What to call each; None for a topic that has none.
        what: The heading of the names.
    """
    print_table(
        [
            (what, "text"),
            ("lag", "number"),
            ("in flight", "number"),
            ("waiting", "number"),
            ("dead", "alarm"),
            ("workers", "number"),
            ("seen", "text"),
        ],
        [
            (
                name,
                group.lag,
                group.leased,
                group.waiting,
                group.dead,
                group.consumers,
                _seen(group),
            )
            if group is not None
            else (name, None, None, None, None, 0, None)
            for name, group in groups
        ],
    )


def _seen(group: GroupInfo) -> str | None:
    seen = "now" if group.consumers else None if group.seen is None else clock(group.seen)
    return f"{seen or '-'}, paused" if group.paused else seen


def forgotten_text(group: GroupInfo) -> str:
    """What to say of a group without a worker, and how to be rid of it."""
    return (
        f"agent {plain(group.name)} of topic {plain(group.topic)} has had no worker since "
        f"{clock(group.seen or 0.0)}; {many(group.lag + group.leased + group.waiting, 'event')} "
        f"not done yet. To delete it: omnidaemon agent delete --topic {plain(group.topic)} "
        f"--name {plain(group.name)}"
    )
