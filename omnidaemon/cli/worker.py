"""`omnidaemon worker`: runs the agents of an app, in this process or in several."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import click

from omnidaemon.app import App
from omnidaemon.cli.options import Seconds
from omnidaemon.errors import ConfigurationError, ImportStringError, InvalidSettings
from omnidaemon.imports import import_string
from omnidaemon.logs import set_up
from omnidaemon.outcomes import shown
from omnidaemon.settings import LOG_FORMATS, LOG_LEVELS, LogFormat, load_settings
from omnidaemon.worker.exporter import Port
from omnidaemon.worker.process import Lifeline, run_worker
from omnidaemon.worker.supervisor import Supervisor

logger = logging.getLogger("omnidaemon.worker")


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Worker processes; one that crashes is started again.",
)
@click.option("--reload", "reloading", is_flag=True, help="Start again when a Python file changes.")
@click.option(
    "--grace",
    type=Seconds(),
    help="Seconds that running handlers get on Ctrl-C or SIGTERM.  [default: OMNIDAEMON_GRACE, 30]",
)
@click.option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="The folder that modules are looked for in first.  [default: the current one]",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    help="What is logged.  [default: LOG_LEVEL, INFO]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS, case_sensitive=False),
    help="How lines look; auto is JSON, but text at a terminal.  [default: LOG_FORMAT, auto]",
)
@click.option("--api", is_flag=True, help="Serve the admin API too; exit 1 if its port is taken.")
@click.option("--api-host", help="Where it listens.  [default: OMNIDAEMON_API_HOST, 127.0.0.1]")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65_535),
    help="Its port; 0 takes a free one.  [default: OMNIDAEMON_API_PORT, 8765]",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65_535),
    help="Serve this worker's own metrics for Prometheus; exit 1 if the port is taken. Further "
    "processes take the ports after it; 0 takes free ones.  [default: OMNIDAEMON_METRICS_PORT]",
)
@click.option(
    "--metrics-host", help="Where it listens.  [default: OMNIDAEMON_METRICS_HOST, 127.0.0.1]"
)
@click.option("--slot", type=int, default=1, hidden=True, help="Which of a supervisor's processes.")
@click.option("--lifeline", hidden=True, help="A supervisor's pipes.")
@click.option("--resume", is_flag=True, hidden=True, help="Lift pauses, as for a person.")
@click.option("--quiet", is_flag=True, hidden=True, help="Do not say which backends are used.")
def worker(
    target: str,
    processes: int,
    reloading: bool,
    grace: float | None,
    app_dir: Path,
    log_level: str | None,
    log_format: LogFormat | None,
    api: bool,
    api_host: str | None,
    api_port: int | None,
    metrics_port: int | None,
    metrics_host: str | None,
    slot: int,
    lifeline: str | None,
    resume: bool,
    quiet: bool,
) -> None:
    """Run the agents of an app until stopped.

    MODULE:APP names the app, or a function that makes it: shop.main:app. Ctrl-C or SIGTERM
    drains: what runs may finish within the grace, the rest is handed back. Again: it is
    cancelled and handed back at once.
    """
    directory = app_dir.resolve()
    # Pauses are lifted when a person starts a worker, not when a service or a supervisor does.
    resume = resume or (lifeline is None and sys.stdin is not None and sys.stdin.isatty())
    api = api or api_host is not None or api_port is not None
    if lifeline is None and (processes > 1 or reloading):
        settings = load_settings()
        set_up(log_level or settings.log_level, log_format or settings.log_format)
        arguments = [target, "--app-dir", str(directory)]
        passed_on = {
            "--grace": grace,
            "--log-level": log_level,
            "--log-format": log_format,
            "--metrics-port": metrics_port,
            "--metrics-host": metrics_host,
        }
        for name, value in passed_on.items():
            if value is not None:
                arguments += [name, str(value)]
        supervisor = Supervisor(
            arguments,
            processes=processes,
            resume=resume,
            reload_dir=directory if reloading else None,
        )
        with ExitStack() as stack:
            if api or settings.api_enabled:
                # The app is loaded here too: it may have chosen its backends itself.
                sys.path.insert(0, str(directory))
                stack.enter_context(_serving_api(load_app(target), api, api_host, api_port))
            sys.exit(anyio.run(supervisor.run))
    sys.path.insert(0, str(directory))
    app = load_app(target)
    # After the app's module, which may have set logging up in its own way.
    set_up(log_level or app.settings.log_level, log_format or app.settings.log_format)
    if not quiet:
        logger.info("OmniDaemon: %s", app.why)
    if lifeline is not None and app.transport.backend.startswith("memory:"):
        logger.warning(
            "events are kept in memory, which no other process sees: with --processes or --reload "
            "nobody can publish to this worker; choose sqlite or redis_stream"
        )
    with ExitStack() as stack:
        # A process that has a supervisor leaves this to it.
        if lifeline is None and (api or app.settings.api_enabled):
            stack.enter_context(_serving_api(app, api, api_host, api_port))
        run_worker(
            app,
            grace=grace,
            resume=resume,
            lifeline=_lifeline(lifeline),
            metrics=_metrics(app, metrics_host, metrics_port, slot),
        )


def _metrics(app: App, host: str | None, number: int | None, slot: int) -> Port | None:
    """Where this process serves its metrics: the first at the port given, the next after it."""
    found = app.settings.metrics_port if number is None else number
    if found is None:
        return None
    place = app.settings.metrics_host if host is None else host
    return Port(place, found + slot - 1 if found else 0, insisted=number is not None)


@contextmanager
def _serving_api(app: App, insisted: bool, host: str | None, port: int | None) -> Iterator[None]:
    """Serves the admin API from this process; if that cannot be, the worker runs without it.

    Raises:
        ConfigurationError: It was insisted on, and its port is taken, or a package is missing.
    """
    server = None
    try:
        from omnidaemon.admin import serve_api

        server = serve_api(app, host=host, port=port)
    except InvalidSettings as error:
        logger.error("%s", error)  # open to all, or with keys that nobody has: rather not at all
    except ConfigurationError as error:
        if insisted:
            raise
        logger.error("%s", error)
    try:
        yield
    finally:
        if server is not None:
            server.stop()


def load_app(target: str) -> App:
    """Imports the app named by "module:attribute"; a function there is called to make it.

    Raises:
        ImportStringError: There is no such thing, it is no app, or its module fails.
    """
    try:
        found = import_string(target)
        if inspect.iscoroutinefunction(found):
            raise ImportStringError(f"{target!r} is async: name an App, or a plain function")
        if not isinstance(found, App) and callable(found):
            found = found()
    except ImportStringError:
        raise
    except ConfigurationError as error:
        raise ImportStringError(f"{target!r} cannot be loaded{_where(error)}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module may raise
        raise ImportStringError(
            f"{target!r} cannot be loaded{_where(error)}: {type(error).__name__}: {shown(error)}"
        ) from error
    if not isinstance(found, App):
        raise ImportStringError(
            f"{target!r} is no App but {type(found).__name__}: name the variable that holds "
            "`App(...)`, or a function that returns one"
        )
    return found


def _where(error: BaseException) -> str:
    """The place in the user's code that raised, as ", at file:line"; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", at {os.path.relpath(error.filename)}:{error.lineno}"
    ours = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        inside = frame.filename.startswith((ours + os.sep, "<frozen"))
        if not inside and f"{os.sep}importlib{os.sep}" not in frame.filename:
            return f", at {os.path.relpath(frame.filename)}:{frame.lineno}"
    return ""


def _lifeline(text: str | None) -> Lifeline | None:
    if text is None:
        return None
    ready, _, alive = text.partition(":")
    return Lifeline(int(ready), int(alive))
