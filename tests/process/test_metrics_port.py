"""A worker's own port for Prometheus; the dashboard and the rules against what is served."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from omnidaemon import App
from tests.process.test_worker_process import publish
from tests.started import SECONDS

ROOT = Path(__file__).parents[2]
SHOP = """
from omnidaemon import App, Backoff, Reject

app = App("shop")

@app.agent("orders", name="charge", retries=1, backoff=Backoff(0))
async def charge(order: dict):
    if order["fails"]:
        raise ValueError("no such card")
    return order
"""
URL = r"served at (http://127\.0\.0\.1:(\d+)/metrics)"


@pytest.fixture(autouse=True)
def shop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    (tmp_path / ".omnidaemon_data").mkdir()


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("test", transport=f"sqlite:{tmp_path}/.omnidaemon_data/omnidaemon.db")


def served(line: str) -> tuple[str, int]:
    found = re.search(URL, line)
    assert found, line
    return found[1], int(found[2])


def scraped(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def samples(text: str) -> dict[str, float]:
    """By the name and its labels, as they stand in the text."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_worker_serves_what_its_process_has_done(start: Any, app: App) -> None:
    worker = start("worker", "shop:app", "--metrics-port", "0")
    url, _ = served(worker.line("metrics are served"))
    worker.line("is ready")
    publish(app, "orders", {"fails": False}, {"fails": False}, {"fails": True})
    worker.line("a dead letter")
    who = '{agent="charge",topic="orders"}'
    wanted = {
        f"omnidaemon_worker_tasks_received_total{who}": 4.0,
        f"omnidaemon_worker_tasks_processed_total{who}": 2.0,
        f"omnidaemon_worker_tasks_failed_total{who}": 2.0,
        f"omnidaemon_worker_tasks_retried_total{who}": 1.0,
        f"omnidaemon_worker_tasks_dead_total{who}": 1.0,
        f"omnidaemon_worker_task_duration_seconds_count{who}": 4.0,
        f"omnidaemon_worker_tasks_in_flight{who}": 0.0,
        f"omnidaemon_worker_lease_losses_total{who}": 0.0,
        'omnidaemon_worker_state{state="running"}': 1.0,
        'omnidaemon_worker_state{state="draining"}': 0.0,
    }
    found: dict[str, float] = {}
    while found.get(next(iter(wanted))) != 4.0:  # what is logged is settled a moment later
        found = samples(scraped(url))
    assert {name: found.get(name) for name in wanted} == wanted
    assert "process_resident_memory_bytes" in found
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_further_processes_take_the_ports_after_it(start: Any) -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        two.bind(("127.0.0.1", port + 1))
    supervisor = start("worker", "shop:app", "--processes", "2", OMNIDAEMON_METRICS_PORT=str(port))
    ports = {served(supervisor.line("metrics are served"))[1] for _ in range(2)}
    assert ports == {port, port + 1}
    supervisor.send(signal.SIGTERM)
    assert supervisor.ended() == 0


def test_a_port_that_is_taken_ends_who_insists_on_it_and_no_other(start: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        insisting = start("worker", "shop:app", "--metrics-port", port)
        assert insisting.ended() == 1
        [line] = [line for line in insisting.lines if line.startswith("omnidaemon: error: ")]
        assert f"port {port} of 127.0.0.1 cannot be listened on" in line
        assert "Traceback" not in insisting.text
        configured = start("worker", "shop:app", OMNIDAEMON_METRICS_PORT=port)
        configured.line("cannot be listened on")
        configured.line("is ready")
        configured.send(signal.SIGTERM)
        assert configured.ended() == 0


# deploy/grafana

WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def metric_names(query: str) -> set[str]:
    """The names of metrics in a PromQL expression: what is neither function, label nor text."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"\$\w+", "", bare)
    return {
        word[0]
        for word in WORDS.finditer(bare)
        if not bare[word.end() :].lstrip().startswith("(")
        and word[0] not in {"and", "or", "unless", "bool", "offset", "e", "inf"}
    }


def queries() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana/omnidaemon.json").read_text())
    panels = [p for panel in dashboard["panels"] for p in (panel, *panel.get("panels", ()))]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            [name] = re.findall(r"label_values\((\w+)", variable["query"])
            found.append(name)
    rules = yaml.safe_load((ROOT / "deploy/grafana/alerts.yml").read_text())
    found += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return found


def test_the_names_are_found_in_an_expression() -> None:
    query = 'sum by (topic) (rate(a_total{topic=~"$topic", x="no_name"}[$__rate_interval])) / b > 5'
    assert metric_names(query) == {"a_total", "b"}


def test_every_metric_of_the_dashboard_and_of_the_alerts_exists(start: Any, app: App) -> None:
    worker = start("worker", "shop:app", "--metrics-port", "0", "--api-port", "0")
    api = re.search(r"http://127\.0\.0\.1:\d+", worker.line("the admin API is served"))
    assert api
    url, _ = served(worker.line("metrics are served"))
    publish(app, "orders", {"fails": True})
    worker.line("a dead letter")
    text = scraped(f"{api[0]}/metrics/prometheus") + scraped(url)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    known = {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    } | {"up"}  # which Prometheus itself adds to every target
    used = {name for query in queries() for name in metric_names(query)}
    assert len(used) > 15
    assert used <= known, used - known


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy/grafana/alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
        assert rule["annotations"]["summary"], rule
        assert "omnidaemon " in rule["annotations"]["description"], rule  # a command to look with
