"""`omnidaemon config`: values that people keep for all processes, in the store."""

from __future__ import annotations

from typing import Any

import click

from omnidaemon.cli import backend
from omnidaemon.cli.options import json_option, json_value
from omnidaemon.cli.output import compact, emit_json, print_facts
from omnidaemon.errors import InvalidSettings
from omnidaemon.fleet import Fleet

_MISSING = object()


@click.group(short_help="Keep values that all processes can read.")
def config() -> None:
    """Keep values in the store, where every process can read them.

    They are yours; OmniDaemon's own settings are environment variables (`omnidaemon info`).
    """


@config.command("set")
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@json_option
def set_value(key: str, value: str, as_json: bool) -> None:
    """Keep VALUE under KEY: JSON if it is that, text otherwise."""
    read = json_value(value)
    backend.run(lambda app: Fleet(app).set_config(key, read))
    if as_json:
        emit_json({"key": key, "value": read})
    else:
        click.echo(f"{key} = {compact(read)}")


@config.command("get")
@click.argument("key", metavar="KEY")
@click.option("--default", metavar="VALUE", help="What is printed if there is none.")
@json_option
def get_value(key: str, default: str | None, as_json: bool) -> None:
    """Print the value kept under KEY; without one and without --default, exit with 1."""
    found = backend.run(lambda app: Fleet(app).get_config(key, _MISSING))
    if found is _MISSING:
        if default is None:
            raise InvalidSettings(f"there is no value {key!r}; see: omnidaemon config list")
        found = json_value(default)
    if as_json:
        emit_json(found)
    else:
        click.echo(found if isinstance(found, str) else compact(found))


@config.command("list")
@json_option
def list_values(as_json: bool) -> None:
    """Print all keys and values."""
    found: dict[str, Any] = backend.run(lambda app: Fleet(app).list_config())
    if as_json:
        emit_json(found)
    elif not found:
        click.echo("no values are kept")
    else:
        print_facts([(key, compact(value)) for key, value in found.items()])
