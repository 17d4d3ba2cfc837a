"""The command line, as far as it needs no other process: reading options, loading, printing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from omnidaemon import App
from omnidaemon.cli import _COMMANDS, cli
from omnidaemon.cli.demo_agents import most_telling, sentences, without_markup
from omnidaemon.cli.demo_files import MOST_BYTES, choose
from omnidaemon.cli.output import plain, print_table, span
from omnidaemon.cli.task import _payload
from omnidaemon.cli.worker import load_app
from omnidaemon.errors import ImportStringError, InvalidSettings


@pytest.fixture(autouse=True)
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVENT_BUS_TYPE", "REDIS_URL", "STORAGE_BACKEND", "OMNIDAEMON_SQLITE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def invoke(*arguments: str, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(cli, arguments, prog_name="omnidaemon", input=stdin)


# Laziness


def test_the_help_imports_no_command_and_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "omnidaemon", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "worker" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    ours = {name for name in imported if name.startswith("omnidaemon")}
    assert ours == {"omnidaemon", "omnidaemon.cli", "omnidaemon.errors"}
    heavy = {"anyio", "asyncio", "msgspec", "redis", "rich", "sqlite3", "starlette", "watchfiles"}
    assert not heavy & imported


def test_the_face_has_every_name_that_type_checkers_see() -> None:
    import omnidaemon

    source = Path(omnidaemon.__file__).read_text("utf-8")
    declared = re.findall(r"^    from omnidaemon\.(\w+) import (\w+) as \2$", source, re.MULTILINE)
    assert {name: module for module, name in declared} == omnidaemon._MODULES
    assert {name for _, name in declared} <= set(dir(omnidaemon))
    assert all(getattr(omnidaemon, name) is not None for _, name in declared)


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_that_the_help_lists_has_a_help_itself(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: omnidaemon {name}")


@pytest.mark.parametrize(
    "command",
    [
        ["task", "publish"],
        ["task", "result"],
        ["task", "list"],
        ["bus", "list"],
        ["bus", "dlq"],
        ["bus", "replay"],
        ["health"],
        ["metrics"],
        ["info"],
    ],
)
def test_every_command_that_reads_or_answers_offers_json(command: list[str]) -> None:
    assert "--json" in invoke(*command, "--help").output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("omnidaemon a", ["agent"]),
        ("omnidaemon agent un", ["unsubscribe"]),
        ("omnidaemon agent list --format t", ["tree", "table"]),
        ("omnidaemon --ver", ["--version"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(words: str, expected: list[str]) -> None:
    env = {
        **os.environ,
        "_OMNIDAEMON_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [sys.executable, "-m", "omnidaemon"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [f"plain,{word}" for word in expected]


def test_completing_a_command_imports_none() -> None:
    program = """
import sys
from omnidaemon.cli import cli
import click
items = cli.shell_complete(click.Context(cli), "")
assert {"agent", "top"} <= {item.value for item in items}
print(sorted(name for name in sys.modules if name.startswith("omnidaemon.cli.")))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


# What is published


@pytest.mark.parametrize(
    ("payload", "content", "reply_to", "correlation"),
    [
        ('{"name": "Alice"}', {"name": "Alice"}, None, None),
        ('{"content": 1}', 1, None, None),
        ('{"content": {"a": 1}, "reply_to": "b"}', {"a": 1}, "b", None),
        ('{"content": "x", "correlation_id": "c", "webhook": null}', "x", None, "c"),
        ('{"content": 1, "other": 2}', {"content": 1, "other": 2}, None, None),
        ('{"reply_to": "b"}', {"reply_to": "b"}, None, None),
        ("[1, 2]", [1, 2], None, None),
        ("null", None, None, None),
        ('"text"', "text", None, None),
    ],
)
def test_a_payload_with_content_is_taken_apart_and_anything_else_is_the_content(
    payload: str, content: object, reply_to: str | None, correlation: str | None
) -> None:
    read = _payload(payload, None, None)
    assert (read.content, read.reply_to, read.correlation_id) == (content, reply_to, correlation)


def test_text_is_taken_as_it_is() -> None:
    assert _payload(None, None, '{"no": "json"').content == '{"no": "json"'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --payload, --payload-file and --content"),
        (["--payload", "1", "--content", "x"], "give one of"),
        (["--payload", '{"a": 1 "b"}'], "line 1, column 9"),
        (["--payload", ""], "(nothing)"),
        (["--payload", "NaN"], "NaN is not JSON"),
        (["--payload", "[" * 100_000], "nested too deeply"),
        (["--payload", "1" * 5_000], "is not usable"),
        (["--payload", '{"content": 1, "webhook": 5}'], "webhook is not text"),
        (
            ["--payload", '{"content": 1, "webhook": "https://a"}', "--webhook", "https://b"],
            "--webhook 'https://b'",
        ),
        (["--payload", '{"content": 1, "reply_to": 5}'], "reply_to is not text"),
        (["--payload", '{"content": 1, "reply_to": "a"}', "--reply-to", "b"], "--reply-to 'b'"),
        (["--payload-file", "none.json"], "none.json cannot be read"),
        (["--content", "x", "--timeout", "5"], "--timeout is for --wait"),
        (["--content", "x", "--wait", "--timeout", "nan"], "give seconds"),
        (["--content", "x", "--delay", "-1"], "give seconds"),
    ],
)
def test_what_cannot_be_published_is_a_usage_error_that_says_why(
    arguments: list[str], words: str
) -> None:
    result = invoke("task", "publish", "--topic", "t", *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_bad_json_is_pointed_at() -> None:
    lines = invoke("task", "publish", "--topic", "t", "--payload", '{"a": 1 "b"}').output
    shown, pointer = lines.splitlines()[-2:]
    assert shown == '  {"a": 1 "b"}'
    assert pointer.index("^") == shown.index('"b"')


@pytest.mark.parametrize("stdin", [b"\xff\xfe", b"{", b""])
def test_standard_input_that_is_no_json_is_a_usage_error(stdin: bytes) -> None:
    result = invoke("task", "publish", "--topic", "t", "--payload", "-", stdin=stdin)
    assert result.exit_code == 2
    assert "standard input is not" in result.output


def test_a_topic_that_cannot_be_is_a_usage_error() -> None:
    result = invoke("bus", "dlq", "--topic", "a b")
    assert result.exit_code == 2
    assert "topic name 'a b' is not usable" in result.output


def test_a_memory_bus_is_refused_where_another_process_is_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    for command in (["bus", "list"], ["health"], ["task", "publish", "--topic=t", "--content=x"]):
        result = invoke(*command)
        assert result.exit_code == 1
        assert result.output.startswith("omnidaemon: error: EVENT_BUS_TYPE=memory keeps events")


def test_an_unknown_backend_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENT_BUS_TYPE", "kafka")
    result = invoke("metrics")
    assert result.exit_code == 1
    assert result.output == (
        "omnidaemon: error: EVENT_BUS_TYPE='kafka' is not supported yet: "
        "give one of redis_stream, sqlite, sqlite+fast, memory\n"
    )


def test_info_names_the_choice_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@example.org:6379/0")
    monkeypatch.setenv("OMNIDAEMON_API_KEYS", "s3cret:admin")
    text, data = invoke("info").output, json.loads(invoke("info", "--json").output)
    assert "example.org" in text
    assert "REDIS_URL is" in data["backends"]
    assert data["transport_url"] == "redis://me:***@example.org:6379/0"
    assert not {"hunter2", "s3cret"} & set((text + json.dumps(data)).replace(":", " ").split())


def test_an_app_with_a_place_of_its_own_says_so_without_the_password() -> None:
    assert App("a", transport="sqlite:x.db").why == (
        "App('a', transport=...): events wait in sqlite:x.db, results in it too"
    )
    why = App("a", transport="redis://me:hunter2@host", store="memory://kept").why
    assert why.endswith("events wait in redis://me:***@host; store=...: results in memory://kept")


# Loading the app


@pytest.fixture
def module(
    bare_folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Any:
    """Writes a module with a name of its own, importable in this test."""
    monkeypatch.syspath_prepend(bare_folder)
    name = f"omni_loaded_{abs(hash(request.node.name))}"

    def write(source: str) -> str:
        (bare_folder / f"{name}.py").write_text(source, "utf-8")
        return name

    yield write
    sys.modules.pop(name, None)


def test_a_function_that_makes_the_app_is_called(module: Any) -> None:
    name = module("from omnidaemon import App\ndef make(): return App('made')\n")
    assert load_app(f"{name}:make").name == "made"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_that_name", "py:1: ModuleNotFoundError: No module named 'nothing_"),
        ("x = 1\ny = (", "py:2: SyntaxError"),
        ("x = 1\n\n1 / 0", "py:3: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "py:1: SystemExit: 3"),
        ("x = 1", "has no attribute 'app'"),
        ("app = 5", "is no App but int"),
        ("def app(): return 5", "is no App but int"),
        ("def app(): return {}['x']", "py:1: KeyError: 'x'"),
        (
            "from omnidaemon import App\napp = App()\n@app.agent('a b')\ndef f(): pass\n",
            "py:3: topic name 'a b' is not usable",
        ),
    ],
)
def test_an_app_that_cannot_be_loaded_is_one_message_with_the_place(
    module: Any, source: str, words: str
) -> None:
    name = module(source)
    with pytest.raises(ImportStringError) as caught:
        load_app(f"{name}:app")
    assert words in str(caught.value)
    assert f"'{name}:app'" in str(caught.value)


# Printing


def test_nothing_that_moves_a_cursor_is_printed() -> None:
    assert plain("a\x1b[31mb\nc\u202ed") == r"a\x1b[31mb c\u202ed"
    assert plain(None) == plain("") == "-"
    assert plain(0) == "0"


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("topic", "text"), ("n", "number")], [("a", 5), ("long.name", 1234)])
    assert capsys.readouterr().out == "topic         n\na             5\nlong.name  1234\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0121, "12 ms"),
        (3.44, "3.4 s"),
        (320, "5 min 20 s"),
        (11_400, "3 h 10 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_length_of_time_is_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


# What the demo's agents do


def test_markup_is_taken_away_and_headings_are_found() -> None:
    source = """\
# The `first` heading

Some **bold** words and a [link](https://example.org).
They go on here.

- one item
- another *item*

```python
code = "is left out"
```

| a | table |
|---|-------|

Second heading
==============

The end.
"""
    paragraphs, headings = without_markup(source)
    assert headings == ["The first heading", "Second heading"]
    assert paragraphs == [
        "Some bold words and a link. They go on here.",
        "one item",
        "another item",
        "The end.",
    ]


def test_sentences_end_where_a_capital_follows() -> None:
    assert sentences(["It costs 3.5 euros. Really? (Yes.) e.g. this"]) == [
        "It costs 3.5 euros.",
        "Really?",
        "(Yes.) e.g. this",
    ]


def test_the_most_telling_sentence_is_the_one_that_shares_most() -> None:
    text = [
        "Yesterday the weather outside was rather pleasant again.",
        "A worker leases every event from the queue before running it.",
        "When a worker dies, the queue leases its events to another worker.",
        "Events stay in the queue until a worker has settled them.",
        "My grandmother preferred coffee without any sugar inside.",
    ]
    assert "worker" in most_telling(text, 1)[0]
    assert most_telling([], 1) == []
    assert most_telling(["Too short."], 1) == ["Too short."]


def test_the_demo_takes_real_text_files_only(bare_folder: Path) -> None:
    (bare_folder / "a.md").write_text("# A\n\ntext", "utf-8")
    (bare_folder / "deep").mkdir()
    (bare_folder / "deep" / "b.rst").write_text("text", "utf-8")
    (bare_folder / ".hidden").mkdir()
    (bare_folder / ".hidden" / "c.md").write_text("text", "utf-8")
    (bare_folder / "binary.txt").write_bytes(b"\x00\x01")
    (bare_folder / "latin.txt").write_bytes(b"caf\xe9")
    (bare_folder / "large.txt").write_bytes(b"x" * (MOST_BYTES + 1))
    (bare_folder / "empty.txt").write_bytes(b"\n")
    (bare_folder / "code.py").write_text("x = 1", "utf-8")
    chosen = choose(bare_folder)
    assert [file.name for file in chosen.files] == ["a.md", "b.rst"]
    assert chosen.skipped == {"not text": 1, "not UTF-8 text": 1, "over 300 kB": 1, "empty": 1}


def test_a_folder_without_text_files_is_said_so(bare_folder: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"no text files .* with --path"):
        choose(bare_folder)
