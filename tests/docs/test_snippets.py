"""The documentation is true: its Python runs, its commands exist, its tables are complete.

Python blocks of a page share one namespace and run in order, in an empty folder, with
EVENT_BUS_TYPE=memory; test functions among them are called. A block after a comment
`<!-- not run: why -->` is compiled only.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from omnidaemon import TaskFailed, settings
from omnidaemon.settings import Settings
from omnidaemon.testing import run, serve

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path, language: str) -> Iterator[tuple[int, str, bool]]:
    """The line, the code, and whether it is run, of each block in the language."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found["language"] != language:
            continue
        yield text.count("\n", 0, found.start("code")), found["code"], not found["skip"]


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        for _, code, _ in blocks(page, "sh"):
            for line in code.splitlines():
                words = shlex.split(line.rpartition("&& ")[2], comments=True)
                if words and Path(words[0]).name == "omnidaemon":
                    found.append((page.name, words[1:]))
                elif words[:3] == ["uv", "run", "omnidaemon"]:
                    found.append((page.name, words[3:]))
    return found


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A module for one page's code, where a user's module would be: in the current folder."""
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where annotations are looked up
    return module


def execute(page: Path, module: types.ModuleType) -> None:
    for line, code, to_run in blocks(page, "python"):
        # Empty lines in front, so that a traceback names the line of the page.
        compiled = compile("\n" * line + code, str(page), "exec", dont_inherit=True)
        if to_run:
            exec(compiled, vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, page_module: types.ModuleType):
    execute(page, page_module)
    for name, test in list(vars(page_module).items()):
        if not name.startswith("test_"):
            continue
        if inspect.iscoroutinefunction(test):
            run(test)
        else:
            test()


def test_the_agents_of_the_page_on_agents_do_what_it_says(
    page_module: types.ModuleType, capsys: pytest.CaptureFixture[str]
):
    execute(ROOT / "docs/agents.md", page_module)
    app, timed, seconds = page_module.app, page_module.timed, page_module.seconds
    order = {"id": "A1", "total": 9.5}

    async def ask(topic: str, content: object) -> object:
        return await app.request(topic, content, timeout=600)

    async def body() -> None:
        async with serve(app) as served:
            assert await ask("order.placed", order) == {"charged": 9.5}
            assert await ask("report.wanted", order) == "Order A1: 9.50"
            assert await ask("order.cancelled", order) == "refunded 9.5"
            assert await ask("answer.wanted", {"text": "why", "busy": True}) == "WHY"
            with pytest.raises(TaskFailed, match="a question has a text"):
                await ask("answer.wanted", {})
            await ask("order.paid", order)
            await page_module.upload("three words here")
            await served.settled()
            (counted,) = await app.tasks.newest("text.extracted")
            assert counted.value == 3
        async with serve(timed):
            assert await timed.request("model.asked", timeout=5) == "small"

    run(body)
    assert "order.paid: 1 entries written" in capsys.readouterr().out
    assert set(seconds) == {"model"}


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: " ".join(value))
def test_a_command_of_the_documentation_exists_with_its_options(page: str, words: list[str]):
    from omnidaemon.cli import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="omnidaemon")
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page} names a command {name!r}"
        command = found
        context = click.Context(command, parent=context, info_name=name)
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert given <= {*known, "--help"}


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("README.md", "quickstart.py"),
        ("docs/quickstart.md", "quickstart.py"),
        ("docs/classic-sdk.md", "classic_sdk.py"),
    ],
)
def test_an_example_is_shown_as_it_is(page: str, name: str):
    example = (ROOT / "examples" / name).read_text(encoding="utf-8")
    _, shown, _ = next(blocks(ROOT / page, "python"))
    assert shown.strip() == example.partition('"""\n\n')[2].strip()


def test_the_webhook_example_is_shown_as_it_is():
    example = (ROOT / "examples/webhook.py").read_text(encoding="utf-8")
    agent, verified, _ = (code for _, code, _ in blocks(ROOT / "docs/webhooks.md", "python"))
    for shown in (agent.partition("app = ")[2], verified.partition("def ")[2]):
        assert shown
        assert shown in example


def test_the_readme_and_the_checks_of_a_change_run_the_same_command():
    command = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert [command] in [code.splitlines() for _, code, _ in blocks(ROOT / "README.md", "sh")]


def test_the_configuration_page_has_every_variable_with_its_default():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    source = inspect.getsource(settings)
    read = set(re.findall(r'reader\.\w+\(\s*"([A-Z_]+)"', source))
    assert set(rows) == read
    defaults = Settings()
    plain = {
        name: shown.strip("`") for name, shown in rows.items() if re.fullmatch(r"`\S+`", shown)
    }
    assert plain.pop("OMNIDAEMON_GRACE") == f"{defaults.grace:g}"
    assert plain.pop("OMNIDAEMON_RESULT_TTL") == f"{defaults.result_ttl:g}"
    for name, shown in plain.items():
        field = name.lower().removeprefix("omnidaemon_")
        assert shown == str(getattr(defaults, field)).lower() or shown == getattr(defaults, field)


def test_nothing_says_to_install_the_project_that_only_shares_the_name():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(pip install|uv add|uv pip install)\s+['\"]?omnidaemon", text)
