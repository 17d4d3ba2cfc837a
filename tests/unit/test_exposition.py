"""What Prometheus reads: counters that add up, labels that stay few, and both of its formats."""

import subprocess
import sys
from bisect import bisect_left

import anyio
import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from omnidaemon import App, Backoff, Context
from omnidaemon.admin import Admin
from omnidaemon.exposition import (
    OTHER,
    FleetNumbers,
    WorkerNumbers,
    fleet_families,
    registry,
    rendered,
    worker_families,
)
from omnidaemon.fleet import Fleet
from omnidaemon.messages import Ack, Delivery, GroupInfo, Release, Settlement
from omnidaemon.posting import Answer, Post
from omnidaemon.records import FAILED, PROCESSED, AgentMetrics, Metrics, metric
from omnidaemon.telemetry.signals import SECONDS
from omnidaemon.testing import VirtualClockLoop, serve
from omnidaemon.worker.tally import Tally
from tests.unit.admin_client import client, shop

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"loop_factory": VirtualClockLoop}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request):
    name, options = request.param
    return name, options or {"clock": MockClock(autojump_threshold=0)}


def samples(families) -> dict:
    """By name and labels' values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_counters_say_what_came_of_every_run():
    app = App("test", transport="memory")
    answers = iter([500, 200, 200])

    @app.agent("orders", name="charge", retries=1, backoff=Backoff(0))
    async def charge(content, ctx: Context):
        if content == "bad" or (content == "flaky" and ctx.attempt == 1):
            raise ValueError

    async def post(attempt: Post) -> Answer:
        return Answer(next(answers))

    async with serve(app, post=post) as served:
        for content in ("good", "flaky", "bad"):
            await app.send(
                "orders", content, webhook="https://x.example/" if content != "bad" else None
            )
        await served.settled(timeout=3600)
        found = samples(fleet_families(await Fleet(app).numbers()))
    of = {
        name: found[f"omnidaemon_tasks_{name}_total", "charge", "orders"]
        for name in ("received", "processed", "failed", "retried", "dead")
    }
    assert of == {"received": 5, "processed": 2, "failed": 3, "retried": 2, "dead": 1}
    assert found["omnidaemon_task_duration_seconds_count", "charge", "orders"] == 5
    assert found["omnidaemon_task_duration_seconds_bucket", "charge", "+Inf", "orders"] == 5
    assert found["omnidaemon_dead_letters", "charge", "orders"] == 1
    assert found["omnidaemon_webhook_deliveries_total", "delivered"] == 2
    assert found["omnidaemon_webhook_deliveries_total", "failed"] == 1
    assert found["omnidaemon_webhooks_given_up_total",] == 0
    assert found["omnidaemon_workers", "running"] == 1
    assert found["omnidaemon_workers", "degraded"] == 0


async def test_gauges_say_how_far_agents_are():
    app = App("test", transport="memory")
    begun, go = anyio.Event(), anyio.Event()

    @app.agent("orders", name="charge")
    async def charge(content):
        begun.set()
        await go.wait()

    async with serve(app) as served:
        await app.send_many([("orders", n) for n in range(3)])
        await begun.wait()
        await app.transport.pause("orders", "charge")
        found = samples(fleet_families(await Fleet(app).numbers()))
        who = ("charge", "orders")
        assert found["omnidaemon_tasks_in_flight", *who] == 1
        assert found["omnidaemon_tasks_lag", *who] == 2
        assert found["omnidaemon_agent_paused", *who] == 1
        assert found["omnidaemon_agent_consumers", *who] == 1
        assert 0 <= found["omnidaemon_oldest_task_age_seconds", *who] < 60
        await app.transport.resume("orders", "charge")
        go.set()
        await served.settled()


@pytest.mark.parametrize(
    ("seconds", "counted"), [(0.0, 0), (0.005, 0), (0.006, 1), (3600, 15), (3601, 16)]
)
def test_a_run_is_counted_where_it_belongs(seconds, counted):
    """The bounds are inclusive, as Prometheus has them."""
    assert bisect_left(SECONDS, seconds) == counted
    assert len(PROCESSED) == len(FAILED) == len(SECONDS) + 1


def test_buckets_are_cumulated_and_end_with_all():
    durations = (1, 2, *[0] * (len(SECONDS) - 2), 4)
    totals = {("orders", "charge"): AgentMetrics(processed=7, seconds=9.5, durations=durations)}
    found = samples(fleet_families(FleetNumbers(totals, None, None, 0.0)))
    name = "omnidaemon_task_duration_seconds"
    buckets = [value for key, value in found.items() if key[0] == f"{name}_bucket"]
    assert buckets == [1, 3, *[3] * (len(SECONDS) - 2), 7]
    assert found[f"{name}_count", "charge", "orders"] == 7
    assert found[f"{name}_sum", "charge", "orders"] == 9.5
    assert not [key for key in found if "lag" in key[0] or "workers" in key[0]]


def group(topic: str, name: str, lag: int, oldest: float | None) -> GroupInfo:
    return GroupInfo(topic, name, lag, 0, 0, 0, 1, 60.0, False, None, oldest)


def test_agents_beyond_the_bound_share_one_series():
    pairs = [("orders", f"agent-{n}") for n in range(10)]
    totals = {pair: AgentMetrics(processed=1, seconds=2.0) for pair in pairs}
    groups = [group(topic, name, 5, 100.0 - n) for n, (topic, name) in enumerate(pairs)]
    found = samples(fleet_families(FleetNumbers(totals, groups, [], 100.0), most=3))
    processed = {key[1:]: v for key, v in found.items() if "processed" in key[0]}
    own = {(f"agent-{n}", "orders"): 1 for n in range(3)}
    assert processed == {**own, (OTHER, OTHER): 7}
    assert found["omnidaemon_tasks_lag", OTHER, OTHER] == 35
    assert found["omnidaemon_oldest_task_age_seconds", OTHER, OTHER] == 9.0  # the oldest of them
    assert found["omnidaemon_task_duration_seconds_sum", OTHER, OTHER] == 14.0
    few = samples(fleet_families(FleetNumbers(totals, [], [], 100.0), most=3))
    totals = {("orders", f"agent-{n}"): AgentMetrics(processed=1) for n in range(1000)}
    many = samples(fleet_families(FleetNumbers(totals, [], [], 100.0), most=3))
    assert len(many) == len(few)


async def test_both_formats_are_served_and_read_by_their_parsers():
    app = shop()
    async with serve(app) as served:
        await app.send("orders", 1)
        await served.settled()
        async with client(Admin(app, auth="none")) as http:
            plain = await http.get("/metrics/prometheus")
            open_ = {"Accept": "application/openmetrics-text; version=1.0.0"}
            opened = await http.get("/metrics", headers=open_)
            assert (await http.get("/metrics")).headers["content-type"] == "application/json"
            few = await http.get("/metrics/prometheus?limit=1")
    assert plain.headers["content-type"].startswith("text/plain")
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert opened.text.endswith("# EOF\n")
    name = ("omnidaemon_tasks_processed_total", "charge", "orders")
    assert samples(text_string_to_metric_families(plain.text))[name] == 1
    assert samples(read_openmetrics(opened.text))[name] == 1
    assert OTHER in few.text
    assert OTHER not in plain.text


# One worker


@pytest.mark.parametrize("version", ["abc", "1..0", "1.0.0\xff"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_none_is_answered_all_the_same(kind, version):
    _, media_type = rendered(registry(list), f"{kind}; version={version}")
    assert media_type.startswith("text/plain")


def test_a_tally_counts_what_was_applied_and_what_was_lost():
    tally = Tally()
    delivery = Delivery("orders", "charge", "1", "1", b"", token=1)
    moved = (metric("orders/charge", "processed:1"), metric("orders/charge", "seconds", 0.9))
    tally.settled(Settlement(delivery, Ack(), changes=moved), "applied")
    again = msgspec.structs.replace(delivery, id="2", token=2)
    tally.settled(Settlement(again, Ack(), changes=moved), "repeated")  # its answer was lost
    tally.settled(Settlement(delivery, Ack(), changes=moved), "lost")
    tally.settled(Settlement(delivery, Release()), "lost")  # was handed back anyway
    [found] = tally.totals.values()
    assert (found.processed, found.seconds, sum(found.durations)) == (2, 1.8, 2)
    assert tally.lease_losses == {("orders", "charge"): 1}


def test_an_agent_that_has_done_nothing_yet_is_there_with_zeros():
    numbers = WorkerNumbers({}, {("orders", "charge"): 0}, {}, "degraded")
    found = samples(worker_families(numbers))
    assert found["omnidaemon_worker_lease_losses_total", "charge", "orders"] == 0
    assert found["omnidaemon_worker_tasks_in_flight", "charge", "orders"] == 0
    assert found["omnidaemon_worker_state", "degraded"] == 1


def test_names_of_the_fleet_and_of_a_worker_never_meet():
    """A Prometheus that scrapes both would count twice."""
    pair = {("orders", "charge"): AgentMetrics(processed=1)}
    fleet = {f.name for f in fleet_families(FleetNumbers(pair, [], [], 0.0))}
    worker = {f.name for f in worker_families(WorkerNumbers(pair, {}, {}, "running"))}
    assert not fleet & worker


def test_a_registry_asks_each_time_it_is_rendered():
    seen = []

    def collect():
        seen.append(1)
        return worker_families(WorkerNumbers({}, {}, {}, "running"))

    found = registry(collect)
    assert seen == []
    text, media_type = rendered(found, "text/plain")
    assert (len(seen), media_type.partition(";")[0]) == (1, "text/plain")
    assert b'omnidaemon_worker_state{state="running"} 1.0' in text


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
from omnidaemon.errors import MissingExtra
from omnidaemon.admin import Admin
from omnidaemon.exposition import registry
try:
    registry(list)
except MissingExtra as error:
    print(error)
"""


def test_without_the_package_the_error_names_the_extra():
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True, timeout=30
    )
    assert "its extra `metrics`" in ended.stdout


async def test_counters_from_before_the_histogram_are_read():
    app = App("test", transport="memory")
    async with app:
        await app.store.write(metric("orders/charge", "processed", 5))
        before = (await Metrics(app.store).totals())["orders"]["charge"]
        await app.store.write(
            *[metric("orders/charge", name) for name in (PROCESSED[0], FAILED[2])]
        )
        totals = await Metrics(app.store).totals()
    found = totals["orders"]["charge"]
    assert (before.processed, before.received, before.durations) == (5, 5, ())
    assert (found.processed, found.failed, found.durations[:3]) == (6, 1, (1, 0, 1))
