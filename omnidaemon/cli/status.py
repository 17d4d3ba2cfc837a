"""`omnidaemon health`, `metrics` and `info`: how the whole is doing."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from collections import defaultdict
from typing import Any

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.bus_view import forgotten_text
from omnidaemon.cli.options import LIMIT, TOPIC, json_option
from omnidaemon.cli.output import emit_json, plain, print_facts, print_table, span
from omnidaemon.errors import OmniDaemonError
from omnidaemon.fleet import Fleet
from omnidaemon.health import Health
from omnidaemon.settings import load_settings, redact_url

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([^'\"]+)['\"]")


@click.command()
@json_option
def health(as_json: bool) -> None:
    """Tell whether workers live and the backends answer.

    Exits with 1 if a backend does not answer; that no worker runs is no error.
    """
    settings = backend.shared_settings()

    async def command(app: App) -> Health:
        return await Fleet(app).health()

    def silent(text: str) -> Health:
        return Health(settings.event_bus, [], [], [], text, text, time.time())

    found = backend.examine(command, silent)
    if as_json:
        emit_json(found.public())
    else:
        _print_health(found, settings.why)
    if trouble := found.bus or found.storage:
        raise OmniDaemonError(trouble)


def _print_health(found: Health, why: str) -> None:
    print_facts(
        [
            ("status", found.status),
            ("backends", why),
            ("event bus", "does not answer" if found.bus else "answers"),
            ("storage", "does not answer" if found.storage else "answers"),
            ("workers", len(found.workers)),
        ]
    )
    if found.workers:
        click.echo()
        now = time.time()
        print_table(
            [
                ("worker", "text"),
                ("host", "text"),
                ("pid", "number"),
                ("up", "number"),
                ("state", "status"),
                ("running", "number"),
                ("agents", "below"),
            ],
            [
                (
                    w.app,
                    w.host,
                    w.pid,
                    span(now - w.started_at),
                    w.state,
                    w.running,
                    ", ".join(w.agents),
                )
                for w in found.workers
            ],
        )
    for worker in found.workers:
        if worker.detail:
            click.echo(f"\nworker {worker.pid} on {plain(worker.host)}: {plain(worker.detail)}")
    for group in found.forgotten:
        click.echo(f"\n{forgotten_text(group)}")


@click.command()
@click.option("--topic", type=TOPIC, help="Only this topic's agents.")
@click.option("--limit", type=LIMIT, default=100, show_default=True, help="At most so many agents.")
@click.option("--tenant-id", help="Only this tenant's tasks.")
@json_option
def metrics(topic: str | None, limit: int, tenant_id: str | None, as_json: bool) -> None:
    """Count what each agent has done: runs received, succeeded, failed, and their mean time."""

    async def command(app: App) -> dict[str, dict[str, dict[str, float]]]:
        return await Fleet(app).metrics(topic, limit=limit, tenant_id=tenant_id)

    found = backend.run(command)
    if as_json:
        emit_json(found)
    elif not found:
        click.echo("no agent has run yet" + (f" on topic {topic!r}" if topic else ""))
    else:
        print_table(
            [
                ("topic", "text"),
                ("agent", "text"),
                ("received", "number"),
                ("processed", "number"),
                ("failed", "alarm"),
                ("mean time", "number"),
            ],
            [
                (
                    name,
                    agent,
                    m["tasks_received"],
                    m["tasks_processed"],
                    m["tasks_failed"],
                    span(m["avg_processing_time_sec"]),
                )
                for name, agents in found.items()
                for agent, m in agents.items()
            ],
        )


@click.command()
@json_option
def info(as_json: bool) -> None:
    """Show version, backends and why they were chosen, extras, and settings without secrets."""
    settings = load_settings()
    shown: dict[str, Any] = {
        "version": importlib.metadata.version("omnidaemon"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backends": settings.why,
        "transport_url": redact_url(settings.transport_url),
        "store_url": redact_url(settings.store_url),
        "extras": _extras(),
        "settings": settings.public(),
    }
    if as_json:
        emit_json(shown)
        return
    extras, public = shown.pop("extras"), shown.pop("settings")
    print_facts([(name.replace("_", " "), value) for name, value in shown.items()])
    click.echo("\nextras")
    print_facts(
        [
            (name, ", ".join(f"{p} {v or '(not installed)'}" for p, v in packages.items()))
            for name, packages in extras.items()
        ]
        or [("none", None)],
        indent="  ",
    )
    click.echo("\nsettings")
    print_facts(
        [(n, ", ".join(v) if isinstance(v, tuple) else v) for n, v in public.items()], indent="  "
    )


def _extras() -> dict[str, dict[str, str | None]]:
    """The packages of each extra with their installed versions, as our own metadata lists them."""
    found: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for requirement in importlib.metadata.requires("omnidaemon") or []:
        if match := _REQUIREMENT.match(requirement):
            package, extra = match.groups()
            try:
                found[extra][package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[extra][package] = None
    return dict(found)
