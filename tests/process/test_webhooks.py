"""Webhooks of real workers, posted to real servers: restarts, kills, receivers that hang."""

import json
import os
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from standardwebhooks import Webhook

from omnidaemon import App, Envelope, Reject, posting
from omnidaemon.settings import Settings
from omnidaemon.webhooks import HOST_POSTS, TOPIC
from omnidaemon.worker.worker import Worker
from tests.process.conftest import SECONDS, environment
from tests.receiver import Receiver, Reply
from tests.redis.servers import RedisServer, binaries

# The real schedule and lease would take minutes.
MODULE = """
from omnidaemon import App, Backoff, Reject, webhooks
from omnidaemon.outcomes import RetryPolicy

webhooks.SCHEDULE = RetryPolicy(retries=19, backoff=Backoff(0.2, 1.0, 0.2))
webhooks.LEASE = 1.0
app = App("hooks")

@app.agent("work")
async def work(content):
    if content == "bad":
        raise Reject("bad content")
    return {"got": content}
"""
SECRETS = [f"whsec_{b64encode(os.urandom(32)).decode()}" for _ in range(2)]
ALLOWED = {
    "OMNIDAEMON_WEBHOOK_ALLOW": "127.0.0.1",
    "OMNIDAEMON_WEBHOOK_SECRET": ",".join(SECRETS),
}


@pytest.fixture
def redis_server(tmp_path, no_server):
    if not binaries():
        no_server("there is no redis-server")
    server = RedisServer(binaries()[max(binaries())], tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis", "redis and sqlite"])
def backends(request, tmp_path):
    """What the environment of workers and of commands says."""
    (tmp_path / "hooks.py").write_text(MODULE)
    if request.param == "sqlite":
        return {"EVENT_BUS_TYPE": "sqlite"}
    url = request.getfixturevalue("redis_server").url
    found = {"EVENT_BUS_TYPE": "redis_stream", "REDIS_URL": url}
    return found | ({"STORAGE_BACKEND": "sqlite"} if request.param.endswith("sqlite") else {})


@pytest.fixture
def worker(start, backends):
    def worker():
        process = start("worker", "hooks:app", **backends, **ALLOWED)
        process.line("is ready")
        return process

    return worker


@pytest.fixture
def publish(run, backends):
    def publish(url, content="x"):
        options = ("--content", content, "--webhook", url)
        ended = run("task", "publish", "--topic", "work", *options, **backends)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    return publish


def test_a_delivery_goes_on_in_the_next_worker(worker, publish):
    with Receiver(lambda n: Reply(503) if n <= 3 else Reply()) as receiver:
        task = publish(f"{receiver.url}/s3cret?s3cret=1")
        first = worker()
        receiver.wait(1)
        first.send(signal.SIGTERM)
        assert first.ended() == 0
        second = worker()
        requests = receiver.wait(4)
        assert len({request.headers["webhook-id"] for request in requests}) == 1
        assert {request.path for request in requests} == {"/s3cret?s3cret=1"}
        for request in requests:
            for secret in SECRETS:
                assert Webhook(secret).verify(request.body, request.headers)["task_id"] == task
        body = json.loads(requests[0].body)
        assert (body["status"], body["result"]) == ("success", {"got": "x"})
        second.send(signal.SIGTERM)
        assert second.ended() == 0
        assert len(receiver.requests) == 4
    for process in (first, second):
        assert "s3cret" not in process.text
        assert not [s for s in SECRETS if s.removeprefix("whsec_") in process.text]
    assert "answered 503" in first.text


def test_a_worker_killed_between_post_and_settlement_posts_the_same_id_again(worker, publish):
    workers = []

    def answer(n):
        if n == 1:
            workers[0].send(signal.SIGKILL)
        return Reply()

    with Receiver(answer) as receiver:
        workers.append(worker())
        publish(receiver.url)
        receiver.wait(1)
        assert workers[0].ended() == -signal.SIGKILL
        worker()
        first, second = receiver.wait(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body


def test_a_dead_delivery_is_shown_and_replayed(worker, publish, run, backends):
    gone = [True]
    with Receiver(lambda _: Reply(410 if gone else 200)) as receiver:
        process = worker()
        publish(f"{receiver.url}/s3cret", "bad")
        process.line("'deliver'", "a dead letter")
        shown = run("bus", "dlq", "--topic", TOPIC, "--json", **backends)
        [letter] = json.loads(shown.stdout)
        assert letter["cause"]["type"] == "Undeliverable"
        assert f"http://127.0.0.1:{receiver.port} answered 410" in letter["cause"]["message"]
        assert "s3cret" not in json.dumps(letter["cause"])
        gone.clear()
        replayed = run("bus", "replay", "--topic", TOPIC, **backends)
        assert replayed.returncode == 0, replayed.stderr
        first, second = receiver.wait(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        body = json.loads(second.body)
        assert (body["status"], body["error"]) == ("error", "Reject: bad content")


def test_without_permission_nothing_is_sent_to_this_machine(start, publish, run, backends):
    with Receiver() as receiver:
        process = start("worker", "hooks:app", **backends)
        process.line("is ready")
        publish(receiver.url)
        line = process.line("'deliver'", "a dead letter")
        assert "is at 127.0.0.1, which is no public address" in line
        assert "OMNIDAEMON_WEBHOOK_ALLOW" in line
        assert not receiver.requests
        listed = run("bus", "list", "--json", **backends)
        assert {t["name"]: t["dead"] for t in json.loads(listed.stdout)} == {TOPIC: 1, "work": 0}


def test_the_example_receives_what_its_agent_makes(start, run, tmp_path):
    root = str(Path(__file__).parents[2])
    here = {"PYTHONPATH": root, "EVENT_BUS_TYPE": "sqlite", **ALLOWED}
    one = ALLOWED | {"OMNIDAEMON_WEBHOOK_SECRET": SECRETS[1]}
    receiver = subprocess.Popen(
        [sys.executable, "-m", "examples.webhook", "0"],
        cwd=root,
        env=environment(**one, PYTHONPATH=root),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert receiver.stdout is not None
        url = receiver.stdout.readline().split()[-1]
        start("worker", "examples.webhook:app", **here).line("is ready")
        options = ("--payload", '{"seconds": 0}', "--webhook", url)
        ended = run("task", "publish", "--topic", "report.wanted", *options, **here)
        assert ended.returncode == 0, ended.stderr
        body = json.loads(receiver.stdout.readline())
        assert (body["task_id"], body["result"]) == (ended.stdout.strip(), {"pages": 12})
    finally:
        receiver.kill()
        receiver.communicate()


# In this process, on both event loops


@asynccontextmanager
async def working(app, grace=0.1):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app)
        group = await stack.enter_async_context(anyio.create_task_group())
        worker = Worker(app, grace=grace)
        group.start_soon(worker.run)
        await worker.ready.wait()
        yield worker
        worker.stop()


async def received(receiver, count):
    return await anyio.to_thread.run_sync(receiver.wait, count)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("bus", "store"), [("memory", "memory"), ("sqlite", "sqlite"), ("memory", "sqlite")]
)
async def test_each_outcome_is_posted_once_on_every_backend(bus, store, tmp_path):
    urls = {"memory": f"memory://{tmp_path}", "sqlite": f"sqlite:{tmp_path}/hooks.db"}
    settings = Settings(webhook_allow=("127.0.0.0/8",))
    app = App("hooks", transport=urls[bus], store=urls[store], settings=settings)

    @app.agent("work", consumers=5)
    async def work(n: int):
        if n % 2:
            raise Reject("odd")
        return n

    with Receiver() as receiver:
        async with working(app, grace=5):
            await app.send_many([Envelope("work", n, webhook=receiver.url) for n in range(40)])
            requests = await received(receiver, 40)
    bodies = [json.loads(request.body) for request in requests]
    assert sorted(body["result"] for body in bodies if body["status"] == "success") == [
        *range(0, 40, 2)
    ]
    assert len([body for body in bodies if body["error"] == "Reject: odd"]) == 20
    assert len(receiver.requests) == len({r.headers["webhook-id"] for r in requests}) == 40


@pytest.mark.anyio
async def test_ten_receivers_that_hang_delay_neither_agents_nor_other_receivers(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(posting, "TOTAL_SECONDS", 600.0)  # they do, for as long as this lasts
    settings = Settings(webhook_allow=("127.0.0.0/8",))
    app = App("hooks", transport=f"sqlite:{tmp_path}/hooks.db", settings=settings)

    @app.agent("work", consumers=10)
    async def work(n: int):
        return n

    with ExitStack() as stack:
        hanging = [stack.enter_context(Receiver(lambda _: Reply(hang=True))) for _ in range(10)]
        good = stack.enter_context(Receiver())
        async with working(app):
            await app.send_many(
                [Envelope("work", n, webhook=r.url) for n in range(30) for r in hanging]
            )
            for receiver in hanging:
                await received(receiver, HOST_POSTS)
            with anyio.fail_after(SECONDS):
                for n in range(20):
                    assert await app.request("work", n, timeout=SECONDS, webhook=good.url) == n
                await received(good, 20)
        assert {len(receiver.requests) for receiver in hanging} == {HOST_POSTS}
        assert threading.active_count() < 200
