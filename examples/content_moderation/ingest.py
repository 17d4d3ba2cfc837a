"""Hands one file to the moderator, with what is known about it.

python -m examples.content_moderation.ingest FILE --metadata '{"author": "ada"}' [--wait 30]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from examples.content_moderation.values import TASKS, FileTask
from omnidaemon import App, OmniDaemonError


def metadata(text: str) -> dict[str, Any]:
    """A JSON object, as the command line has it."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(
            f"""{error}; give a JSON object such as '{{"author": "ada"}}'"""
        ) from error


async def ingest(file: Path, known: dict[str, Any], wait: float | None) -> None:
    """Publishes it, and prints the task's id; then waits for the verdict and prints that."""
    async with App("content-moderation-ingest") as app:
        task = await app.send(TASKS, FileTask(str(file), metadata=known), source="ingest")
        print(task.id, flush=True)
        if wait is not None:
            verdict = await task.result("moderator", timeout=wait)
            print(msgspec.json.format(msgspec.json.encode(verdict)).decode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it; errors are one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.content_moderation.ingest",
        description="Hands one file to the moderator, with what is known about it.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--metadata", type=metadata, default={}, metavar="JSON", help="kept with the review"
    )
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="for the verdict, and show it"
    )
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        parser.error(f"{options.file} is no file")
    try:
        anyio.run(ingest, options.file.absolute(), options.metadata, options.wait)
    except OmniDaemonError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
