"""Options that several commands share."""

from __future__ import annotations

import math

import click

from omnidaemon.envelope import check_name
from omnidaemon.errors import PayloadError


class Seconds(click.ParamType[float]):
    """Seconds from 0 up to a bound; click's own range lets NaN through."""

    name = "seconds"

    def __init__(self, most: float = 86_400.0) -> None:
        self._most = most

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Reads the number, or fails with what is accepted."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= self._most:
            self.fail(f"{value!r}: give seconds from 0 to {self._most:.0f}", param, ctx)
        return seconds


class Name(click.ParamType[str]):
    """The name of a topic or an agent."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Checks the name, or fails with what is accepted."""
        try:
            return check_name(value, self.name)
        except PayloadError as error:
            self.fail(str(error), param, ctx)


TOPIC = Name("topic")
AGENT = Name("agent")
LIMIT = click.IntRange(1, 10_000)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
