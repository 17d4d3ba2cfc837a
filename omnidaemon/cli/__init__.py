"""The command line: `omnidaemon COMMAND ...`. A command's module is imported when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from omnidaemon.errors import OmniDaemonError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The help of the whole stands here, so that showing it imports no command.
_COMMANDS = {
    "init": "Write a new project: app, test, Dockerfile, compose.",
    "worker": "Run the agents of an app.",
    "demo": "See a pipeline of agents work on text files.",
    "top": "Watch agents, rates and failures live.",
    "agent": "List, pause, resume and delete agents.",
    "task": "Publish tasks and see what became of them.",
    "bus": "Look at topics, groups and dead letters; replay.",
    "storage": "Check the store; clear what is kept in it.",
    "config": "Keep values that all processes can read.",
    "health": "Tell whether workers live and the backends answer.",
    "metrics": "Count what each agent has done.",
    "info": "Show version, backends and settings.",
}
_MODULES = {"health": "status", "metrics": "status", "info": "status"}


class _Failure(click.ClickException):
    """An error as one clear line, and exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(f"omnidaemon: error: {self.message}", err=True)


class _Commands(click.Group):
    """Imports a command's module when the command is used, and shows every error alike."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"omnidaemon.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Click would import every command here to learn what it is for."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text)
            for name, text in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OmniDaemonError as error:
            raise _Failure(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)  # as a shell reports what Ctrl-C ended
        except BaseExceptionGroup as group:
            # Task groups wrap what is raised in them; what is ours is shown as ours.
            if group.subgroup(KeyboardInterrupt) is not None:
                ctx.exit(130)
            ours, others = group.split(OmniDaemonError)
            if ours is None or others is not None:
                raise
            raise _Failure(str(_first(ours))) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # slow, and needed by nothing else here

        click.echo(f"omnidaemon {version('omnidaemon')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """OmniDaemon: an event-driven runtime for AI agents.

    Where events wait is chosen by environment variables or a .env file; without any it is an
    embedded SQLite file in .omnidaemon_data/. `omnidaemon info` shows the choice.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; rich heeds it by itself
        ctx.color = False


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets its escape, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="omnidaemon")
