"""The documentation is true: its Python runs, its commands exist, its tables are complete.

Every Python or shell block of a page is one of these:

- Python that runs here: the blocks of a page share one namespace and run in order, in an empty
  folder, with EVENT_BUS_TYPE=memory; test functions among them are called;
- a file, or a part of one, that another test runs (`<!-- file: PATH -->`);
- shell of a page that `test_steps.py` follows, or that names what tries it.
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

from docs.generate.__main__ import MAKERS
from docs.generate.regions import included_files, pages, renewed
from omnidaemon import TaskFailed, settings
from omnidaemon.testing import run, serve
from tests.docs.terminals import Step, steps
from tests.docs.test_steps import FOLLOWED

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages()
BLOCK = re.compile(
    r"(?P<file><!-- file: [^\n]+ -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^ *```(\w+)", re.MULTILINE)


def blocks(page: Path, language: str) -> Iterator[tuple[int, str, bool]]:
    """The line, the code, and whether it is run here, of each block in the language."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found["language"] != language:
            continue
        yield text.count("\n", 0, found.start("code")), found["code"], not found["file"]


# What runs the files that pages show, by the beginning of their paths.
RUN_BY = {
    "examples/quickstart": "tests/docs/test_steps.py",
    "examples/tutorial/": "tests/docs/test_steps.py",
    "examples/classic_sdk.py": "tests/docs/test_steps.py",
    "examples/guides/otlp.py": "tests/docs/test_steps.py",
    "examples/guides/": "tests/docs/test_guides.py",
    "examples/patterns/": "tests/examples/test_patterns.py",
    "examples/plain/": "tests/frameworks/test_plain.py",
    "examples/langgraph/": "tests/frameworks/test_langgraph.py",
    "examples/pydantic_ai/": "tests/frameworks/test_pydantic_ai.py",
    "examples/openai_agents/": "tests/frameworks/test_openai_agents.py",
    "examples/google_adk/": "tests/frameworks/test_google_adk.py",
    "examples/omnicoreagent/": "tests/frameworks/test_omnicoreagent.py",
    "examples/coming_from/": "tests/coming_from/test_shops.py",
}


def commands() -> list[tuple[str, list[str]]]:
    """The commands that pages name in their text; those in blocks are run."""
    found = []
    for page in PAGES:
        text = FENCED.sub("", page.read_text(encoding="utf-8"))
        for code in re.findall(r"`((?:uv run )?omnidaemon [a-z][^`]*)`", text):
            words = shlex.split(code.rpartition("&& ")[2].replace("...", ""))
            found.append((page.name, words[words.index("omnidaemon") + 1 :]))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_takes_from_elsewhere_is_up_to_date(page: Path):
    text = page.read_text(encoding="utf-8")
    assert renewed(text, MAKERS) == text, "run `python -m docs.generate`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_shows_is_run_by_a_test(page: Path):
    for shown in included_files(page.read_text(encoding="utf-8")):
        test = next((test for start, test in RUN_BY.items() if shown.startswith(start)), None)
        assert test is not None, f"{page.name} shows {shown}: write a test that runs it"
        assert (ROOT / test).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_shell_block_of_a_page_is_followed_by_a_test(page: Path):
    checks = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    for step in steps(page.read_text(encoding="utf-8")):
        if step.language in ("sh", "bash", "shell", "console") and not _tried(page, step, checks):
            pytest.fail(f"{page.name}, line {step.line}: nothing tries this:\n{step.code}")


def _tried(page: Path, step: Step, checks: str) -> bool:
    if "tried by: .ci/run" in step.comments:
        return step.code.strip() == checks
    return str(page.relative_to(ROOT)) in FOLLOWED and step.language == "sh"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_a_page_escapes_these_tests(page: Path):
    """Indented fences and other spellings of a language would not be found above."""
    text = page.read_text(encoding="utf-8")
    found = [step.language for step in steps(text) if step.language != "key"]
    assert found == FENCE.findall(text)
    assert set(found) <= {"sh", "python", "text", "json", "ini", "yaml", "zsh", "fish"}


def test_the_readme_and_the_checks_of_a_change_run_the_same_command():
    command = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert [command] in [code.splitlines() for _, code, _ in blocks(ROOT / "README.md", "sh")]


def test_the_table_of_settings_has_every_variable_that_is_read():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert set(rows) == set(re.findall(r'reader\.\w+\(\s*"([A-Z_]+)"', inspect.getsource(settings)))
    assert rows["OMNIDAEMON_GRACE"] == "`30`"
    assert rows["OMNIDAEMON_MAX_BACKLOG"] == "none"
    assert rows["OMNIDAEMON_WEBHOOKS"] == "`true`"


def test_nothing_says_to_install_the_project_that_only_shares_the_name():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(pip install|uv add|uv pip install)\s+['\"]?omnidaemon", text)
