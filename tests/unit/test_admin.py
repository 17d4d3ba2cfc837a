"""What the admin API does: one test per promise, on an app that a worker serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from omnidaemon import App, Envelope
from omnidaemon.admin import Admin
from omnidaemon.admin.answers import run_answer, task_answer
from omnidaemon.errors import ConfigurationError
from omnidaemon.fleet import Fleet
from omnidaemon.testing import Served, serve
from omnidaemon.views import run_public, task_public
from tests.unit.admin_client import KEYS, client, served_shop, shop

pytestmark = pytest.mark.anyio


async def published(http: httpx.AsyncClient, topic: str, payload: Any, **more: Any) -> str:
    answer = await http.post("/tasks", json={"topic": topic, "payload": payload, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "pending"
    assert answer.json()["topic"] == topic
    return str(answer.json()["task_id"])


async def done(served: Served, http: httpx.AsyncClient, topic: str, payload: Any) -> str:
    task_id = await published(http, topic, payload)
    await served.settled()
    return task_id


# Agents


async def test_agents_are_listed_with_their_configuration_and_state() -> None:
    async with served_shop() as (_, http):
        mail, charge = (await http.get("/agents")).json()
        assert (charge["topic"], charge["name"], charge["tools"]) == ("orders", "charge", ["bank"])
        assert charge["description"] == "Charges."
        assert charge["config"]["dlq_retry_limit"] == 0
        assert charge["status"] == "running"
        assert (await http.get("/agents/orders/charge")).json() == charge
        assert (await http.get("/agents?topic=mails")).json() == [mail]
        assert (await http.get("/agents/orders/nobody")).status_code == 404
        assert (await http.get("/agents/topic/orders")).status_code in (404, 422)


async def test_an_agent_told_to_pause_gets_nothing_until_it_is_resumed() -> None:
    async with served_shop() as (served, http):
        answer = await http.post("/agents/orders/charge/unsubscribe")
        assert answer.status_code == 200
        assert answer.json()["status"] == "unsubscribed"
        assert {"topic", "agent", "message"} < answer.json().keys()
        task_id = await published(http, "orders", 1)
        with anyio.move_on_after(0.2):
            await served.settled()
        assert (await http.get(f"/tasks/{task_id}")).json()["status"] == "pending"
        assert (await http.get("/agents/orders/charge")).json()["paused"] is True
        assert (await http.post("/agents/orders/charge/resume")).json()["status"] == "resumed"
        await served.settled()
        assert (await http.get(f"/tasks/{task_id}")).json()["result"] == {"charged": 1}
        assert (await http.post("/agents/orders/nobody/resume")).status_code == 404


async def test_a_deleted_agent_says_what_went_with_it() -> None:
    async with served_shop() as (served, http):
        await done(served, http, "orders", "bad")
        answer = (await http.delete("/agents/orders/charge?delete_dlq=true")).json()
        assert answer == {
            "status": "deleted",
            "topic": "orders",
            "agent": "charge",
            "cleanup": {
                "storage_deleted": True,
                "consumer_group_deleted": True,
                "dlq_deleted": True,
            },
        }
        kept = (await http.delete("/agents/mails/mail?delete_group=false")).json()["cleanup"]
        assert kept["consumer_group_deleted"] is False
        assert (await http.delete("/agents/orders/charge")).status_code == 404
        assert (await http.delete("/agents/orders/x?delete_dlq=maybe")).status_code == 422


async def test_a_topic_is_deleted_with_its_agents() -> None:
    async with served_shop() as (served, http):
        await done(served, http, "orders", 1)
        answer = await http.delete("/agents/topic/orders")
        assert answer.status_code == 200
        assert [one["agent"] for one in answer.json()["agents"]] == ["charge"]
        assert [agent["topic"] for agent in (await http.get("/agents")).json()] == ["mails"]
        assert (await http.delete("/agents/topic/orders")).status_code == 404


# Tasks


async def test_a_task_is_published_looked_up_listed_and_deleted() -> None:
    async with served_shop() as (served, http):
        task_id = await done(served, http, "orders", {"content": 5, "reply_to": "mails"})
        task = (await http.get(f"/tasks/{task_id}")).json()
        assert (task["task_id"], task["status"], task["result"]) == (
            task_id,
            "succeeded",
            {"charged": 5},
        )
        assert task["timestamp"].endswith("Z")
        assert task["agents"]["charge"]["attempts"] == 1
        newest = (await http.get("/tasks")).json()
        assert [run["topic"] for run in newest] == ["mails", "orders"]  # the reply came last
        assert newest[0]["result"] == {"charged": 5}
        (run,) = (await http.get("/tasks?topic=orders&limit=100")).json()
        assert run["task_id"] == task_id
        assert len((await http.get("/tasks?topic=&limit=1")).json()) == 1
        assert (await http.delete(f"/tasks/{task_id}")).json()["records"] == 1
        assert (await http.delete(f"/tasks/{task_id}")).status_code == 404
        assert (await http.get("/tasks?topic=orders")).json() == []


async def test_all_of_an_envelope_travels() -> None:
    app = shop()
    async with client(Admin(app, auth="none")) as http:
        body = {
            "topic": " orders ",
            "payload": {
                "content": [1],
                "webhook": "https://example.com/done",
                "reply_to": "mails",
                "correlation_id": "c",
            },
            "id": "order-17",
            "created_at": 5.5,
            "tenant_id": "t",
            "causation_id": "cause",
            "source": "test",
            "delivery_attempts": 1,
        }
        answer = await http.post("/publish-tasks", json=body)
        assert answer.json() == {"task_id": "order-17", "topic": "orders", "status": "pending"}
        (event,) = (await http.get("/bus/inspect/orders")).json()
        assert event["event"] == {
            "topic": "orders",
            "content": [1],
            "id": "order-17",
            "created_at": 5.5,
            "tenant_id": "t",
            "correlation_id": "c",
            "causation_id": "cause",
            "source": "test",
            "reply_to": "mails",
            "webhook": "https://example.com/done",
        }
        twice = {**body, "correlation_id": "other"}
        assert (await http.post("/tasks", json=twice)).status_code == 422


@pytest.mark.parametrize(
    "payload",
    [{"content": 1, "more": 2}, {"other": 1}, [1], "text", None, {}, {"webhook": "http://x"}],
)
async def test_a_payload_of_any_other_shape_is_the_content(payload: Any) -> None:
    async with served_shop() as (served, http):
        task_id = await done(served, http, "orders", payload)
        assert (await http.get(f"/tasks/{task_id}")).json()["result"] == {"charged": payload}


async def test_a_task_tells_its_earlier_runs_and_what_caused_it() -> None:
    async with served_shop() as (served, http):
        bad = await done(served, http, "orders", "bad")
        await http.post("/bus/dlq/orders/replay", json={})
        await served.settled()
        child = await published(http, "mails", 1, causation_id=bad)
        await served.settled()
        [first] = (await http.get(f"/tasks/{bad}")).json()["agents"]["charge"]["history"]
        assert (first["attempt"], first["replays"], first["status"]) == (1, 0, "dead")
        assert first["error"] == {"type": "ValueError", "message": "no money"}
        found = (await http.get(f"/tasks/{child}")).json()
        assert found["causation_id"] == found["agents"]["mail"]["causation_id"] == bad
        for one in (bad, child):
            tree = (await http.get(f"/tasks/{one}/tree")).json()
            assert (tree["tasks"], tree["complete"], tree["root"]["task_id"]) == (2, True, bad)
            assert tree["root"]["error"]["message"] == "no money"
            [kin] = tree["root"]["children"]
            assert (kin["task_id"], kin["status"], kin["agents"]) == (
                *(child, "succeeded"),
                {"mail": "succeeded"},
            )
        assert (await http.get("/tasks/none/tree")).status_code == 404


async def test_a_key_bound_to_a_tenant_gets_its_own_tasks_tree_alone() -> None:
    app = shop()
    async with serve(app) as served:
        admin = Admin(app, keys=KEYS)
        await app.publish(Envelope("orders", 1, "mine", tenant_id="a"))
        await app.publish(Envelope("orders", 1, "theirs", tenant_id="b", causation_id="mine"))
        await served.settled()
        async with client(admin, "a-key") as http:
            tree = (await http.get("/tasks/mine/tree")).json()
            assert (tree["tasks"], tree["root"]["children"]) == (1, [])
            assert (await http.get("/tasks/theirs/tree")).status_code == 403


async def test_a_dead_task_says_why() -> None:
    async with served_shop() as (served, http):
        task_id = await done(served, http, "orders", "bad")
        task = (await http.get(f"/tasks/{task_id}")).json()
        assert (task["status"], task["result"]) == ("dead", None)
        assert task["agents"]["charge"]["error"]["message"] == "no money"
        assert (await http.get("/tasks/unknown")).status_code == 404


# What httpx reads a refused body with is collected later.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"topic":"a","payload":NaN}', 400, "JSON"),
        (b'{"topic":"a","payload":"\\ud800"}', 400, "JSON"),
        (b'{"topic":"a","payload":' + b"[" * 5000 + b"]" * 5000 + b"}", (400, 422), ""),
        (b'{"topic":"a","payload":' + b"[" * 300 + b"]" * 300 + b"}", 422, "nested"),
        (b'{"topic":"a","payload":' + b"9" * 40 + b"}", (200, 422), ""),
        (b"[]", 422, "object"),
        (b'{"topic":"a"}', 422, "payload"),
        (b'{"topic":"topic","payload":1}', 422, "topic"),
        (b'{"topic":"omni.x","payload":1}', 422, "topic"),
        (b'{"topic":"a b","payload":1}', 422, "topic"),
        (b'{"topic":"a","payload":1,"nothing":2}', 422, "nothing"),
        (b'{"topic":"a","payload":{"content":1,"reply_to":5}}', 422, "reply_to"),
        (b'{"topic":"a","payload":{"content":1,"reply_to":"a b"}}', 422, "topic"),
        (b'{"topic":"a","payload":{"content":1,"webhook":"ftp://x"}}', 422, "webhook"),
        (b'{"topic":"a","payload":"' + b"x" * 1_000_001 + b'"}', 422, "OMNIDAEMON_MAX_MESSAGE"),
        (b'{"topic":"a","payload":"' + b"x" * 1_100_000 + b'"}', 413, "bytes"),
    ],
)
async def test_a_body_that_is_not_usable_says_why(
    body: bytes, status: int | tuple[int, ...], words: str
) -> None:
    app = App("x", transport="memory")
    async with client(Admin(app, auth="none")) as http:
        answer = await http.post(
            "/tasks", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (status if isinstance(status, tuple) else (status,))
        if answer.status_code != 200:
            assert words in answer.json()["detail"]
            assert await app.transport.topics() == []


@pytest.mark.parametrize(
    "path",
    [
        "/tasks?limit=0",
        "/tasks?limit=-1",
        "/tasks?limit=1001",
        "/tasks?limit=ten",
        "/tasks?limit=1&limit=2",
        "/tasks?limmit=1",
        "/tasks?topic=a%20b",
        "/metrics?limit=0",
        "/bus/inspect/orders?limit=1001",
        "/bus/dlq/orders?limit=0",
        "/bus/inspect/a%20b",
        "/agents/orders/charge%0A",
        "/config/%00",
    ],
)
async def test_a_parameter_out_of_bounds_is_refused(path: str) -> None:
    async with client(Admin(shop(), auth="none")) as http:
        answer = await http.get(path)
        assert answer.status_code == 422
        assert answer.json()["detail"]


async def test_what_is_not_there_is_a_404_or_405_in_json() -> None:
    async with client(Admin(shop(), auth="none")) as http:
        missing, wrong = await http.get("/nothing"), await http.put("/tasks", json={})
        assert (missing.status_code, wrong.status_code) == (404, 405)
        assert "/openapi.json" in missing.json()["detail"]
        assert wrong.json()["detail"]
        assert sorted(wrong.headers["allow"].split(", ")) == ["GET", "HEAD", "POST"]
        assert (await http.head("/agents")).status_code == 200


# The bus


async def test_topics_groups_and_numbers_of_the_bus_are_shown() -> None:
    async with served_shop() as (served, http):
        await done(served, http, "orders", 1)
        await done(served, http, "orders", "bad")
        streams = {one["name"]: one for one in (await http.get("/bus/streams")).json()}
        assert streams["orders"]["events"] == 2
        (group,) = (await http.get("/bus/groups/orders")).json()
        assert (group["name"], group["lag"], group["dead"]) == ("charge", 0, 1)
        stats = (await http.get("/bus/stats")).json()
        assert (stats["events"], stats["dead"]) == (2, 1)
        newest, _ = (await http.get("/bus/inspect/orders?limit=2")).json()
        assert newest["event"]["content"] == "bad"
        assert (await http.get("/bus/groups/nothing")).status_code == 404
        assert (await http.get("/bus/inspect/nothing")).status_code == 404


async def test_dead_letters_are_shown_replayed_and_deleted() -> None:
    async with served_shop() as (served, http):
        first, second, third = [await done(served, http, "orders", "bad") for _ in range(3)]
        letters = (await http.get("/bus/dlq/orders?limit=2")).json()
        assert [letter["task_id"] for letter in letters] == [third, second]
        assert letters[0]["cause"]["message"] == "no money"
        answer = await http.post("/bus/dlq/orders/replay", json={"ids": [first]})
        assert answer.json() == {"topic": "orders", "replayed": 1}
        await served.settled()
        assert (await http.post("/bus/dlq/orders/replay")).json()["replayed"] == 3
        await served.settled()
        assert (await http.delete(f"/bus/dlq/orders?id={first}")).json()["deleted"] == 1
        assert (await http.delete(f"/bus/dlq/orders?id={first}")).status_code == 404
        both = f"/bus/dlq/orders?id={second}&id={third}&agent=charge"
        assert (await http.delete(both)).json()["deleted"] == 2
        await done(served, http, "orders", "bad")
        assert (await http.delete("/bus/dlq/orders")).json()["deleted"] == 1
        assert (await http.get("/bus/dlq/orders")).json() == []
        assert (await http.get("/bus/dlq/nothing")).status_code == 404


async def test_a_dead_letter_is_mended_and_replayed_in_one_step() -> None:
    async with served_shop() as (served, http):
        first, second = [await done(served, http, "orders", "bad") for _ in range(2)]
        place = "/bus/dlq/orders/replay"
        refused = await http.post(place, json={"ids": [first, second], "content": 5})
        assert (refused.status_code, "name its task" in refused.json()["detail"]) == (422, True)
        assert (await http.post(place, json={"ids": ["none"], "content": 5})).status_code == 404
        answer = await http.post(place, json={"ids": [first], "content": 5})
        assert answer.json() == {"topic": "orders", "replayed": 1}
        await served.settled()
        assert (await http.get(f"/tasks/{first}")).json()["status"] == "succeeded"
        assert [one["task_id"] for one in (await http.get("/bus/dlq/orders")).json()] == [second]


# Storage and configuration


async def test_records_are_cleared_by_their_kind() -> None:
    async with served_shop() as (served, http):
        await published(http, "orders", 1, tenant_id="t")
        await served.settled()
        assert (await http.get("/storage/health")).json()["storage_healthy"] is True
        assert (await http.delete("/storage/results")).json() == {
            "status": "cleared",
            "removed": {"results": 1},
        }
        assert (await http.get("/tasks?tenant_id=t")).json() == []
        assert (await http.get("/metrics?tenant_id=t")).json() != {}
        assert (await http.delete("/storage/metrics")).json()["removed"] == {"metrics": 1}
        assert (await http.get("/metrics?tenant_id=t")).json() == {}
        assert (await http.delete("/storage/agents")).json()["removed"] == {"agents": 2}
        everything = (await http.delete("/storage/all")).json()["removed"]
        assert everything.keys() == {"agents", "results", "metrics", "config"}


async def test_configuration_is_kept_for_other_processes() -> None:
    async with client(Admin(shop(), auth="none")) as http:
        for value in ({"a": [1, None]}, None, "text"):
            assert (await http.post("/config/model", json={"value": value})).status_code == 200
            assert (await http.get("/config/model")).json() == {"key": "model", "value": value}
            assert (await http.get("/config")).json() == {"model": value}
        assert (await http.get("/config/other")).status_code == 404
        assert (await http.post("/config/model", json={})).status_code == 422
        assert (await http.post("/config/model", json={"value": 1, "x": 1})).status_code == 422


# Health and numbers


async def test_health_knows_the_workers_of_the_fleet() -> None:
    async with served_shop() as (served, http):
        answer = await http.get("/health")
        health = answer.json()
        assert (answer.status_code, health["status"]) == (200, "running")
        assert health["runner_id"] == served.worker.id
        assert health["subscribed_topics"] == ["mails", "orders"]
        assert health["registered_agents_count"] == 2
        assert (await http.get("/livez")).json() == {"status": "alive"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}
    async with client(Admin(shop(), auth="none")) as http:
        assert (await http.get("/health")).json()["status"] == "stopped"


async def test_what_agents_have_done_is_counted_for_people_and_for_prometheus() -> None:
    async with served_shop() as (served, http):
        await done(served, http, "orders", 1)
        await done(served, http, "orders", "bad")
        numbers = (await http.get("/metrics")).json()["orders"]["charge"]
        assert (numbers["tasks_processed"], numbers["tasks_failed"]) == (1, 1)
        assert numbers["tasks_received"] == 2
        assert numbers["avg_processing_time_sec"] > 0
        assert (await http.get("/metrics?topic=mails")).json().keys() == {"mails"}
        by_path = await http.get("/metrics/prometheus")
        by_accept = await http.get("/metrics", headers={"Accept": "text/plain"})
        assert by_path.text == by_accept.text
        assert by_path.headers["content-type"].startswith("text/plain; version=0.0.4")
        line = 'omnidaemon_tasks_processed_total{agent="charge",topic="orders"} 1.0'
        assert line in by_path.text.splitlines()


async def test_answers_say_what_the_command_line_says() -> None:
    async with served_shop() as (served, http):
        task_id = await done(served, http, "orders", "bad")
        task = await served.app.tasks.get(task_id)
        run = task.runs["charge"]
        shown = msgspec.json.decode(msgspec.json.encode(run_answer(run)))
        public = msgspec.json.decode(msgspec.json.encode(run_public(run)))
        assert {name: shown[name] for name in public} == public
        shown = msgspec.json.decode(msgspec.json.encode(task_answer(task)))
        public = msgspec.json.decode(msgspec.json.encode(task_public(task)))
        del shown["agents"], public["agents"]
        assert shown == public
        (agent,) = await Fleet(served.app).agents("orders")
        assert (await http.get("/agents/orders/charge")).json() == agent.public()
        assert (await http.get("/bus/stats")).json() == (await Fleet(served.app).stats()).public()
        public = msgspec.json.decode(
            msgspec.json.encode((await Fleet(served.app).health()).public())
        )
        shown = (await http.get("/health")).json()
        assert shown.keys() == public.keys()
        assert shown["workers"][0].keys() == public["workers"][0].keys()
        (letter,) = await Fleet(served.app).dead_letters("orders")
        (shown,) = (await http.get("/bus/dlq/orders")).json()
        assert shown == msgspec.json.decode(msgspec.json.encode(letter.public()))


# When a backend is away


async def test_a_broker_that_is_down_is_a_503_and_not_a_wait(tmp_path: Path) -> None:
    app = App("x", transport=f"sqlite:{tmp_path / 'no' / 'such'}", store="memory://down")
    (tmp_path / "no").write_text("a file where a folder should be")
    async with client(Admin(app, auth="none")) as http:
        with anyio.fail_after(60):
            for path in ("/tasks/x", "/agents", "/bus/stats", "/readyz", "/bus/dlq/orders"):
                answer = await http.get(path)
                assert answer.status_code == 503, path
                assert answer.json()["detail"]
            answer = await http.post("/tasks", json={"topic": "a", "payload": 1})
            assert answer.status_code == 503
            assert (await http.delete("/storage/all")).status_code == 503
            health = await http.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "degraded")
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/storage/health")).status_code == 200


# Mounting


async def test_one_line_mounts_it_in_fastapi_and_starlette() -> None:
    admin = Admin(shop(), auth="none")
    fast = FastAPI()
    fast.mount("/omni", admin)
    for outer in (fast, Starlette(routes=[Mount("/omni", admin)])):
        async with client(outer) as http:
            assert (await http.get("/omni/livez")).status_code == 200
            assert (await http.get("/omni/agents")).json() == []
            document = (await http.get("/omni/openapi.json")).json()
            assert document["servers"] == [{"url": "/omni"}]
            assert (await http.get("/omni/nothing")).status_code == 404


def test_a_mounted_api_must_be_closed_or_say_that_it_is_open() -> None:
    app = shop()
    with pytest.raises(ConfigurationError, match=r'OMNIDAEMON_API_KEYS.*auth="none"'):
        Admin(app)
    Admin(app, auth="none")
    Admin(app, keys=["k:admin"])
    with pytest.raises(ConfigurationError, match="there are API keys"):
        Admin(app, auth="none", keys=["k:admin"])
    with pytest.raises(ConfigurationError, match="auth="):
        Admin(app, auth="basic")  # type: ignore[arg-type]
