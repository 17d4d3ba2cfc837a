"""What a worker writes to standard error: JSON into a pipe, lines for people at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from omnidaemon import App
from omnidaemon.settings import Settings
from tests.process.conftest import SECONDS, environment
from tests.process.test_worker_process import publish
from tests.receiver import Receiver, Reply

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals")

SHOP = """
import logging
from pathlib import Path
from omnidaemon import App, Backoff, Reject

app = App("shop")
own = logging.getLogger("shop")

@app.agent("orders", name="charge", retries=1, backoff=Backoff(0))
async def charge(order: dict):
    own.info("charging")
    if order.get("fails"):
        raise ValueError("no such card")
    return order

@app.agent("orders", name="count")
def count(order: dict):
    own.info("counting")

@app.agent("typed", name="typed")
async def typed(number: int):
    raise AssertionError("what does not fit is not run")

@app.agent("end", name="end")
async def end(content):
    Path("ended").touch()
"""
PAYLOAD = "s3cret-of-the-customer"


@pytest.fixture(autouse=True)
def shop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    (tmp_path / ".omnidaemon_data").mkdir()


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(
        "test",
        transport=f"sqlite:{tmp_path}/.omnidaemon_data/omnidaemon.db",
        settings=Settings(),
    )


def test_into_a_pipe_each_line_is_an_object_that_names_its_task_and_no_payload(
    start: Any, app: App
) -> None:
    answers = [Reply(500), Reply(400)]
    with Receiver(lambda n: answers[n > 1]) as receiver:
        worker = start(
            "worker",
            "shop:app",
            LOG_LEVEL="debug",
            OMNIDAEMON_WEBHOOK_ALLOW="127.0.0.1",
            OMNIDAEMON_WEBHOOK_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            OMNIDAEMON_API_KEYS="k3y-of-the-admin:admin",
            OMNIDAEMON_API_ENABLED="true",
            OMNIDAEMON_API_PORT="1",
        )
        worker.line("is ready")

        async def send() -> list[str]:
            async with app:
                tasks = [
                    await app.send(
                        "orders",
                        {"card": PAYLOAD, "fails": fails},
                        webhook=f"{receiver.url}/{PAYLOAD}?token={PAYLOAD}",
                        headers={"authorization": PAYLOAD},
                        correlation_id="c-1",
                    )
                    for fails in (False, True)
                ]
                await app.send("typed", PAYLOAD)
                return [task.id for task in tasks]

        good, bad = anyio.run(send)
        worker.line("a dead letter", bad, "no such card")
        worker.line("Undeliverable")
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    lines = [json.loads(line) for line in worker.lines]
    assert all({"timestamp", "level", "logger", "message", "pid"} <= line.keys() for line in lines)
    assert lines[0]["message"].startswith("OmniDaemon: ")
    said = [line for line in lines if line["logger"] == "shop"]
    assert {(line["task_id"], line["agent"], line["attempt"]) for line in said} == {
        (good, "charge", 1),
        (good, "count", 1),
        (bad, "charge", 1),
        (bad, "charge", 2),
        (bad, "count", 1),
    }
    assert {(line["topic"], line["correlation_id"]) for line in said} == {("orders", "c-1")}
    assert any("does not fit int" in line["message"] for line in lines)
    for secret in (PAYLOAD, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "k3y-of-the-admin"):
        assert secret not in worker.text


def test_lines_of_text_are_to_be_had_and_a_level_hides_what_is_below(start: Any, app: App) -> None:
    worker = start("worker", "shop:app", "--log-format", "text", "--processes", "2")
    worker.line("is ready")
    [task_id] = publish(app, "orders", {"fails": False})
    line = worker.line("charging")
    assert re.match(r"\d{4}-\d\d-\d\d \S+ INFO    \[\d+\] shop: charging \[task_id=", line)
    assert line.endswith(f"[task_id={task_id} topic=orders agent=charge attempt=1]")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    quiet = start("worker", "shop:app", LOG_LEVEL="ERROR", LOG_FORMAT="text")
    publish(app, "orders", {"fails": True})
    quiet.line("ERROR", "no such card")
    quiet.send(signal.SIGTERM)
    assert quiet.ended() == 0
    assert quiet.lines[0].count("ERROR") == 1  # nothing came before it


def test_at_a_terminal_lines_are_for_people(app: App, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "omnidaemon", "worker", "shop:app"]
    worker = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="200"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"is ready" not in shown:
            shown += os.read(ours, 65_536)
        publish(app, "orders", {"fails": False})
        while shown.count(b"charging") < 1:
            shown += os.read(ours, 65_536)
        worker.send_signal(signal.SIGTERM)
        while True:
            try:
                more = os.read(ours, 65_536)
            except OSError:  # on Linux, how the other end's closing shows
                break
            if not more:
                break
            shown += more
        assert worker.wait(SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert '{"timestamp"' not in text
    assert b"\x1b[" in shown
    assert re.search(r"INFO +charging \[task_id=\S+ topic=orders agent=charge", text), text
