"""Content moderation as its README has it, and with workers killed at the worst moments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import anyio
import pytest

from examples.content_moderation.reviews import opened
from examples.content_moderation.values import REVIEWS, TASKS
from omnidaemon import App
from tests.examples.conftest import ROOT
from tests.process.conftest import SECONDS, Started, environment

README = (ROOT / "examples/content_moderation/README.md").read_text(encoding="utf-8")

# Kills its process once after each step that is not yet settled: the file is moved, the verdict's
# row is committed. The real lease would take a minute.
KILLED = """
import os
import signal
from pathlib import Path

from msgspec.structs import replace

from examples.content_moderation.app import app
from examples.content_moderation.metrics import Counters
from examples.content_moderation.quarantine import Quarantine


def killed_after(kind, name):
    real = getattr(kind, name)

    def run(*arguments):
        result = real(*arguments)
        try:
            Path(f"killed-{name}").touch(exist_ok=False)
        except FileExistsError:
            return result
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(kind, name, run)


killed_after(Quarantine, "put")
killed_after(Counters, "reviewed")
for agent in app.agents:
    app.remove(agent.topic, agent.name)
    app._add(replace(agent, lease=1.0))
"""

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A clone (by a link) and a home of the test's own, and the programs of this environment."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    changes = environment(HOME=str(tmp_path / "home"), EVENT_BUS_TYPE="sqlite+fast")
    for name in [name for name in changes if name.startswith(("MODERATION_", "OPENAI_"))]:
        del changes[name]
    changes["PATH"] = f"{Path(sys.executable).parent}:{changes['PATH']}"
    return changes


@pytest.fixture
def shell(tmp_path: Path, env: dict[str, str]) -> Shell:
    def shell(command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env=env | changes,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended

    return shell


@pytest.fixture
def start(tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[[str], Started]]:
    started: list[Started] = []

    def start(command: str) -> Started:
        started.append(Started(tmp_path, ("bash", "-ec", f"exec {command}"), env))
        return started[-1]

    yield start
    for process in started:
        process.clean_up()


def reviews(home: Path) -> dict[str, list[str]]:
    """The status of each review, by the file's name."""
    file = home / ".omniagent/moderation.db"
    found: dict[str, list[str]] = {}
    if file.exists():
        with opened(file) as db:
            rows = db.execute("SELECT path, status FROM moderation_reviews").fetchall()
        for path, status in rows:
            found.setdefault(Path(path).name, []).append(status)
    return found


async def unsettled(events: Path) -> list[int]:
    """What each agent has before it, or holds."""
    async with App(transport=f"sqlite+fast:{events}") as app:
        groups = [
            group for topic in (TASKS, REVIEWS) for group in await app.transport.groups(topic)
        ]
        assert len(groups) == 2
        return [group.lag + group.leased + group.waiting for group in groups]


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 2 * SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        Event().wait(0.05)


def test_the_readme_works_step_by_step(shell, start, tmp_path):
    (install, activate, files, worker, publish, show, look, ingest, single, watch, watchdog) = (
        re.findall(r"^```sh\n(.*?)\n^```$", README, re.DOTALL | re.MULTILINE)
    )
    assert "pip install -e '.[reload,metrics]'" in install
    assert activate == ". .venv/bin/activate"
    shell(files)
    working = start(worker)
    working.line("is ready")
    assert shell(publish).stdout.endswith("3 published of 3 files\n")
    wait_until(lambda: len(reviews(tmp_path / "home")) == 3, working.text)
    shown = shell(show).stdout
    assert re.search(r"passed +\S+/inbox/minutes.txt\n +nothing found", shown)
    assert re.search(r"open +\S+/inbox/contact.txt\n +medium pii/email; medium pii/phone", shown)
    assert re.search(r"removed +\S+/inbox/prize.txt\n +high spam/signs", shown)
    listed = shell(look).stdout
    assert listed.startswith("contact.txt\nminutes.txt\n/")
    assert re.search(r"/quarantine/files/\S+/prize.txt$", listed, re.MULTILINE)
    assert shell(publish).stdout == "0 published of 2 files\n"
    verdict = shell(ingest).stdout
    assert '"action": "allow"' in verdict
    assert '"author": "ada"' in verdict
    assert re.fullmatch(r"[0-9a-f-]{36}\n", shell(single).stdout)
    for n, command in enumerate((watch, watchdog)):
        watching = start(command)
        watching.line("watching")
        (tmp_path / f"inbox/new-{n}.txt").write_text("damn")
        watching.line("published", f"new-{n}.txt")
        watching.send(signal.SIGINT)
        assert watching.ended() == 0
        assert "Traceback" not in watching.text
    wait_until(lambda: {"new-0.txt", "new-1.txt"} <= reviews(tmp_path / "home").keys(), "new")
    working.send(signal.SIGINT)
    assert working.ended() == 0


def test_workers_killed_between_work_and_settlement_leave_one_review_of_each_file(
    shell, start, tmp_path
):
    (tmp_path / "killed.py").write_text(KILLED)
    folder = tmp_path / "inbox"
    expected = {}
    for n in range(12):
        text, status = [
            (f"Minutes {n}.", "passed"),
            (f"Mail ada{n}@example.org", "open"),
            (f"{n}: kill all the foreigners", "removed"),
        ][n % 3]
        folder.joinpath("deep" if n % 2 else "").mkdir(parents=True, exist_ok=True)
        folder.joinpath("deep" if n % 2 else "", f"{n}.txt").write_text(text)
        expected[f"{n}.txt"] = [status]
    workers = start("omnidaemon worker killed:app --processes 2")
    workers.line("is ready")
    shell("python -m examples.content_moderation.publisher inbox")

    def settled() -> bool:
        return not any(anyio.run(unsettled, tmp_path / ".omnidaemon_data/omnidaemon.db"))

    wait_until(lambda: reviews(tmp_path / "home") == expected, "reviews are missing")
    wait_until(settled, "something is run again and again")
    assert reviews(tmp_path / "home") == expected
    assert (tmp_path / "killed-put").exists()
    assert (tmp_path / "killed-reviewed").exists()
    moved = {file.name: file for file in (tmp_path / "home/.omniagent").rglob("*.txt")}
    assert sorted(moved) == ["11.txt", "2.txt", "5.txt", "8.txt"]
    assert all("kill all" in file.read_text() for file in moved.values())
    left = {file.name for file in folder.rglob("*.txt")}
    assert left == expected.keys() - moved.keys()
    workers.send(signal.SIGTERM)
    assert workers.ended() == 0
    assert workers.text.count("SIGKILL") == 2
