"""Every command, on Redis and on the embedded default, on a terminal, in a pipe and as JSON.

The commands are taken from the click tree: a new one that is not tried here fails a test.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from omnidaemon.cli import cli
from tests.process.chaos import NOISE_SECONDS
from tests.process.cli_driver import divider
from tests.process.conftest import SECONDS, Started, environment
from tests.redis.servers import RedisServer, binaries

DRIVER = Path(__file__).with_name("cli_driver.py")
ROOT = DRIVER.parents[2]
SHOP = """
from omnidaemon import App

app = App("shop")

@app.agent("greet.user", name="greet", description="Greets.")
async def greet(user: dict) -> dict:
    return {"hello": user["name"]}

@app.agent("charge", name="charge", retries=0)
async def charge(amount: float) -> None:
    raise ValueError(f"cannot charge {amount}")

for mode in ("pipe", "json", "terminal"):
    for topic in (f"gone.{mode}", f"doomed.{mode}"):
        @app.agent(topic, name="doomed")
        async def doomed(event: object) -> None: ...
"""
MODES = ("pipe", "json", "terminal")
ELSEWHERE = {
    "worker": "the fixture below runs it",
    "demo": "test_cli.py",
    "init": "test_init.py",
}
WITHOUT_BROKER = {"info"}
WITHOUT_JSON = set(ELSEWHERE)
MADE_TO_FIT = {
    *("agent list", "agent get", "task list", "task result", "top", "metrics"),
    *("bus list", "bus inspect", "bus groups", "bus dlq", "bus stats"),
}


def commands_of(mode: str) -> dict[str, list[str]]:
    """Each command with its arguments; those that destroy come last."""
    greet = ["--topic", "greet.user", "--name", "greet"]
    return {
        "task publish": ["--topic=greet.user", '--payload={"name":"A"}', "--wait", f"--id={mode}"],
        "task result": [mode],
        "task list": ["--topic", "charge"],
        "agent list": ["--format", "tree"],
        "agent get": greet,
        "agent unsubscribe": greet,
        "agent resume": greet,
        "bus list": ["--groups"],
        "bus inspect": ["--stream", "greet.user", "--limit", "5"],
        "bus groups": ["--stream", "charge"],
        "bus dlq": ["--topic", "charge"],
        "bus stats": [],
        "top": ["--once", "--interval", "0.1"],
        "storage health": [],
        "config set": ["answer", '{"a": [1, 2]}'],
        "config get": ["answer"],
        "config list": [],
        "health": [],
        "metrics": ["--topic", "charge"],
        "info": [],
        "bus replay": ["--topic", "charge", "--id", f"{mode}-1"],
        "bus dlq-delete": ["--topic", "charge", "--id", f"{mode}-2"],
        "agent delete": ["--topic", f"gone.{mode}", "--name", "doomed", "--delete-dlq"],
        "agent delete-topic": ["--topic", f"doomed.{mode}"],
        "task delete": [mode],
        "storage clear-results": [],
        "storage clear-metrics": [],
        "storage clear-agents": [],
        "storage clear-all": [],
    }


def leaves(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


LEAVES = dict(leaves())


def offers(name: str, option: str) -> bool:
    return any(option in parameter.opts for parameter in LEAVES[name].params)


def test_every_command_is_tried_here_or_named_with_the_place_where_it_is() -> None:
    assert set(commands_of("pipe")) | set(ELSEWHERE) == set(LEAVES)


def test_every_command_that_answers_offers_json_and_every_one_has_a_help() -> None:
    assert {name for name in LEAVES if not offers(name, "--json")} == WITHOUT_JSON
    assert not [name for name, command in LEAVES.items() if not command.help]


# With a worker that runs


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def shop(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    no_server: Callable[[str], NoReturn],
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with an app whose worker runs, and the environment that leads to it."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "shop.py").write_text(SHOP, "utf-8")
    server = None
    env = environment()
    if request.param == "redis":
        if not binaries():
            no_server("there is no redis-server")
        server = RedisServer(binaries()[max(binaries())], folder)
        server.start()
        env["REDIS_URL"] = server.url
    worker = Started(folder, (sys.executable, "-m", "omnidaemon", "worker", "shop:app"), env)
    worker.line("is ready")
    # Dead letters that each mode can replay and delete, and something that fails for good.
    publish = ["task", "publish", "--topic", "charge", "--payload", "5", "--wait", "--id"]
    made = drive(folder, env, [[*publish, f"{mode}-{n}"] for mode in MODES for n in (1, 2)])
    assert all("cannot charge" in one["stderr"] for one in made)
    yield folder, env
    worker.clean_up()
    if server is not None:
        server.stop()


def drive(
    folder: Path, env: dict[str, str], commands: list[list[str]], *, terminal: int | None = None
) -> list[dict[str, Any]]:
    """What came of each command, with its standard output; on a terminal whose end is given."""
    (folder / "commands.json").write_text(json.dumps(commands))
    arguments = [sys.executable, str(DRIVER), "commands.json", "ended.json"]
    env = {**env, "PYTHONPATH": str(ROOT)}
    if terminal is None:
        ended = subprocess.run(
            arguments,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
        assert ended.returncode == 0, ended.stderr.decode()
        out = ended.stdout.decode()
    else:
        out = read_terminal(arguments, folder, env, answers=b"y\n" * 20)
    results: list[dict[str, Any]] = json.loads((folder / "ended.json").read_text())
    for number, one in enumerate(results):
        one["stdout"], _, out = out.partition(divider(number))
        out = out.removeprefix("\r").removeprefix("\n")
    return results


def read_terminal(
    arguments: list[str], folder: Path, env: dict[str, str], answers: bytes = b""
) -> str:
    """Runs it on a terminal of 80 columns, and returns what that shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~termios.ECHO  # the answers, typed ahead, are not part of what is shown
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    env = {name: value for name, value in env.items() if name != "COLUMNS"}
    with subprocess.Popen(
        arguments, cwd=folder, env={**env, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=2
    ) as process:
        os.close(theirs)
        os.write(ours, answers)
        shown = read_all(ours)
        assert process.wait(SECONDS) == 0
    os.close(ours)
    return shown


def read_all(terminal: int) -> str:
    shown = b""
    deadline = time.monotonic() + SECONDS
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            read = os.read(terminal, 65_536)
        except OSError:  # Linux's way to say that nobody has the other end any more
            return shown.decode()
        if not read:
            return shown.decode()
        shown += read
    pytest.fail(f"the terminal is still open:\n{shown.decode()}")


@pytest.mark.parametrize("mode", MODES)
def test_every_command_does_its_work(shop: tuple[Path, dict[str, str]], mode: str) -> None:
    folder, env = shop
    chosen = commands_of(mode)
    commands = []
    for name, arguments in chosen.items():
        extra = ["--json"] if mode == "json" else []
        if mode != "terminal" and offers(name, "--yes"):
            extra.append("--yes")
        commands.append([*name.split(), *arguments, *extra])
    ended = drive(folder, env, commands, terminal=80 if mode == "terminal" else None)
    for name, one in zip(chosen, ended, strict=True):
        assert one["code"] == 0, (name, one)
        assert one["stdout"].strip(), name
        if mode == "json":
            assert json.loads(one["stdout"]) is not None, name
        if mode == "pipe":
            assert "\x1b" not in one["stdout"], name
        if mode == "terminal":
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", one["stdout"])
            too_long = [line for line in plain.splitlines() if len(line) > 80]
            assert not too_long or name not in MADE_TO_FIT, (name, too_long)
            assert ("Go on?" in one["stderr"]) == offers(name, "--yes"), name
    shown = {name: one["stdout"] for name, one in zip(chosen, ended, strict=True)}
    assert "cannot charge 5.0" in shown["top"]
    assert "cannot charge 5.0" in shown["bus dlq"]
    if mode == "json":
        agents = {(a["topic"], a["name"]): a for a in json.loads(shown["agent list"])}
        assert agents["greet.user", "greet"]["status"] == "running"
        assert agents["charge", "charge"]["dead"] >= 2
        assert json.loads(shown["config get"]) == {"a": [1, 2]}
        assert json.loads(shown["bus replay"])["replayed"] == 1
        assert json.loads(shown["bus dlq-delete"])["deleted"] == 1
        assert json.loads(shown["agent delete"])["cleanup"]["consumer_group_deleted"]
    if mode == "terminal":
        assert "├──" in shown["agent list"] or "└──" in shown["agent list"]


def test_what_is_cleared_while_a_worker_runs_is_written_down_again(
    shop: tuple[Path, dict[str, str]],
) -> None:
    folder, env = shop
    cleared, *_ = drive(folder, env, [["storage", "clear-all", "--yes", "--json"]])
    assert "agents" in json.loads(cleared["stdout"])["removed"]
    publish = ["task", "publish", "--topic", "greet.user", "--payload", '{"name":"B"}', "--wait"]
    get = ["agent", "get", "--topic", "greet.user", "--name", "greet", "--json"]
    answer, _ = drive(folder, env, [publish, get])
    assert json.loads(answer["stdout"]) == {"hello": "B"}
    deadline = time.monotonic() + SECONDS
    while True:
        (got,) = drive(folder, env, [get])
        agent = json.loads(got["stdout"]) if got["code"] == 0 else {}
        if agent.get("registered"):
            break
        assert time.monotonic() < deadline, got
    assert agent["description"] == "Greets."
    assert json.loads(drive(folder, env, [["health", "--json"]])[0]["stdout"])["workers"]


def test_a_pause_of_another_process_holds_the_agent_until_it_is_resumed(
    shop: tuple[Path, dict[str, str]],
) -> None:
    folder, env = shop
    greet = ["--topic", "greet.user", "--name", "greet"]
    publish = ["task", "publish", "--topic", "greet.user", "--payload", '{"name":"C"}']
    pausing = [
        ["agent", "unsubscribe", *greet],
        [*publish, "--wait", "--timeout", "1", "--id", "paused-1"],
        ["agent", "get", *greet, "--json"],
        ["agent", "resume", *greet],
        [*publish, "--wait", "--id", "resumed-1"],
        ["task", "result", "paused-1", "--json"],
    ]
    _, held, got, _, answered, result = drive(folder, env, pausing)
    assert held["code"] == 1, held
    assert json.loads(got["stdout"])["status"] == "paused"
    assert json.loads(answered["stdout"]) == {"hello": "C"}
    assert json.loads(result["stdout"])["result"] == {"hello": "C"}


def test_what_is_unknown_is_one_line_that_names_it(shop: tuple[Path, dict[str, str]]) -> None:
    folder, env = shop
    unknown = {
        "agent get": ["--topic", "nowhere", "--name", "x"],
        "agent unsubscribe": ["--topic", "nowhere", "--name", "x"],
        "agent resume": ["--topic", "charge", "--name", "x"],
        "agent delete": ["--topic", "charge", "--name", "x", "--yes"],
        "agent delete-topic": ["--topic", "nowhere", "--yes"],
        "task delete": ["no-such-task", "--yes"],
        "bus inspect": ["--stream", "nowhere"],
        "bus groups": ["--stream", "nowhere"],
        "bus dlq-delete": ["--topic", "charge", "--id", "no-such-letter", "--yes"],
        "config get": ["no-such-key"],
    }
    ended = drive(folder, env, [[*name.split(), *rest] for name, rest in unknown.items()])
    for name, one in zip(unknown, ended, strict=True):
        assert one["code"] == 1, (name, one)
        assert one["stderr"].startswith("omnidaemon: error: "), name
        assert one["stderr"].count("\n") == 1, name
        assert re.search("nowhere|'x'|no-such", one["stderr"]), one["stderr"]


# The live view


@pytest.mark.parametrize("end", ["q", "ctrl-c", "SIGTERM"])
def test_the_live_view_draws_again_and_gives_the_terminal_back(
    shop: tuple[Path, dict[str, str]], end: str
) -> None:
    folder, env = shop
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "omnidaemon", "top", "--interval", "0.1"],
        cwd=folder,
        env={**{n: v for n, v in env.items() if n != "COLUMNS"}, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # its Ctrl-C comes here
    )
    shown = ""
    while shown.count("q quits") < 3:  # three frames
        assert select.select([ours], [], [], SECONDS)[0], shown
        shown += os.read(ours, 65_536).decode()
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        os.write(ours, b"q" if end == "q" else b"\x03")
    while "\x1b[?1049l" not in shown:  # back from the alternate screen
        assert select.select([ours], [], [], SECONDS)[0], shown
        shown += os.read(ours, 65_536).decode()
    assert process.wait(SECONDS) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
    assert "greet.user/greet" in shown
    assert "Traceback" not in shown


# With nobody there


def test_nothing_is_destroyed_where_nobody_can_be_asked(tmp_path: Path) -> None:
    asking = [name for name in LEAVES if offers(name, "--yes")]
    chosen = commands_of("pipe")
    ended = drive(tmp_path, environment(), [[*name.split(), *chosen[name]] for name in asking])
    assert len(asking) >= 8
    for name, one in zip(asking, ended, strict=True):
        assert one["code"] == 1, name
        assert one["stderr"].startswith("omnidaemon: error: nothing was done: "), one["stderr"]
        assert one["stderr"].endswith("add --yes\n")


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a server that is not there: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}/0"


def test_a_broker_that_is_down_is_one_line_within_three_seconds(
    tmp_path: Path, nobody: str
) -> None:
    chosen = {
        name: rest for name, rest in commands_of("pipe").items() if name not in WITHOUT_BROKER
    }
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    commands = [
        [*name.split(), *rest, *(["--yes"] if offers(name, "--yes") else [])]
        for name, rest in chosen.items()
    ]
    commands.append(["worker", "shop:app", "--quiet"])
    ended = drive(tmp_path, environment(REDIS_URL=nobody), commands)
    for command, one in zip(commands, ended, strict=True):
        check_down(" ".join(command), one)


def check_down(name: str, one: dict[str, Any]) -> None:
    assert one["code"] == 1, (name, one)
    assert one["seconds"] < 3 + NOISE_SECONDS, (name, one)
    assert one["stderr"].count("\n") == 1, (name, one)
    assert one["stderr"].startswith("omnidaemon: error: "), (name, one)
    assert re.search("cannot be reached|no answer", one["stderr"]), (name, one)
    # What examines health shows beside it where it has looked, and a worker has said it before.
    if "health" not in name and not name.startswith("worker"):
        assert "REDIS_URL is: Redis at redis://" in one["stderr"], (name, one)


def test_a_broker_that_says_nothing_is_one_line_within_three_seconds(tmp_path: Path) -> None:
    commands = [
        ["task", "publish", "--topic", "t", "--content", "x"],
        ["agent", "list"],
        ["health"],
        ["storage", "health"],
        ["top"],
    ]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody reads
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        ended = drive(tmp_path, environment(REDIS_URL=url), commands)
    for command, one in zip(commands, ended, strict=True):
        check_down(" ".join(command), one)


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    chosen = {
        name: rest for name, rest in commands_of("pipe").items() if name not in WITHOUT_BROKER
    }
    commands = [
        [*name.split(), *rest, *(["--yes"] if offers(name, "--yes") else [])]
        for name, rest in chosen.items()
    ]
    ended = drive(tmp_path, environment(OMNIDAEMON_SQLITE=str(tmp_path / "place")), commands)
    for name, one in zip(chosen, ended, strict=True):
        assert one["code"] == 1, (name, one)
        assert one["stderr"].count("\n") == 1, (name, one)
        assert str(tmp_path / "place") in one["stderr"], (name, one)
