"""The reference of the command line, as a page: what click knows of each command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from omnidaemon.cli import cli

_BRACKETS = re.compile(r"\s*\[default: (?P<default>[^\]]+)\]")


def command_page() -> str:
    """Every command with its arguments and options."""
    intro = (
        "# Command reference\n\n"
        "Made from the commands themselves. [Command line](../cli.md) shows them at work.\n\n"
    )
    context = click.Context(cli, info_name="omnidaemon")
    return intro + "\n".join(_commands(cli, context))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        own = click.Context(command, info_name=name, parent=context)
        yield _section(command, own)
        if isinstance(command, click.Group):
            yield from _commands(command, own)


def _section(command: click.Command, context: click.Context) -> str:
    depth = context.command_path.count(" ")
    lines = [f"{'#' * (depth + 1)} {context.command_path}", ""]
    pieces = " ".join(command.collect_usage_pieces(context))
    lines += ["```text", f"{context.command_path} {pieces}", "```", ""]
    lines += [inspect.cleandoc(command.help or "").replace("\b\n", ""), ""]
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        lines += ["| option | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(option, context) for option in options]
        lines.append("")
    return "\n".join(lines)


def _row(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {_metavar(option, context)}"
    names = ", ".join(f"`{name}{value}`" for name in option.opts)
    text = " ".join((option.help or "").split())
    default = "**required**" if option.required else ""
    if found := _BRACKETS.search(text):
        default, text = found["default"], _BRACKETS.sub("", text)
    elif option.show_default and option.default is not None:
        default = f"`{option.default}`"
    if isinstance(option.type, click.Choice):
        choices = ", ".join(f"`{str(choice).lower()}`" for choice in option.type.choices)
        text = f"{text} One of {choices}."
    if option.multiple:
        default = "may be repeated" if "repeat" not in text else ""
    return f"| {names} | {default} | {_cell(text)} |"


def _metavar(option: click.Option, context: click.Context) -> str:
    if isinstance(option.type, click.Choice):
        return (option.name or "").removeprefix("log_").upper()
    if isinstance(option.type, click.IntRange):
        return "NUMBER"
    return option.make_metavar(context)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
