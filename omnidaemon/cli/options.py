"""Options that several commands share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from omnidaemon.envelope import check_name
from omnidaemon.errors import ConfigurationError, PayloadError


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
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(what: str | Callable[[], str], yes: bool) -> None:
    """Asks whether to do what cannot be undone.

    Args:
        what: What is about to happen: "delete agent 'a'"; a function is called only if somebody is
            there to read it.
        yes: True if that was answered on the command line.

    Raises:
        ConfigurationError: The answer is no, or nobody is there to give one.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError(
            "nothing was done: this asks first, and nobody can be asked here; add --yes"
        )
    text = what if isinstance(what, str) else what()
    if not click.confirm(f"This will {text}. Go on?", err=True):
        raise ConfigurationError("nothing was done")


def json_value(text: str) -> Any:
    """The text read as JSON, or as it is if it is none."""
    try:
        return json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return text


def no_constant(name: str) -> NoReturn:
    """Refuses NaN and the infinities, which Python reads and JSON has not."""
    raise ValueError(f"{name} is not JSON")
