"""README, quickstart and tutorial, followed to the letter in a fresh copy of the repository."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.docs.terminals import Reader
from tests.started import OURS

ROOT = Path(__file__).resolve().parents[2]
NOT_CLONED = (".git", ".venv*", ".nox", "site", "dist", ".*_cache", "__pycache__", ".venvs", "*.db")
TUTORIAL = tuple(
    f"docs/tutorial/{page}.md"
    for page in ("first-agent", "reply-chain", "retries", "testing", "redis", "deploying")
)
ALONE = (
    "docs/quickstart.md",
    "docs/cli.md",
    "docs/webhooks.md",
    "docs/admin-api.md",
    "docs/classic-sdk.md",
    "docs/frameworks.md",
    "docs/observability.md",
)
FOLLOWED = ("README.md", *ALONE, *TUTORIAL)

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what a reader sees"),
]


def environment(folder: Path) -> dict[str, str]:
    """A user's: the Python that runs this, outside its environment, and nothing of ours."""
    commands = folder / "commands"
    commands.mkdir()
    (commands / "python3").symlink_to(Path(sys._base_executable))
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "NO_COLOR", "CI"):
        env.pop(name, None)
    outside = [
        place
        for place in os.environ["PATH"].split(os.pathsep)
        if not Path(place).resolve().is_relative_to(sys.prefix)
    ]
    return {**env, "PATH": os.pathsep.join([str(commands), *outside]), "PS1": ""}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Desk:
    """A clone of the repository, and somebody who reads in it."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.notes = folder / "omnidaemon", folder / "notes"
        self.notes.mkdir()
        shutil.copytree(ROOT, self.clone, ignore=shutil.ignore_patterns(*NOT_CLONED))
        self.env = environment(folder)

    def read(self, *pages: str) -> None:
        """Follows these pages in terminals of their own."""
        ports = {named: str(free_port()) for named in ("6379", "8000", "8765", "9100")}
        env = self.env | {"OMNIDAEMON_API_PORT": ports["8765"]}
        shutil.rmtree(self.clone / ".omnidaemon_data", ignore_errors=True)
        with Reader(self.clone, self.notes, env, ports) as reader:
            for page in pages:
                reader.follow(ROOT / page)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A fresh clone in which the README was followed, which installs it."""
    desk = Desk(tmp_path_factory.mktemp("reader"))
    desk.read("README.md")
    return desk


def needed(command: str, no_server: Callable[[str], NoReturn]) -> None:
    if not shutil.which(command):
        no_server(f"there is no {command}")


def test_the_readme_works_from_its_first_line_to_its_last(desk: Desk):
    assert (desk.clone / ".venv/bin/omnidaemon").exists()


@pytest.mark.parametrize("page", ALONE)
def test_a_page_works_step_by_step(desk: Desk, page: str, no_server: Callable[[str], NoReturn]):
    needed("curl", no_server)
    desk.read(page)


def test_the_tutorial_works_step_by_step(desk: Desk, no_server: Callable[[str], NoReturn]):
    needed("curl", no_server)
    needed("redis-server", no_server)
    desk.read(*TUTORIAL)
