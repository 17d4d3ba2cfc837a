"""`omnidaemon storage`: whether the store answers, and clearing what is kept in it."""

from __future__ import annotations

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import confirm, json_option, yes_option
from omnidaemon.cli.output import emit_json, many, print_facts
from omnidaemon.errors import StoreError
from omnidaemon.fleet import Clearable, Fleet

_WHAT: dict[Clearable, tuple[str, str]] = {
    "agents": (
        "Clear the list of agents; those that run are listed again within seconds.",
        "remove the record of every agent",
    ),
    "results": (
        "Clear the results of all tasks.",
        "remove the results of all tasks",
    ),
    "metrics": (
        "Set all counters to zero.",
        "set the counters of all agents to zero",
    ),
    "all": (
        "Clear agents, results, metrics and the configuration.",
        "remove all agent records, results, counters and configuration values",
    ),
}


@click.group(short_help="Check the store; clear what is kept in it.")
def storage() -> None:
    """Check the store, and clear what is kept in it.

    Clearing stops no agent and removes no event: those are in the event bus.
    """


@storage.command()
@json_option
def health(as_json: bool) -> None:
    """Tell whether the store answers; exits with 1 if not."""
    settings = backend.shared_settings()

    async def command(app: App) -> str | None:
        try:
            await app.store.check()
        except StoreError as error:
            return str(error)
        return None

    trouble = backend.examine(command, str)
    if as_json:
        emit_json({"healthy": trouble is None, "backends": settings.why, "error": trouble})
    elif trouble is None:
        print_facts([("storage", "answers"), ("backends", settings.why)])
    if trouble is not None:
        raise StoreError(trouble)


def _add_clear(what: Clearable) -> None:
    short, consequence = _WHAT[what]

    @storage.command(f"clear-{what}", help=short)
    @yes_option
    @json_option
    def clear(yes: bool, as_json: bool) -> None:
        confirm(consequence, yes)
        removed = backend.run(lambda app: Fleet(app).clear(what))
        if as_json:
            emit_json({"status": "cleared", "removed": removed})
        else:
            parts = ", ".join(f"{name} ({many(n, 'record')})" for name, n in removed.items())
            click.echo(f"cleared: {parts}")


for _what in _WHAT:
    _add_clear(_what)
