"""Every pattern has a test and a line in the table, and works in two terminals as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.examples.conftest import ROOT
from tests.process.conftest import Started, environment

HERE = Path(__file__).parent
FOLDER = ROOT / "examples/patterns"
FILES = sorted(FOLDER.glob("*.py"))
NAMES = {file.stem for file in FILES}


def test_every_pattern_is_shown_by_a_test():
    tests = "".join(file.read_text(encoding="utf-8") for file in HERE.glob("test_patterns_*.py"))
    assert set(re.findall(r'^@shows\("(\w+)"\)$', tests, re.MULTILINE)) == NAMES


def test_the_table_of_patterns_has_each_file():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[[^]]+\]\((\w+)\.py\)", table, re.MULTILINE)
    assert sorted(linked) == sorted(NAMES)


def test_every_pattern_is_loaded_with_only_what_an_installation_brings():
    extra = ("pydantic", "redis", "starlette", "uvicorn", "jinja2", "prometheus_client", "trio")
    code = f"import sys; sys.modules.update(dict.fromkeys({extra!r}))\n" + "".join(
        f"import examples.patterns.{name}\n" for name in sorted(NAMES)
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pattern_says_when_to_use_it_and_what_it_does_not_promise(file: Path):
    text = file.read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    assert "\nWhen: " in docstring
    assert re.search(r"\b(?:Not|not)\s+promised: ", docstring)
    assert f" worker examples.patterns.{file.stem}:app" in docstring
    assert f"    python -m examples.patterns.{file.stem}" in docstring
    for section in ("agent", "publish"):  # what the guides show
        assert text.count(f"# --8<-- [start:{section}]") == 1
        assert text.count(f"# --8<-- [end:{section}]") == 1
    assert len(text.splitlines()) <= 100


# What the publisher prints once a real worker on SQLite has done its part. The others are run in
# this process only, for each start of two programs takes a second.
SAID = {
    "document_pipeline": "'words': ",
    "fan_out": "loyalty: 43\n",
    "idempotent_handler": "[('ada', 1, 2950)]\n",
    "load_balancing": "checksum: 16 of 16 files",
    "long_running": "success: {'below': 10000000, 'primes': 664579}\n",
    "own_retry": "{'status': 200, 'bytes': 5}\nReject: answered 404",
}


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """What the publisher of each selected pattern prints; a few run at a time, for some wait."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "runs" in item.fixturenames
    ]
    with ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(run, name, tmp_path_factory.mktemp(name)) for name in names}


def run(name: str, folder: Path) -> str:
    """Starts a worker, and the publisher at once: what it publishes waits for the worker."""
    env = environment(
        PYTHONPATH=str(ROOT), OMNIDAEMON_WEBHOOK_ALLOW="127.0.0.1", EVENT_BUS_TYPE="sqlite+fast"
    )
    target = f"examples.patterns.{name}"
    command = (sys.executable, "-m", "omnidaemon", "worker", f"{target}:app")
    worker = Started(folder, command, env)
    try:
        published = subprocess.run(
            [sys.executable, "-m", target],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        worker.clean_up()
    assert published.returncode == 0, published.stderr + worker.text
    assert "Traceback" not in published.stderr
    return published.stdout


@pytest.mark.parametrize("name", sorted(SAID))
def test_a_pattern_works_in_two_terminals(name: str, runs: dict[str, Future[str]]):
    assert SAID[name] in runs[name].result()
