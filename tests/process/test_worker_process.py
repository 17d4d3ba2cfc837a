"""`omnidaemon worker` as processes: draining, forcing, supervising, reloading. On SQLite."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from omnidaemon import App
from omnidaemon.messages import GroupInfo
from omnidaemon.records import RunRecord
from tests.started import SECONDS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")

SHOP = """
import os, time, threading
from pathlib import Path
import anyio
from omnidaemon import App, Backoff, Context

app = App("shop")

@app.agent("greet", name="greet")
async def greet(user: dict) -> dict:
    return {"hello": user["name"]}

@app.agent("hold", name="hold", lease=5)
async def hold(what: str, ctx: Context) -> dict:
    Path(f"holding-{what}").touch()
    while not Path("go").exists():
        await anyio.sleep(0.01)
    return {"attempt": ctx.attempt, "pid": os.getpid()}

@app.agent("meet", name="meet")
async def meet(n: int) -> int:
    # Returns when another process runs one, too: one worker alone would never end this.
    Path(f"met-{os.getpid()}").touch()
    while len(list(Path().glob("met-*"))) < 2:
        await anyio.sleep(0.01)
    return os.getpid()

@app.agent("thread", name="thread", lease=5)
def thread(n: int) -> None:
    Path("in-thread").touch()
    threading.Event().wait(60)

@app.agent("stuck", name="stuck")
async def stuck(n: int) -> None:
    Path("stuck").touch()
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Publishes to the workers of this test and reads what they wrote."""
    (tmp_path / ".omnidaemon_data").mkdir()
    return App("test", transport=f"sqlite:{tmp_path}/.omnidaemon_data/omnidaemon.db")


def publish(app: App, topic: str, *contents: object) -> list[str]:
    async def main() -> list[str]:
        async with app:
            return [task.id for task in await app.send_many([(topic, c) for c in contents])]

    return anyio.run(main)


def runs(app: App, topic: str, *ids: str) -> list[RunRecord]:
    async def main() -> list[RunRecord]:
        async with app:
            return [await app.tasks.result(task_id, topic, timeout=SECONDS) for task_id in ids]

    return anyio.run(main)


def group(app: App, topic: str) -> GroupInfo:
    async def main() -> GroupInfo:
        async with app:
            (found,) = await app.transport.groups(topic)
            return found

    return anyio.run(main)


def pid_in(line: str) -> int:
    found = re.search(r"process (\d+)", line)
    assert found, line
    return int(found[1])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_first_line_says_which_backend_was_chosen_and_why(start: Any) -> None:
    worker = start("worker", "shop:app")
    worker.line("is ready")
    assert json.loads(worker.lines[0])["message"] == (
        "OmniDaemon: EVENT_BUS_TYPE is not set and REDIS_URL neither: the embedded SQLite file "
        ".omnidaemon_data/omnidaemon.db, results in it too"
    )


def test_an_event_published_before_any_worker_was_started_is_handled(start: Any, app: App) -> None:
    ids = publish(app, "greet", {"name": "Alice"})
    start("worker", "shop:app").line("is ready")
    assert runs(app, "greet", *ids)[0].value == {"hello": "Alice"}


def test_two_workers_share_the_load(start: Any, app: App) -> None:
    for _ in range(2):
        start("worker", "shop:app").line("is ready")
    ids = publish(app, "meet", 1, 2)
    assert len({run.value for run in runs(app, "meet", *ids)}) == 2


def test_a_signal_lets_the_running_handler_finish(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    worker = start("worker", "shop:app")
    ids = publish(app, "hold", "a", "b")
    wait_for(tmp_path / "holding-a")
    worker.send(signal.SIGTERM)
    worker.line("drains: 1 runs")
    (tmp_path / "go").touch()
    assert worker.ended() == 0
    assert runs(app, "hold", ids[0])[0].value["attempt"] == 1
    assert not (tmp_path / "holding-b").exists()
    assert group(app, "hold").lag + group(app, "hold").waiting == 1


def test_a_second_signal_hands_back_what_runs_uncharged(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    worker = start("worker", "shop:app")
    ids = publish(app, "hold", "a")
    wait_for(tmp_path / "holding-a")
    worker.send(signal.SIGINT)
    worker.line("drains")
    worker.send(signal.SIGINT)
    worker.line("hands back 1 runs")
    assert worker.ended() == 0
    (tmp_path / "go").touch()
    start("worker", "shop:app")
    assert runs(app, "hold", *ids)[0].value["attempt"] == 1


def test_a_third_signal_ends_a_worker_whose_handler_blocks_the_loop(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    worker = start("worker", "shop:app")
    publish(app, "stuck", 1)
    wait_for(tmp_path / "stuck")
    while worker.process.poll() is None:  # signals sent at once may be taken as one
        worker.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(0.05)
    assert worker.ended() == 1
    assert "a third signal" in worker.text


def test_a_handler_that_was_abandoned_in_its_thread_does_not_hold_up_the_end(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    worker = start("worker", "shop:app", "--grace", "0")
    publish(app, "thread", 1)
    wait_for(tmp_path / "in-thread")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert "1 handlers still run in their threads" in worker.text
    assert group(app, "thread").waiting + group(app, "thread").lag == 1


def test_a_killed_process_is_started_again(start: Any) -> None:
    supervisor = start("worker", "shop:app", "--processes", "2")
    first, second = (pid_in(supervisor.line("process", "is ready")) for _ in range(2))
    os.kill(first, signal.SIGKILL)
    supervisor.line(f"process {first} ended (SIGKILL)", "another is started")
    third = pid_in(supervisor.line("process", "is ready"))
    supervisor.send(signal.SIGTERM)
    assert supervisor.ended() == 0
    assert all(gone(pid) for pid in (first, second, third))
    assert supervisor.text.count("OmniDaemon:") == 1


def test_a_supervisor_passes_a_second_signal_on(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    supervisor = start("worker", "shop:app", "--processes", "2")
    publish(app, "hold", "a")
    wait_for(tmp_path / "holding-a")
    supervisor.send(signal.SIGTERM)
    supervisor.line("drains: 1 runs")
    supervisor.send(signal.SIGTERM)
    supervisor.line("hands back 1 runs")
    assert supervisor.ended() == 0
    assert group(app, "hold").waiting + group(app, "hold").lag == 1


def test_ctrl_c_in_a_terminal_reaches_the_children_once(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    supervisor = start("worker", "shop:app", "--processes", "2")
    publish(app, "hold", "a")
    wait_for(tmp_path / "holding-a")
    supervisor.send_group(signal.SIGINT)
    supervisor.line("drains: 1 runs")
    (tmp_path / "go").touch()
    assert supervisor.ended() == 0
    assert "hands back" not in supervisor.text


def test_the_children_of_a_killed_supervisor_drain(
    start: Any, app: App, tmp_path: Path, wait_for: Callable[[Path], None]
) -> None:
    supervisor = start("worker", "shop:app", "--processes", "2")
    children = [pid_in(supervisor.line("process", "is ready")) for _ in range(2)]
    ids = publish(app, "hold", "a")
    wait_for(tmp_path / "holding-a")
    supervisor.send(signal.SIGKILL)
    supervisor.line("the supervisor is gone")
    (tmp_path / "go").touch()
    assert supervisor.ended() == -signal.SIGKILL  # all that had its streams open is gone
    assert runs(app, "hold", *ids)[0].value["pid"] in children


def test_what_is_set_up_wrongly_ends_the_supervisor_and_is_said_once(start: Any) -> None:
    supervisor = start("worker", "shop:nothing", "--processes", "3")
    assert supervisor.ended() == 1
    assert supervisor.text.count("omnidaemon: error:") == 1
    assert "shop has no attribute 'nothing'" in supervisor.text


def test_a_changed_module_is_loaded_and_a_broken_one_waits_for_the_next_change(
    start: Any, app: App, tmp_path: Path
) -> None:
    worker = start("worker", "shop:app", "--reload")
    worker.line("process", "is ready")
    source = tmp_path / "shop.py"
    # Once more whenever nothing came of it: the watching may have begun after the first change.
    change(worker, source, "this is no Python", "it is started again after the next change")
    change(worker, source, SHOP.replace('"hello"', '"goodbye"'), "is ready")
    ids = publish(app, "greet", {"name": "Bob"})
    assert runs(app, "greet", *ids)[0].value == {"goodbye": "Bob"}
    worker.send(signal.SIGINT)
    assert worker.ended() == 0
    assert "SyntaxError" in worker.text


def change(worker: Any, file: Path, source: str, expected: str) -> None:
    """Writes the file, again and again, until the line comes that it must lead to."""
    came = threading.Event()

    def write() -> None:
        while not came.is_set():
            file.write_text(source, "utf-8")
            came.wait(2.0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        worker.line(expected)
    finally:
        came.set()
        writer.join()


def test_pauses_are_not_lifted_by_a_worker_that_nobody_sits_at(start: Any, app: App) -> None:
    ids = publish(app, "greet", {"name": "Eve"})
    first = start("worker", "shop:app")
    first.line("is ready")
    runs(app, "greet", *ids)

    async def pause() -> None:
        async with app:
            assert await app.transport.pause("greet", "greet")

    anyio.run(pause)
    first.send(signal.SIGTERM)
    assert first.ended() == 0
    start("worker", "shop:app").line("is ready")
    assert group(app, "greet").paused


def test_health_sees_the_worker_and_metrics_what_it_did(start: Any, run: Any, app: App) -> None:
    start("worker", "shop:app").line("is ready")
    runs(app, "greet", *publish(app, "greet", {"name": "A"}, {"name": "B"}))
    health = json.loads(run("health", "--json").stdout)
    assert health["status"] == "running"
    assert health["registered_agents_count"] == 5
    assert "greet" in health["subscribed_topics"]
    (worker,) = health["workers"]
    assert worker["app"] == "shop"
    assert worker["running"] == 0
    metrics = json.loads(run("metrics", "--topic", "greet", "--json").stdout)
    counted = metrics["greet"]["greet"]
    assert counted.pop("avg_processing_time_sec") > 0
    assert counted == {"tasks_received": 2, "tasks_processed": 2, "tasks_failed": 0}
