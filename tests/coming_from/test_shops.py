"""The same shop on each framework does what the page about changing over says, on a real Redis.

The other frameworks are in an environment of their own: `nox -s coming-from`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.redis.servers import RedisServer, binaries
from tests.started import Started, environment

ROOT = Path(__file__).resolve().parents[2]
SHOPS = "examples.coming_from.on_"
MAILED = "mailed: A1 has cost 9.5"

# The command of each worker, a word of its log that says that it listens, and what `ask` prints.
WORKERS = {
    "celery": (f"celery -A {SHOPS}celery worker --loglevel info --concurrency 1", "ready.", MAILED),
    "taskiq": (f"taskiq worker {SHOPS}taskiq:broker --workers 1", "Listening started.", MAILED),
    "faststream": (f"faststream run {SHOPS}faststream:app", "app started successfully", ""),
    "omnidaemon": (
        f"omnidaemon worker {SHOPS}omnidaemon:app",
        "is ready",
        "{'order': 'A1', 'charged': 9.5}",
    ),
}


@pytest.fixture(scope="module")
def redis_url(
    tmp_path_factory: pytest.TempPathFactory, no_server: Callable[[str], NoReturn]
) -> Iterator[str]:
    found = binaries()
    if not found:
        no_server("there is no redis-server")
    server = RedisServer(found[max(found)], tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.mark.parametrize("framework", WORKERS)
def test_an_order_is_charged_and_mailed(framework: str, redis_url: str):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed here: nox -s coming-from")
    command, ready, answer = WORKERS[framework]
    env = environment(REDIS_URL=redis_url)
    worker = Started(ROOT, (sys.executable, "-m", *command.split()), env)
    try:
        worker.line(ready)
        asked = subprocess.run(
            [sys.executable, "-c", f"from {SHOPS}{framework} import ask; ask()"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert asked.stdout.strip() == answer
        if answer != MAILED:
            worker.line(MAILED)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # some wait for ever for a read to end
        worker.clean_up()
