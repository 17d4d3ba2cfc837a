"""Webhooks from end to end, on a clock that jumps: each outcome is posted, again if need be."""

import itertools
import logging
import os
import re
import secrets
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import anyio
import msgspec
import pytest
from standardwebhooks import Webhook
from trio.testing import MockClock

from omnidaemon import App, Backoff, Context, Envelope, PayloadError, Reject, Retry, webhooks
from omnidaemon.errors import InvalidSettings
from omnidaemon.fleet import Fleet
from omnidaemon.messages import Delivery, Message
from omnidaemon.posting import Answer, Post, Undelivered
from omnidaemon.records import Metrics
from omnidaemon.settings import Settings
from omnidaemon.testing import VirtualClockLoop, serve
from omnidaemon.webhooks import AGENT, HOST_POSTS, HOST_WAITS, SCHEDULE, TOPIC
from omnidaemon.worker import worker

pytestmark = pytest.mark.anyio

URL = "https://hooks.example/done?s3cret=1"
DAY = 86_400.0


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"loop_factory": VirtualClockLoop}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    name, options = request.param
    return name, options or {"clock": MockClock(autojump_threshold=0)}


def made(**settings) -> App:
    return App("test", transport="memory", settings=Settings(**settings))


@pytest.fixture
def app():
    return made()


class Receiver:
    """Answers by a function of the number of the post, from 1, and keeps when each came."""

    def __init__(self, answer: Callable[[int], int | Answer] = lambda _: 200) -> None:
        self.posts: list[Post] = []
        self.times: list[float] = []
        self._answer = answer

    async def __call__(self, post: Post) -> Answer:
        self.posts.append(post)
        self.times.append(anyio.current_time())
        answer = self._answer(len(self.posts))
        return Answer(answer) if isinstance(answer, int) else answer

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    @property
    def ids(self) -> set[str]:
        return {post.headers["webhook-id"] for post in self.posts}


def bodies(posts: list[Post]) -> list[dict]:
    return [msgspec.json.decode(post.body) for post in posts]


async def test_a_success_is_posted_once_with_all_that_the_receiver_needs(app):
    @app.agent("order.placed")
    async def charge(order: dict):
        return {"charged": order["total"]}

    async with serve(app) as served:
        task = await app.send("order.placed", {"total": 5}, webhook=URL, correlation_id="c1")
        await served.settled()
        [post] = served.posts
        [body] = bodies(served.posts)
        run = (await task.results())["charge"]
    assert list(body) == [
        "task_id",
        "status",
        "result",
        "data",
        "error",
        "topic",
        "agent",
        "correlation_id",
        "timestamp",
    ]
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "task_id": task.id,
        "status": "success",
        "result": {"charged": 5},
        "data": {"charged": 5},
        "error": None,
        "topic": "order.placed",
        "agent": "charge",
        "correlation_id": "c1",
    }
    assert (post.target.host, post.target.path) == ("hooks.example", "/done?s3cret=1")
    assert post.headers["Content-Type"] == "application/json"
    assert "webhook-signature" not in post.headers
    assert run.status == "succeeded"


async def test_a_failure_is_posted_when_it_is_final_and_not_before(app):
    runs = []

    @app.agent("fail", retries=2, backoff=Backoff(initial=100, jitter=0))
    async def fail(content):
        runs.append(anyio.current_time())
        raise ValueError("broken")

    @app.agent("reject", dead_letter=False)
    async def reject(content):
        raise Reject("not mine")

    async with serve(app) as served:
        await app.send("fail", 1, webhook=URL)
        await anyio.sleep(150)
        assert not served.posts
        await served.settled(timeout=1000)
        await app.send("reject", 1, webhook=URL)
        await served.settled()
        first, second = bodies(served.posts)
    assert len(runs) == 3
    assert (first["status"], first["error"]) == ("error", "ValueError: broken")
    assert first["result"] is first["data"] is None
    assert (second["status"], second["error"]) == ("error", "Reject: not mine")


async def test_each_agent_of_a_topic_posts_its_own_outcome(app):
    @app.agent("a")
    async def one(content):
        return 1

    @app.agent("a")
    async def two(content):
        raise Reject("no")

    async with serve(app) as served:
        await app.send("a", webhook=URL)
        await served.settled()
        found = {(body["agent"], body["status"]) for body in bodies(served.posts)}
        assert found == {("one", "success"), ("two", "error")}
        assert len({post.headers["webhook-id"] for post in served.posts}) == 2


async def test_neither_replies_nor_what_an_agent_sends_inherit_the_webhook(app):
    seen = []

    @app.agent("a")
    async def first(content, ctx: Context):
        await ctx.send("b", "sent")
        return "replied"

    @app.agent("b")
    async def second(content, event: Envelope):
        seen.append((content, event.webhook))

    async with serve(app) as served:
        await app.send("a", webhook=URL, reply_to="b")
        await served.settled()
        assert sorted(seen) == [("replied", None), ("sent", None)]
        assert [body["agent"] for body in bodies(served.posts)] == ["first"]


async def test_an_agent_may_name_a_webhook_for_what_it_sends(app):
    @app.agent("a")
    async def first(content, ctx: Context):
        await ctx.send("b", 1, webhook=URL)

    @app.agent("b")
    async def second(content):
        return 2

    async with serve(app) as served:
        await app.send("a")
        await served.settled()
        assert [body["agent"] for body in bodies(served.posts)] == ["second"]


async def test_a_result_is_posted_as_json_whatever_the_wire():
    app = made(wire="msgpack")

    @app.agent("a")
    async def agent(content):
        return {"text": "ü", "big": 2**63, "none": None}

    async with serve(app) as served:
        await app.send("a", {"x": b"bytes"}, webhook=URL)
        await served.settled()
        [body] = bodies(served.posts)
    assert body["result"] == {"text": "ü", "big": 2**63, "none": None}


async def test_a_receiver_that_fails_five_times_gets_one_successful_delivery(app):
    receiver = Receiver(lambda n: 503 if n <= 5 else 200)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        await app.send("a", 1, webhook=URL)
        await anyio.sleep(3600)
        await served.settled()
        assert not await app.transport.dead_letters(TOPIC)
        counted = (await Metrics(app.store).totals())[TOPIC][AGENT]
    assert len(receiver.posts) == 6
    assert len(receiver.ids) == 1
    assert len({post.body for post in receiver.posts}) == 1
    for gap, wait in zip(receiver.gaps, (5, 15, 45, 135, 405), strict=True):
        assert 0.8 * wait <= gap <= wait + 1
    assert (counted.processed, counted.failed, counted.dead) == (1, 5, 0)


def test_deliveries_are_tried_for_almost_three_days():
    waits = [SCHEDULE.backoff.delay(n, 0.5) for n in range(1, SCHEDULE.retries + 1)]
    assert sum(waits[:4]) < 240
    assert sum(waits[:7]) < 3 * 3600
    assert max(waits) <= 6 * 3600
    assert 2.5 * DAY < sum(waits) < 3 * DAY


async def test_who_never_takes_it_is_given_up_and_gets_it_by_a_replay(app, caplog, monkeypatch):
    monkeypatch.setattr(webhooks, "SCHEDULE", msgspec.structs.replace(SCHEDULE, retries=3))
    working = []
    receiver = Receiver(lambda _: 200 if working else 500)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        task = await app.send("a", 1, webhook=URL)
        await served.settled(timeout=100)
        assert len(receiver.posts) == 4
        [letter] = await Fleet(app).dead_letters(TOPIC)
        assert letter.cause.type == "Undelivered"
        assert letter.cause.message == (
            f"https://hooks.example answered 500 (task {task.id}, agent 'agent' on 'a')"
        )
        working.append(True)
        assert await Fleet(app).replay(TOPIC) == 1
        await served.settled()
        assert len(receiver.ids) == 1
        assert bodies(receiver.posts)[-1]["task_id"] == task.id
        assert not await app.transport.dead_letters(TOPIC)
    assert "s3cret" not in caplog.text
    assert "s3cret" not in str(letter.cause)


@pytest.mark.parametrize("status", [300, 301, 307, 400, 401, 404, 410, 422])
async def test_an_answer_that_will_not_change_is_a_dead_letter_at_once(app, status):
    receiver = Receiver(lambda _: status)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        await app.send("a", 1, webhook=URL)
        await served.settled()
        [letter] = await Fleet(app).dead_letters(TOPIC)
    assert len(receiver.posts) == 1
    assert letter.cause.type == "Undeliverable"
    assert f"answered {status}" in letter.cause.message
    assert ("redirects are not followed" in letter.cause.message) == (status < 400)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_an_answer_that_may_change_is_asked_for_again(app, status):
    receiver = Receiver(lambda n: status if n == 1 else 204)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        await app.send("a", 1, webhook=URL)
        await served.settled()
    assert len(receiver.posts) == 2


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("1000", 1000, 1001), ("1", 4, 6), ("999999999", DAY, DAY + 1), ("soon", 4, 6)],
)
async def test_retry_after_is_when_the_next_try_is_made_at_the_earliest(app, text, least, most):
    receiver = Receiver(lambda n: Answer(429, text) if n == 1 else 200)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        await app.send("a", 1, webhook=URL)
        await anyio.sleep(least + 10)
        await served.settled()
    [gap] = receiver.gaps
    assert least <= gap <= most


async def test_posts_are_signed_with_every_secret_and_anew_on_every_try():
    old, new = ("whsec_" + b64encode(os.urandom(32)).decode() for _ in range(2))
    app = made(webhook_secrets=(new, old))
    receiver = Receiver(lambda n: 500 if n == 1 else 200)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        task = await app.send("a", "ü", webhook=URL)
        await served.settled()
    assert len(receiver.posts) == 2
    for post in receiver.posts:
        for secret in (old, new):
            assert Webhook(secret).verify(post.body, post.headers)["task_id"] == task.id


async def test_the_timestamp_is_that_of_the_try(app, monkeypatch):
    now = SimpleNamespace(time=lambda: 1e9 + anyio.current_time())
    monkeypatch.setattr(webhooks, "time", now)
    receiver = Receiver(lambda n: Answer(503, "1000") if n == 1 else Answer(200))

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app, post=receiver) as served:
        await app.send("a", 1, webhook=URL)
        await anyio.sleep(1010)
        await served.settled()
    first, second = (int(post.headers["webhook-timestamp"]) for post in receiver.posts)
    assert first - 1e9 == pytest.approx(receiver.times[0], abs=2)
    assert second - first == pytest.approx(1000, abs=2)


def test_an_outcome_has_the_same_id_whoever_hands_it_over():
    def message(task="t", topic="a", agent="x", replays=0, attempt=1, moment=1.0):
        delivery = Delivery(topic, agent, task, "1", b"", 0, attempt, 0, replays)
        envelope = Envelope(topic, id=task)
        done = {"result": b"1", "cause": None, "finished_at": moment}
        return webhooks.hand_over(URL, envelope, delivery, **done).id

    assert message() == message(attempt=3, moment=2.0)
    others = [message(task="u"), message(topic="b"), message(agent="y"), message(replays=1)]
    assert len({message(), *others}) == 5
    assert all(re.fullmatch(r"msg_[0-9a-f]{32}", other) for other in others)


async def test_a_secret_that_is_none_stops_the_worker_before_it_takes_work():
    app = made(webhook_secrets=("S3CRET",))

    @app.agent("a")
    async def agent(content):
        return content

    with pytest.RaisesGroup(
        pytest.RaisesExc(InvalidSettings, match="WEBHOOK_SECRET"), flatten_subgroups=True
    ):
        async with serve(app):
            pytest.fail("it started")


async def test_a_replayed_task_posts_its_new_outcome_as_another_one(app):
    broken = [True]

    @app.agent("a")
    async def agent(content):
        if broken:
            raise Reject("not yet")
        return "done"

    async with serve(app) as served:
        await app.send("a", webhook=URL)
        await served.settled()
        broken.clear()
        await app.transport.replay("a")
        await served.settled()
        assert [body["status"] for body in bodies(served.posts)] == ["error", "success"]
        assert len({post.headers["webhook-id"] for post in served.posts}) == 2


async def test_a_task_whose_last_word_is_not_its_own_is_posted_too(app):
    """Refused before it ran: the end of a chain of replies."""

    @app.agent("a")
    async def agent(content):
        raise AssertionError

    async with serve(app) as served:
        await app.publish(Envelope("a", 1, hops=101, webhook=URL))
        await served.settled()
        [body] = bodies(served.posts)
        assert (body["status"], body["error"].partition(":")[0]) == ("error", "TooManyHops")


async def test_outcomes_wait_for_a_worker_that_posts():
    apps = [made(webhooks=False), made()]
    for app in apps:

        @app.agent("a")
        async def agent(content):
            return content

    place = f"memory://{secrets.token_hex(4)}"
    async with serve(apps[0], url=place) as served:
        task = await apps[0].send("a", 1, webhook=URL)
        await task.result(timeout=5)
        await served.settled()
        assert not served.posts
        assert not await apps[0].transport.groups(TOPIC)
    async with serve(apps[1], url=place) as served:
        await served.settled()
        assert len(served.posts) == 1


async def test_deliveries_are_no_tasks_and_no_agents_of_the_app():
    seen = []

    async def middleware(ctx, call_next):
        seen.append(ctx.topic)
        return await call_next(ctx)

    app = App("test", transport="memory", settings=Settings(), middleware=[middleware])

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app) as served:
        fleet = Fleet(app)
        assert [topic.name for topic in await fleet.topics()] == ["a"]
        assert list(await fleet.metrics()) == ["a"]
        await app.send("a", 1, webhook=URL)
        await served.settled()
        assert seen == ["a"]
        assert [run.topic for run in await app.tasks.newest()] == ["a"]
        assert [agent.name for agent in await fleet.agents()] == ["agent"]
        assert (await fleet.health()).agents == ["a/agent"]
        assert [topic.name for topic in await fleet.topics()] == ["a", TOPIC]
        assert (await fleet.metrics())[TOPIC][AGENT]["tasks_processed"] == 1


# Who hangs


class Hosts:
    """Answers by host; most of them hang until they are given up, one takes its time."""

    def __init__(self, **seconds: float) -> None:
        self.done: defaultdict[str, list[float]] = defaultdict(list)
        self.most: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self._seconds = seconds
        self._now: Counter[str] = Counter()

    async def __call__(self, post: Post) -> Answer:
        host = post.target.host
        self.tries[post.headers["webhook-id"]] += 1
        self._now[host] += 1
        self.most[host] = max(self.most[host], self._now[host])
        try:
            seconds = self._seconds.get(host, 20.0)
            await anyio.sleep(seconds)
            if seconds == 20.0:
                raise Undelivered(f"https://{host} did not answer")
        finally:
            self._now[host] -= 1
        self.done[host].append(anyio.current_time())
        return Answer(200)


async def test_ten_receivers_that_hang_delay_no_other_task(app):
    hosts = Hosts(good=0.0)

    @app.agent("a", consumers=10)
    async def agent(content):
        return content

    async with serve(app, post=hosts):
        for n in range(10):
            await app.send_many(
                [Envelope("a", i, webhook=f"https://hangs{n}/") for i in range(100)]
            )
        await anyio.sleep(5)
        started = anyio.current_time()
        for n in range(20):
            assert await app.request("a", n, webhook="https://good/", timeout=1) == n
        await anyio.sleep(2)
        assert len(hosts.done["good"]) == 20
        assert max(hosts.done["good"]) - started < 2
        assert max(hosts.most.values()) == HOST_POSTS
        leased = []
        for _ in range(20):  # one that comes due is held for a moment, until it is put off again
            [group] = await app.transport.groups(TOPIC)
            leased.append(group.leased)
            await anyio.sleep(0.01)
        assert min(leased) == 10 * (HOST_POSTS + HOST_WAITS)
        assert group.dead == 0


async def test_many_outcomes_for_one_slow_receiver_are_each_posted_once(app):
    hosts = Hosts(slow=0.5)

    @app.agent("a", consumers=10)
    async def agent(content):
        return content

    async with serve(app, post=hosts) as served:
        started = anyio.current_time()
        await app.send_many([Envelope("a", n, webhook="https://slow/") for n in range(500)])
        await served.settled(timeout=600)
        took = anyio.current_time() - started
        counted = (await Metrics(app.store).totals())[TOPIC][AGENT]
    assert set(hosts.tries.values()) == {1}
    assert len(hosts.tries) == 500
    assert hosts.most["slow"] == HOST_POSTS
    assert took < 2 * 500 * 0.5 / HOST_POSTS  # it is kept busy, although most are put off
    assert (counted.processed, counted.failed) == (500, 0)


async def test_a_host_that_nothing_is_posted_to_any_more_is_forgotten(app, monkeypatch):
    made = []
    agent = webhooks.webhook_agent
    monkeypatch.setattr(
        worker, "webhook_agent", lambda *given: made.append(agent(*given)) or made[-1]
    )

    @app.agent("a", consumers=10)
    async def echo(content):
        return content

    async with serve(app, post=Hosts()) as served:
        for host in ("one", "two"):
            await app.send_many([Envelope("a", n, webhook=f"https://{host}{n}/") for n in range(9)])
        await anyio.sleep(1)
        lines = made[0].binding.func.__self__._lines
        assert len(lines) == 18
        await anyio.sleep(20)  # all have failed, and none is tried again yet
        assert not lines
        assert served.posts


async def test_putting_an_event_off_charges_no_attempt(app):
    runs = []

    @app.agent("a", retries=0)
    async def agent(content, ctx: Context):
        runs.append(ctx.attempt)
        if len(runs) < 5:
            raise Retry("not its turn", delay=10, charged=False)
        return "at last"

    async with serve(app):
        started = anyio.current_time()
        assert await app.request("a", 1, timeout=100) == "at last"
        assert anyio.current_time() - started >= 40
        totals = (await Metrics(app.store).totals())["a"]["agent"]
        assert (totals.processed, totals.failed) == (1, 0)
    assert runs == [1] * 5


# What is refused


@pytest.mark.parametrize(
    "url", ["", "ftp://x.example", "https://u:s3cret@x.example", 5, "http://0x7f.1"]
)
async def test_a_webhook_that_is_no_url_is_refused_before_anything_is_stored(app, url):
    for publish in (
        lambda: app.send("a", webhook=url),
        lambda: app.request("a", timeout=1, webhook=url),
        lambda: app.publish(Envelope("a", webhook=url)),
        lambda: app.send_many([Envelope("a"), Envelope("a", webhook=url)]),
    ):
        with pytest.raises(PayloadError, match="webhook") as caught:
            await publish()
        assert "s3cret" not in str(caught.value)
    assert not await app.transport.topics()


async def test_what_is_no_outcome_is_a_dead_letter(app, caplog):
    caplog.set_level(logging.ERROR)

    @app.agent("a")
    async def agent(content):
        return content

    async with serve(app) as served:
        for n, body in enumerate(
            (b"{}", b'{"topic":"omni.webhooks","id":"b","content":{"url":5}}')
        ):
            await app.transport.publish(Message(TOPIC, f"e{n}", body))
        # By another publisher than an App, which checks.
        bad = b'{"topic":"a","id":"c","content":1,"webhook":"https://u:s3cret@x.example"}'
        await app.transport.publish(Message("a", "c", bad))
        await served.settled()
        letters = await Fleet(app).dead_letters(TOPIC)
        assert not served.posts
        assert await app.tasks.result("c", "a", timeout=1)
    causes = [letter.cause.message for letter in reversed(letters)]
    assert "not an envelope" in causes[0]
    assert "no outcome of a task" in causes[1]
    assert "credentials" in causes[2]
    assert "s3cret" not in caplog.text
