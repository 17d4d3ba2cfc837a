"""The admin API served by worker processes: by option, by environment, for several processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.conftest import SECONDS, Start, Started

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")

SHOP = """
import os, time
from pathlib import Path
from omnidaemon import App

app = App("shop")

@app.agent("greet", name="greet")
async def greet(user: dict) -> dict:
    return {"hello": user["name"], "pid": os.getpid()}

@app.agent("stuck", name="stuck")
async def stuck(n: int) -> None:
    Path("stuck").touch()
    while not Path("go").exists():
        time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")


def url_of(worker: Started) -> str:
    line = worker.line("the admin API is served at")
    match = re.search(r"at (http://\S+),", line)
    assert match is not None
    assert f"the dashboard at {match[1]}/ui," in line
    return match[1]


def until(url: str, path: str, wanted: Any, **more: Any) -> dict[str, Any]:
    """Asks until the answer is as wanted; what waits is another process."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer: dict[str, Any] = httpx.get(url + path, **more).json()
        if wanted(answer):
            return answer
        assert time.monotonic() < deadline, answer


def result(url: str, name: str) -> Any:
    body = {"topic": "greet", "payload": {"name": name}}
    task_id = httpx.post(f"{url}/tasks", json=body).json()["task_id"]
    return until(url, f"/tasks/{task_id}", lambda task: task["status"] == "succeeded")["result"]


def test_a_worker_with_the_option_serves_the_api_and_drains_as_ever(start: Start) -> None:
    worker = start("worker", "shop:app", "--api", "--api-port", "0")
    url = url_of(worker)
    assert url.startswith("http://127.0.0.1:")
    worker.line("is ready")
    assert result(url, "Ada") == {"hello": "Ada", "pid": worker.pid}
    assert httpx.get(f"{url}/health").json()["status"] == "running"
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert "Traceback" not in worker.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez")


def test_the_environment_alone_serves_the_api(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    worker = start(
        "worker",
        "shop:app",
        OMNIDAEMON_API_ENABLED="true",
        OMNIDAEMON_API_PORT=str(port),
        OMNIDAEMON_API_KEYS="k3y:admin",
    )
    assert url_of(worker) == f"http://127.0.0.1:{port}"
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 401
    headers = {"Authorization": "Bearer k3y"}
    assert httpx.get(f"http://127.0.0.1:{port}/livez", headers=headers).status_code == 200
    assert "k3y" not in worker.text


def test_a_blocked_worker_is_still_looked_into(start: Start, tmp_path: Path) -> None:
    worker = start("worker", "shop:app", "--api-port", "0")
    url = url_of(worker)
    worker.line("is ready")
    body = {"topic": "stuck", "payload": 1}
    task_id = httpx.post(f"{url}/tasks", json=body).json()["task_id"]
    until(url, f"/tasks/{task_id}", lambda task: task["status"] == "running")
    assert httpx.get(f"{url}/livez").status_code == 200
    (tmp_path / "go").touch()
    until(url, f"/tasks/{task_id}", lambda task: task["status"] == "succeeded")


def test_a_port_in_use_ends_only_a_worker_that_was_told_to_serve(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        told = start("worker", "shop:app", "--api", "--api-port", port)
        assert told.ended() == 1
        assert len([line for line in told.lines if port in line]) == 1
        assert "Traceback" not in told.text
        goes_on = start("worker", "shop:app", OMNIDAEMON_API_ENABLED="1", OMNIDAEMON_API_PORT=port)
        assert "--api-port" in goes_on.line(f"port {port} of 127.0.0.1")
        goes_on.line("is ready")
        goes_on.send(signal.SIGTERM)
        assert goes_on.ended() == 0


@pytest.mark.parametrize("option", [("--api",), ()])
def test_without_keys_nothing_is_served_to_other_machines_and_the_worker_runs(
    start: Start, option: tuple[str, ...]
) -> None:
    worker = start(
        "worker",
        "shop:app",
        *option,
        OMNIDAEMON_API_ENABLED="1",
        OMNIDAEMON_API_HOST="0.0.0.0",
        OMNIDAEMON_API_PORT="1",
    )
    assert "OMNIDAEMON_API_HOST" in worker.line("Set OMNIDAEMON_API_KEYS=key:scope")
    worker.line("is ready")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_with_several_processes_the_supervisor_alone_serves(start: Start) -> None:
    supervisor = start(
        "worker", "shop:app", "--processes", "2", "--api-port", "0", OMNIDAEMON_API_ENABLED="1"
    )
    url = url_of(supervisor)
    supervisor.line("process", "is ready")
    health = until(url, "/health", lambda health: len(health["workers"]) == 2)
    assert supervisor.pid not in {worker["pid"] for worker in health["workers"]}
    assert result(url, "Ada")["pid"] != supervisor.pid
    supervisor.send(signal.SIGTERM)
    assert supervisor.ended() == 0
    assert supervisor.text.count("the admin API") == 1


def test_the_api_of_one_worker_pauses_an_agent_in_another(start: Start) -> None:
    first = start("worker", "shop:app", "--api-port", "0")
    url = url_of(first)
    first.line("is ready")
    second = start("worker", "shop:app")
    second.line("is ready")
    assert len(until(url, "/health", lambda h: len(h["workers"]) == 2)["workers"]) == 2
    assert httpx.post(f"{url}/agents/greet/greet/unsubscribe").status_code == 200
    time.sleep(1)  # what the promise allows workers to notice
    body = {"topic": "greet", "payload": {"name": "Ada"}}
    task_id = httpx.post(f"{url}/tasks", json=body).json()["task_id"]
    time.sleep(0.5)  # in which it would have run
    assert httpx.get(f"{url}/tasks/{task_id}").json()["status"] == "pending"
    assert httpx.post(f"{url}/agents/greet/greet/resume").status_code == 200
    until(url, f"/tasks/{task_id}", lambda task: task["status"] == "succeeded")
