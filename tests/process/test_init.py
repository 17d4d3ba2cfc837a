"""`omnidaemon init`: the project it writes works, and installs this package and no other."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from omnidaemon.cli.init import project_name
from omnidaemon.cli.init_source import Source, _source
from omnidaemon.settings import load_settings
from tests.process.conftest import SECONDS, environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def python(*arguments: str, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.fixture
def project(run: Any, tmp_path: Path) -> Path:
    ended = run("init", "My Shop")
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "My Shop"


def test_the_project_s_own_test_passes_as_written(project: Path) -> None:
    ended = python("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=project)
    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout


def test_the_project_s_test_fails_when_its_agent_is_broken(project: Path) -> None:
    app = project / "agents.py"
    app.write_text(app.read_text().replace("Hello", "Goodbye"))
    assert "1 failed" in python("-m", "pytest", "-q", folder=project).stdout


def test_the_project_s_worker_answers_as_its_readme_says(project: Path, start: Any) -> None:
    readme = (project / "README.md").read_text()
    command = re.search(r"^omnidaemon (worker .*)$", readme, re.MULTILINE)
    assert command is not None
    assert '"omnidaemon", "worker", "agents:app"' in (project / "Dockerfile").read_text()
    worker = start(*command[1].split(), "--app-dir", str(project))
    worker.line("is ready")
    answer = python(
        *("-m", "omnidaemon", "task", "publish", "--topic", "greet.user"),
        *("--payload", '{"name":"Ada"}', "--wait"),
        folder=project.parent,
    )
    assert "Hello, Ada!" in answer.stdout


def test_nothing_is_overwritten_and_then_nothing_is_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    ended = run("init")
    assert ended.returncode == 1
    assert "nothing was written" in ended.stderr
    assert "Dockerfile" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]
    assert (tmp_path / "Dockerfile").read_text() == "FROM scratch\n"


def test_the_settings_file_can_be_read_and_is_ignored_by_git_and_docker(project: Path) -> None:
    assert load_settings({}, project / ".env").log_level == "INFO"
    for name in (".gitignore", ".dockerignore"):
        assert ".env" in (project / name).read_text().splitlines()


def test_this_checkout_goes_along_as_a_wheel_that_works_alone(project: Path) -> None:
    """What is required lies inside the project, and so is found on any machine and in Docker."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert declared["name"] == "my-shop"
    name = f"omnidaemon-{importlib.metadata.version('omnidaemon')}-py3-none-any.whl"
    assert declared["dependencies"] == [f"omnidaemon[redis] @ {{root:uri}}/vendor/{name}"]
    wheel = project / "vendor" / name
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        record = packed.read(next(n for n in names if n.endswith("/RECORD"))).decode()
        for file in names:
            if not file.endswith("/RECORD"):
                digest = hashlib.sha256(packed.read(file)).digest()
                assert f"{file},sha256={_base64(digest)}," in record
        assert not [n for n in names if "__pycache__" in n]
    alone = project.parent / "alone"
    python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(alone)),
        str(wheel),
        folder=project,
    )
    ended = python("-m", "omnidaemon", "init", "again", folder=alone, PYTHONPATH=str(alone))
    assert ended.returncode == 0, ended.stderr
    assert (alone / "again" / "vendor" / name).read_bytes() == wheel.read_bytes()


def _base64(digest: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("direct", "requirement"),
    [
        (
            {
                "url": "https://example.org/omni.git",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "main"},
            },
            f"omnidaemon[redis] @ git+https://example.org/omni.git@{COMMIT}",
        ),
        (
            {
                "url": "https://example.org/mono.git",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT},
                "subdirectory": "omni",
            },
            f"omnidaemon[redis] @ git+https://example.org/mono.git@{COMMIT}#subdirectory=omni",
        ),
        (
            {
                "url": "https://example.org/omnidaemon-0.2.0-py3-none-any.whl",
                "archive_info": {"hashes": {"sha256": "abc"}},
            },
            "omnidaemon[redis] @ https://example.org/omnidaemon-0.2.0-py3-none-any.whl#sha256=abc",
        ),
    ],
    ids=["repository", "part of a repository", "wheel on a server"],
)
def test_what_other_machines_can_reach_is_named(direct: dict[str, Any], requirement: str) -> None:
    source = _source(direct)
    assert source.requirement == requirement
    assert source.wheel is None
    assert source.git == ("vcs_info" in direct)


@pytest.mark.parametrize(
    "direct",
    [
        {"url": "file:///home/me/omni", "dir_info": {"editable": True}},
        {"url": "file:///tmp/omnidaemon-0.2.0-py3-none-any.whl", "archive_info": {}},
        {"url": "file:///home/me/omni", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
        {},
    ],
    ids=["folder", "file", "local repository", "index"],
)
def test_what_only_this_machine_knows_goes_along_as_a_wheel(direct: dict[str, Any]) -> None:
    source: Source = _source(direct)
    assert source.wheel is not None
    assert source.requirement.endswith(f" @ {{root:uri}}/vendor/{source.wheel}")
    assert direct.get("url", "") in source.readme


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My Shop", "my-shop"),
        ("omnidaemon", "omnidaemon-agents"),
        ("ä", "agents"),
        ("a_b.c", "a-b-c"),
    ],
)
def test_the_folder_s_name_becomes_one_that_a_project_may_have(folder: str, name: str) -> None:
    assert project_name(folder) == name


def test_a_folder_that_cannot_be_is_one_line(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("init", os.path.join("file", "below"))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "cannot be written" in ended.stderr
