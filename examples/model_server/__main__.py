"""Serves the stand-in for a model, and runs a program that asks it.

python -m examples.model_server COMMAND ...   runs the command with it, and ends with the command
python -m examples.model_server               serves on port 8080 until Ctrl-C
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading

from examples.model_server.server import ModelServer


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m examples.model_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--port", type=int, help="8080, or a free one for a command")
    options.add_argument("--busy", type=int, default=0, help="refuse the first N requests with 429")
    options.add_argument("command", nargs=argparse.REMAINDER, help="what to run with it")
    given = options.parse_args()
    port = given.port if given.port is not None else 0 if given.command else 8080
    with ModelServer(port, busy=given.busy, log=True) as model:
        return _run(model, given.command) if given.command else _serve(model)


def _run(model: ModelServer, command: list[str]) -> int:
    print(f"model: a stand-in at {model.url}", flush=True)
    try:
        program = subprocess.Popen(command, env={**os.environ, **model.environment})
    except FileNotFoundError:
        print(f"there is no program {command[0]!r}", file=sys.stderr)
        return 127
    # The program decides when it ends; a terminal tells it Ctrl-C itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    return program.wait()


def _serve(model: ModelServer) -> int:
    print("The stand-in for a model listens. Where agents run, first say:\n")
    for name, value in model.environment.items():
        print(f"export {name}={value}")
    print(flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
