"""All checks: `nox` runs the default ones, `nox -l` lists them all.

Arguments after `--` go to the tool: `nox -s tests -- tests/unit -k lease`.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")

# Agent frameworks, each with an environment of its own: they do not resolve together.
FRAMEWORKS = [
    group.removeprefix("example-")
    for group in PROJECT["dependency-groups"]
    if group.startswith("example-") and group != "example-test"
]

took: list[tuple[str, float, float]] = []

P = ParamSpec("P")
Session = Callable[Concatenate[nox.Session, P], None]


def budget(minutes: float) -> Callable[[Session[P]], Session[P]]:
    """Says when a session takes longer, its installation included; fails one that takes thrice it.

    A machine that others use may take twice as long as a quiet one.
    """

    def decorate(function: Session[P]) -> Session[P]:
        @functools.wraps(function)
        def run(session: nox.Session, /, *args: P.args, **kwargs: P.kwargs) -> None:
            start = time.monotonic()
            try:
                function(session, *args, **kwargs)
            finally:
                seconds = time.monotonic() - start
                took.append((session.name, seconds, minutes * 60))
            if seconds > 3 * minutes * 60:
                session.error(f"took {seconds:.0f} s of its budget of {minutes * 60:.0f} s")

        return run

    return decorate


@atexit.register
def _print_times() -> None:
    if not took:
        return
    width = max(len(name) for name, _, _ in took)
    print(f"\n{'session':<{width}}  {'took':>7}  {'budget':>7}")
    for name, seconds, allowed in took:
        over = "  OVER BUDGET" if seconds > allowed else ""
        print(f"{name:<{width}}  {seconds:>5.0f} s  {allowed:>5.0f} s{over}")
    print(f"{'all':<{width}}  {sum(seconds for _, seconds, _ in took):>5.0f} s", flush=True)


def install(session: nox.Session, *groups: str, package: str = ".[reload,testing]") -> None:
    """Installs the package, editable, and dependency groups (old pips do not know `--group`)."""
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", package, *wanted)


def existing(*paths: str) -> list[str]:
    """Those of the paths that are there."""
    return [path for path in paths if Path(path).exists()]


def run_tests(session: nox.Session, *default: str) -> None:
    """Runs pytest on what the command line names, or on the default."""
    session.run("pytest", *(session.posargs or default))


@nox.session
@budget(1.5)
def lint(session: nox.Session) -> None:
    """Format, rules, floors, spelling."""
    install(session, "lint", package=".")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-logo")
    session.run("codespell")


@nox.session
@budget(3)
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    install(session, "types")
    session.run("mypy", *existing("omnidaemon", "noxfile.py", "benchmarks", "examples"))


@nox.session
@budget(18)
def tests(session: nox.Session) -> None:
    """All tests, on the interpreter that runs nox."""
    install(session, "test")
    # Two at a time, as half of them wait for other processes; by file, which share what they start.
    run_tests(session, "--numprocesses=2", "--dist=loadfile")


@nox.session(venv_backend="uv|virtualenv")  # uv installs faster, where it is there
@nox.parametrize("framework", FRAMEWORKS, ids=FRAMEWORKS)
@budget(5)
def frameworks(session: nox.Session, framework: str) -> None:
    """The examples with agent frameworks, in real workers."""
    install(session, "example-test", f"example-{framework}", package=".")
    run_tests(session, f"tests/frameworks/test_{framework.replace('-', '_')}.py")


@nox.session
@budget(2)
def docs(session: nox.Session) -> None:
    """The pages, every link checked, with the reference made of the code."""
    install(session, "docs", package=".[api]")
    # The theme announces its successor at length.
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    # As a module, so that what makes pages is found in this folder.
    session.run("python", "-m", "mkdocs", "build", "--strict", *session.posargs)


@nox.session(name="coming-from", default=False)
@budget(4)
def coming_from(session: nox.Session) -> None:
    """The same program on other frameworks, as the page about changing over shows it."""
    install(session, "coming-from", "test", package=".[redis]")
    run_tests(session, "tests/coming_from")


@nox.session
@budget(3)
def build(session: nox.Session) -> None:
    """Wheel and sdist; the wheel is made from the sdist and works where nothing else is."""
    session.install("build", "check-wheel-contents")
    dist = Path(session.create_tmp(), "dist")
    for old in dist.glob("*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(dist))
    (wheel,) = dist.glob("*.whl")
    session.run("check-wheel-contents", str(wheel))
    clean = Path(session.create_tmp(), "clean").resolve()
    session.run("python", "-m", "venv", "--clear", str(clean))
    python, omnidaemon = str(clean / "bin/python"), str(clean / "bin/omnidaemon")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    session.chdir(session.create_tmp())  # away from the checkout, which would be imported instead
    session.run(python, "-c", "import omnidaemon; print(omnidaemon.__file__)", external=True)
    session.run(omnidaemon, "--help", external=True)
    # A new project installs this very wheel, as its Dockerfile does, and its own test passes.
    project = Path(session.create_tmp(), "project").resolve()
    shutil.rmtree(project, ignore_errors=True)
    session.run(omnidaemon, "init", str(project), external=True)
    session.run(python, "-m", "pip", "install", "--quiet", f"{project}[test]", external=True)
    session.chdir(project)
    session.run(python, "-m", "pytest", "--quiet", external=True)


@nox.session(name="tests-on", python=["3.11", "3.12", "3.13"], default=False)
@budget(14)
def tests_on(session: nox.Session) -> None:
    """All tests, on each Python that is installed."""
    install(session, "test")
    run_tests(session)


@nox.session(default=False)
@budget(10)
def lowest(session: nox.Session) -> None:
    """The tests without subprocesses, with the oldest versions that pyproject.toml allows."""
    install(session, "test")
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["reload"],
        *PROJECT["project"]["optional-dependencies"]["metrics"],
        # The packages of one release of OpenTelemetry only go together.
        *(line for line in PROJECT["dependency-groups"]["test"] if "opentelemetry" in line),
    ]
    session.install(*[line.replace(">=", "==") for line in wanted])
    run_tests(session, *existing("tests/unit", "tests/contract", "tests/docs"))


@nox.session(default=False)
@budget(30)
def bench(session: nox.Session) -> None:
    """The measurements, as a table."""
    install(session, package=".[fast]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
@budget(180)
def soak(session: nox.Session) -> None:
    """Workers killed at random, for an hour (SOAK_SECONDS)."""
    install(session, "test")
    session.env.setdefault("SOAK_SECONDS", "3600")
    run_tests(session, "tests/process", "--timeout=10000")
