"""The commands as people and scripts call them: in a pipe, on SQLite, with everything wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.started import SECONDS

SHOP = """
from omnidaemon import App, Reject

app = App("shop")

@app.agent("greet.user", name="greet")
async def greet(user: dict) -> dict:
    return {"hello": user["name"]}

@app.agent("charge", name="charge", retries=0)
async def charge(amount: float) -> str:
    if amount > 1:
        raise ValueError(f"cannot charge {amount}")
    return "charged"
"""
READS = [
    ["bus", "list", "--groups"],
    ["bus", "dlq", "--topic", "charge"],
    ["task", "list"],
    ["health"],
    ["metrics"],
    ["info"],
]


@pytest.fixture
def worker(tmp_path: Path, start: Any) -> Any:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    started = start("worker", "shop:app")
    started.line("is ready")
    return started


def publish(run: Any, *arguments: str) -> Any:
    return run("task", "publish", *arguments)


def test_a_published_event_waits_and_its_result_is_printed(worker: Any, run: Any) -> None:
    ended = publish(run, "--topic", "greet.user", "--payload", '{"name": "Alice"}', "--wait")
    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"hello": "Alice"})
    task_id = ended.stderr.split()[1]
    task = json.loads(run("task", "result", task_id, "--json").stdout)
    assert task["status"] == "succeeded"
    assert task["result"] == {"hello": "Alice"}
    assert task["agents"]["greet"]["attempts"] == 1
    text = run("task", "result", "--task-id", task_id).stdout
    assert 'result:    {"hello":"Alice"}' in text


def test_standard_input_and_a_file_are_read(worker: Any, run: Any, tmp_path: Path) -> None:
    payload = json.dumps({"name": "Zoë"}, ensure_ascii=False)
    (tmp_path / "payload.json").write_text(payload, "utf-8")
    there = ["--topic", "greet.user", "--wait", "--json"]
    piped = run("task", "publish", *there, "--payload", "-", stdin=payload)
    read = publish(run, *there, "--payload-file", "payload.json")
    for ended in (piped, read):
        assert json.loads(ended.stdout)["result"] == {"hello": "Zoë"}


def test_a_task_that_failed_for_good_says_its_cause_and_can_be_replayed(
    worker: Any, run: Any
) -> None:
    ended = publish(run, "--topic", "charge", "--payload", "5", "--wait", "--id", "order-1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "omnidaemon: error: task order-1" in ended.stderr
    assert "ValueError: cannot charge 5.0" in ended.stderr
    (letter,) = json.loads(run("bus", "dlq", "--topic", "charge", "--json").stdout)
    assert letter["task_id"] == "order-1"
    assert letter["agent"] == "charge"
    assert letter["cause"]["message"] == "cannot charge 5.0"
    assert "Traceback" in letter["cause"]["traceback"]
    assert letter["event"]["content"] == 5
    assert "ValueError: cannot charge" in run("bus", "dlq", "--topic", "charge").stdout
    missing = run("bus", "replay", "--topic", "charge", "--id", "order-1", "--id", "order-2")
    assert missing.returncode == 1
    assert "no dead letter 'order-2'" in missing.stderr
    by_id = run("bus", "replay", "--topic", "charge", "--id", "order-1")
    assert by_id.stdout == "replayed 1 dead letter of topic 'charge'\n"


def test_a_dead_letter_is_mended_and_replayed(worker: Any, run: Any) -> None:
    assert publish(run, "--topic", "charge", "--payload", "5", "--wait", "--id", "o-1").returncode
    there = ("bus", "replay", "--topic", "charge")
    many = run(*there, "--content", "1")
    assert (many.returncode, "by one --id" in many.stderr) == (2, True)
    no_json = run(*there, "--id", "o-1", "--content", "{")
    assert (no_json.returncode, "not JSON" in no_json.stderr) == (1, True)
    mended = run(*there, "--id", "o-1", "--content", "-", stdin="1")
    assert mended.stdout == "replayed 1 dead letter of topic 'charge'\n"
    deadline = time.monotonic() + SECONDS
    while (task := json.loads(run("task", "result", "o-1", "--json").stdout))["result"] is None:
        assert time.monotonic() < deadline, task
    assert (task["status"], task["result"]) == ("succeeded", "charged")


def test_what_does_not_exist_is_one_clear_line(worker: Any, run: Any) -> None:
    for command, words in [
        (["task", "result", "no-such-task"], "no task 'no-such-task' here"),
        (["bus", "dlq", "--topic", "nowhere"], "there is no topic 'nowhere'; known are: charge, "),
        (["bus", "replay", "--topic", "charge", "--agent", "x"], "'charge' has no agent 'x'"),
    ]:
        ended = run(*command)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("omnidaemon: error: ")
        assert ended.stderr.count("\n") == 1
        assert words in ended.stderr


def test_a_wait_that_ends_first_says_what_to_do(run: Any) -> None:
    ended = publish(
        run, "--topic", "nobody", "--content", "x", "--wait", "--timeout", "0.1", "--id", "t-1"
    )
    assert ended.returncode == 1
    assert "no agent has ever listened to 'nobody'" in ended.stderr
    assert "omnidaemon task result t-1" in ended.stderr
    task = json.loads(run("task", "result", "t-1", "--json").stdout)
    assert task["status"] == "pending"


def test_ctrl_c_ends_a_wait_quietly(start: Any) -> None:
    waiting = start("task", "publish", "--topic", "nobody", "--content", "x", "--wait")
    waiting.line("is published, waiting")
    waiting.send(signal.SIGINT)
    assert waiting.ended() == 130
    assert len(waiting.lines) == 1


@pytest.mark.parametrize("command", READS, ids=" ".join)
def test_what_reads_prints_valid_json_in_a_pipe_and_no_colours(
    worker: Any, run: Any, command: list[str]
) -> None:
    publish(run, "--topic", "charge", "--payload", "5", "--wait")
    publish(run, "--topic", "greet.user", "--payload", '{"name": "A"}', "--wait")
    data, text = run(*command, "--json"), run(*command)
    assert (data.returncode, text.returncode) == (0, 0)
    assert json.loads(data.stdout)
    assert "\x1b" not in text.stdout
    assert text.stdout.strip()


def test_with_nothing_there_yet_reading_is_no_error(run: Any) -> None:
    assert run("bus", "list").stdout.startswith("no topics")
    assert run("task", "list").stdout.startswith("no runs")
    assert run("metrics").stdout.startswith("no agent has run")
    assert json.loads(run("health", "--json").stdout)["status"] == "stopped"
    for command in (["bus", "list"], ["task", "list"]):
        assert json.loads(run(*command, "--json").stdout) == []


@pytest.fixture(params=["foreign", "beside a file", "a folder"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that no database of ours can be in; permissions would not stop root."""
    file = tmp_path / "place"
    if request.param == "foreign":
        foreign = sqlite3.connect(file)
        foreign.execute("CREATE TABLE invoices (id INTEGER)")
        foreign.commit()
        foreign.close()
        return str(file)
    if request.param == "a folder":
        file.mkdir()
        return str(file)
    file.write_text("some text")
    return str(file / "omni.db")


@pytest.mark.parametrize(
    "command",
    [*READS[:5], ["task", "publish", "--topic", "t", "--content", "x"], ["worker", "shop:app"]],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_backend_that_cannot_be_used_is_one_line_that_names_it(
    run: Any, tmp_path: Path, unusable: str, command: list[str]
) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    ended = run(*command, OMNIDAEMON_SQLITE=unusable)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if "OmniDaemon:" not in line]
    assert len(errors) == 1, ended.stderr
    assert errors[0].startswith("omnidaemon: error: ")
    assert str(tmp_path / "place") in errors[0]


def test_health_reports_in_json_what_fails(run: Any, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    ended = run("health", "--json", OMNIDAEMON_SQLITE=str(tmp_path / "place"))
    health = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert health["status"] == "degraded"
    assert not health["event_bus_connected"]
    assert not health["storage_healthy"]


def test_a_reader_that_goes_away_is_no_traceback(run: Any, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "omnidaemon", "info", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_demo_runs_to_its_end_with_a_retry(run: Any, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("one", "two", "three"):
        (texts / f"{name}.md").write_text(
            f"# {name}\n\nThis text of {name} has two sentences. The second text is about {name}.\n"
        )
    (texts / "broken.md").write_bytes(b"\xff\xfe\x00")
    ended = run("demo", "--path", "texts")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "left out: 1 not UTF-8 text" in ended.stdout
    assert any(line.startswith("summarize failed on one.md, run 1") for line in lines)
    assert any(line.startswith("summarize succeeded on one.md, run 2") for line in lines)
    assert "summarize: 3 documents" in lines
    assert any("3 documents" in line and "10 runs" in line for line in lines)
    database = str(tmp_path / ".omnidaemon_data" / "demo.db")
    listed = run("task", "list", "--json", OMNIDAEMON_SQLITE=database)
    assert len(json.loads(listed.stdout)) == 9
    topics = run("bus", "list", "--json", OMNIDAEMON_SQLITE=database)
    events = {topic["name"]: topic["events"] for topic in json.loads(topics.stdout)}
    assert events == {"document.uploaded": 3, "text.extracted": 3, "analysis.completed": 6}
    command = next(line.strip() for line in lines if "task list" in line)
    assert command.startswith("OMNIDAEMON_SQLITE=.omnidaemon_data/demo.db ")
