"""`omnidaemon init`: a new project that runs, tests itself, and goes into a container."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from string import Template

import click

from omnidaemon.cli.init_source import Source, find_source, pack_wheel
from omnidaemon.errors import ConfigurationError

_TEMPLATES = Path(__file__).parent / "scaffold"
_FILES = {
    "agents.py": "agents.py",
    "tests/test_agents.py": "test_agents.py",
    "pyproject.toml": "pyproject.toml",
    "Dockerfile": "Dockerfile",
    "compose.yaml": "compose.yaml",
    "README.md": "README.md",
    ".env": "env",
    ".gitignore": "gitignore",
    ".dockerignore": "dockerignore",
}
_GIT = """\
RUN apt-get update && apt-get install --yes --no-install-recommends git \\
 && rm -rf /var/lib/apt/lists/*
"""


@click.command()
@click.argument(
    "folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path)
)
def init(folder: Path) -> None:
    """Write a new project into DIR, the current folder by default.

    An app with two agents and their test, a Dockerfile, a compose file with Redis, settings, and a
    pyproject.toml that installs this very OmniDaemon from where this one came. A file that exists
    is never overwritten: then nothing is written at all.
    """
    source = find_source()
    files = {name: text.encode() for name, text in _texts(folder, source).items()}
    if source.wheel is not None:
        files[f"vendor/{source.wheel}"] = pack_wheel()
    _write(folder, files)
    click.echo(f"A project is in {folder}:")
    for name in files:
        click.echo(f"  {name}")
    click.echo("\nNext:")
    if folder != Path():
        click.echo(f"  cd {folder}")
    for line in (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]'",
        "pytest",
        "omnidaemon worker agents:app",
    ):
        click.echo(f"  {line}")


def _texts(folder: Path, source: Source) -> dict[str, str]:
    values = {
        "project": project_name(folder.resolve().name),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "packages": _GIT if source.git else "",
        "requirement": source.requirement,
        "origin": source.origin,
        "readme": source.readme,
    }
    return {
        name: Template((_TEMPLATES / f"{template}.txt").read_text("utf-8")).substitute(values)
        for name, template in _FILES.items()
    }


def project_name(folder: str) -> str:
    """A name that a Python project may have, made of the folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-") or "agents"
    # A project that has the name of what it depends on would depend on itself.
    return "omnidaemon-agents" if name == "omnidaemon" else name


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes all files or none.

    Raises:
        ConfigurationError: Some exist, or the folder cannot be written to.
    """
    there = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise ConfigurationError(
            f"nothing was written: {folder} already has {', '.join(there)}; name another folder"
        )
    try:
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or folder} cannot be written: {error.strerror}"
        ) from error
