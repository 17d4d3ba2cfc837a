"""Runs many commands one after another in this process, as `omnidaemon` runs one.

Starting an interpreter for each would take minutes. Which commands, is in a JSON file; what came of
each is written to another: its exit code, its time in seconds and its standard error. Standard
output is this process's own, a terminal or a pipe, divided by lines that `divider` makes.
"""

from __future__ import annotations

import io
import json
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any


def divider(number: int) -> str:
    return f"<<<<{number}>>>>"


def main() -> None:
    from omnidaemon.cli import cli

    commands = json.loads(Path(sys.argv[1]).read_text())
    ended: list[dict[str, Any]] = []
    for number, command in enumerate(commands):
        code, errors, began = None, io.StringIO(), time.monotonic()
        with redirect_stderr(errors):
            try:
                cli(command, prog_name="omnidaemon")
            except SystemExit as end:
                code = end.code
        seconds = time.monotonic() - began
        print(divider(number), flush=True)
        ended.append({"code": code, "seconds": seconds, "stderr": errors.getvalue()})
    Path(sys.argv[2]).write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
