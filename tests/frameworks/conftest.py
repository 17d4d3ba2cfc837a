"""Examples with agent frameworks: real workers, each with the stand-in for a model.

A framework that is not installed has its tests left out; `nox -s frameworks` installs each of them
and names its file, which is then not left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from examples.model_server.conversation import Conversation, Returned
from examples.model_server.server import ModelServer
from omnidaemon import App
from omnidaemon.records import RunRecord, RunStatus
from omnidaemon.settings import Settings
from omnidaemon.tasks import TaskHandle
from tests.started import Started, environment

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180.0  # the first import of a framework takes half a minute on a busy machine
FRAMEWORKS = {
    "google_adk": "google.adk",
    "langgraph": "langgraph.graph",
    "omnicoreagent": "omnicoreagent",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
}
CHANGED_BY_PEOPLE = ("MODEL", "FILES", "MCP_FILESYSTEM", "OPENAI_BASE_URL")
BLOCK = re.compile(
    r"(?P<runs><!-- keeps running -->\n)?```sh[^\n]*\n(?P<code>.*?)```\n"
    r"(?:\n```json\n(?P<shown>.*?)```)?",
    re.DOTALL,
)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # a package above it is missing


collect_ignore = [
    f"test_{name}.py" for name, module in FRAMEWORKS.items() if not _installed(module)
]


class Example:
    """A clone of the repository in which an example runs."""

    def __init__(self, clone: Path, model: ModelServer) -> None:
        self.clone = clone
        self.model = model
        for folder in ("examples", "docs"):
            (clone / folder).symlink_to(ROOT / folder)
        self._started: list[Started] = []
        events = clone / ".omnidaemon_data/omnidaemon.db"
        self._app = App("tests", transport=f"sqlite:{events}", settings=Settings())
        self._loop = start_blocking_portal()

    def __enter__(self) -> Example:
        self._portal = self._loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._app.close)
        self._loop.__exit__(None, None, None)
        for program in self._started:
            if program.process.poll() is None:
                program.send(signal.SIGTERM)  # it ends what it started itself
                program.ended()
            program.clean_up()

    def start(self, *command: str, **changes: str) -> Started:
        """Starts a program where a reader would, with this environment's commands."""
        env = environment(**changes)
        for name in CHANGED_BY_PEOPLE:
            if name not in changes:
                env.pop(name, None)
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        self._started.append(Started(self.clone, command, env, seconds=SECONDS))
        return self._started[-1]

    def worker(self, name: str, **changes: str) -> Started:
        """A worker of the example that asks the fixture's model, and is ready."""
        target = f"examples.{name}.app:app"
        env = {**self.model.environment, **changes}
        worker = self.start("omnidaemon", "worker", target, **env)
        worker.line("is ready")
        return worker

    def send(self, topic: str, content: Any, **options: Any) -> str:
        """Publishes an event; its id."""

        async def send() -> TaskHandle:
            return await self._app.send(topic, content, **options)

        return self._portal.call(send).id

    def ask(self, topic: str, content: Any, **options: Any) -> Any:
        """Publishes an event and waits for its result."""

        async def ask() -> Any:
            return await self._app.request(topic, content, timeout=SECONDS, **options)

        return self._portal.call(ask)

    def record(self, topic: str, status: RunStatus = "succeeded") -> RunRecord:
        """Waits for a run of an agent that came to this; the newest of the topic."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for record in self._portal.call(self._app.tasks.newest, topic):
                if record.status == status:
                    return record
            threading.Event().wait(0.05)
        pytest.fail(f"nothing of {topic!r} has {status} within {SECONDS} s")

    def returned(self, tool: str) -> list[str]:
        """What the tool gave, as the model was told in the end."""
        conversation: Conversation = self.model.asked[-1]
        turns = conversation.turns
        return [turn.text for turn in turns if isinstance(turn, Returned) and turn.name == tool]

    def follow_readme(self, name: str) -> None:
        """Does what the README says, and sees what it shows."""
        page = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
        found = list(BLOCK.finditer(page))
        assert "pip install" in found[0]["code"]  # which the session has done
        (worker,) = [block["code"] for block in found if block["runs"]]
        running = self.start(*shlex.split(worker))
        running.line("is ready")
        shown = 0
        for block in found[2:]:
            command = block["code"].splitlines()[-1]
            publisher = self.start(*shlex.split(command))
            assert publisher.ended() == 0, publisher.text
            if block["shown"]:
                text = publisher.text.partition("waiting for its result")[2]
                assert json.loads(text) == json.loads(block["shown"])
                shown += 1
        assert shown
        running.send(signal.SIGTERM)
        assert running.ended() == 0, running.text


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """The stand-in, in a thread of the test."""
    with ModelServer() as model:
        yield model


@pytest.fixture
def example(tmp_path: Path, model: ModelServer) -> Iterator[Example]:
    """A clone with nothing in it that ran."""
    with Example(tmp_path, model) as example:
        yield example


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def groups() -> dict[str, list[str]]:
    """What the dependency group of each example installs, by the example's folder."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    all_groups = tomllib.loads(text)["dependency-groups"]
    return {name: all_groups[f"example-{name.replace('_', '-')}"] for name in FRAMEWORKS}
