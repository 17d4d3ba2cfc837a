"""Patterns of where events go: fan-out, pipelines, replies, webhooks, tenants, routing."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from omnidaemon import TaskFailed
from omnidaemon.testing import run, serve
from tests.examples.conftest import shows


@shows("fan_out")
def test_every_agent_gets_the_event(publish: Callable[[], str]):
    assert publish().splitlines() == [
        "invoice: {'order': 'A1', 'cents': 4447}",
        "picking: ['A7: 3 × bulb', 'C3: 1 × lamp']",
        "loyalty: 43",
    ]


@shows("fan_out")
def test_an_agent_that_fails_holds_no_other_up(pattern: types.ModuleType):
    @pattern.app.agent("order.placed", retries=0)
    async def broken() -> None:
        raise ValueError("broken")

    async def body() -> None:
        async with serve(pattern.app) as served:
            task = await pattern.app.send("order.placed", {"id": "A1", "lines": []})
            await served.settled()
            states = {name: record.status for name, record in (await task.results()).items()}
            assert states == {
                "broken": "dead",
                "invoice": "succeeded",
                "picking": "succeeded",
                "loyalty": "succeeded",
            }

    run(body)


@shows("pipeline")
def test_each_result_is_the_next_agents_event(publish: Callable[[], str]):
    assert publish() == "report: north 130.00, south 80.00\n"


@shows("pipeline")
def test_what_no_step_can_read_ends_at_the_first(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            task = await pattern.app.send("sales.received", "a,b\n1,2\n")
            await served.settled()
            assert await task.status() == "dead"
            assert await pattern.app.tasks.newest("sales.parsed") == []

    run(body)


@shows("request_reply")
def test_the_answer_comes_back_or_the_reason_why_not(publish: Callable[[], str]):
    assert publish().splitlines() == [
        "{'product': 'bulb', 'cents': 4491}",
        "no quote: Reject: there is no 'unicorn' in the price list",
        "not yet; asking again for {'product': 'lamp', 'cents': 2950}",
    ]


@shows("long_running")
def test_the_outcome_of_long_work_is_posted(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            await pattern.app.send("primes.wanted", 1000, webhook="https://example.com/")
            await served.settled()
            (post,) = served.posts
            assert json.loads(post.body)["result"] == {"below": 1000, "primes": 168}
            assert [pattern.count_primes(n)["primes"] for n in (0, 2, 3, 10)] == [0, 0, 1, 4]

    run(body)


@shows("multi_tenant")
def test_each_tenant_has_its_own_settings_and_results(publish: Callable[[], str]):
    first, second, third, fourth, last = publish().splitlines()
    assert first == "acme, format_message: Dear colleague, the lift is broken"
    assert second.startswith("acme, archive_for_acme: {'archived': ")
    assert third == "globex, format_message: Hi, the lift is "
    assert fourth == "globex, archive_for_acme: None"
    assert last == "globex has 2 results, all its own"


@shows("multi_tenant")
def test_an_event_of_no_known_tenant_is_served_to_nobody(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            for tenant in (None, "initech"):
                task = await pattern.app.send("message.written", "x", tenant_id=tenant)
                await served.settled()
                records = await task.results()
                assert records["format_message"].status == "dead"
                assert records["archive_for_acme"].value is None

    run(body)


@shows("routing_by_source")
def test_the_source_decides_how_an_event_is_read(pattern: types.ModuleType, publish):
    assert publish().splitlines() == [
        "{'product': 'lamp', 'cents': 2950}",
        "{'product': 'bulb', 'cents': 499}",
        "Reject: source 'fax' is unknown; known are web, partner",
    ]
    read = [pattern.from_partner(f"x;{text}")["cents"] for text in ("7", "7.5", "7.50", "0.05")]
    assert read == [700, 750, 750, 5]


@shows("routing_by_source")
def test_the_next_step_knows_the_source(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            await pattern.app.send("order.received", "lamp;29.50", source="partner")
            await served.settled()
            (booked,) = await pattern.app.tasks.newest("order.accepted")
            assert booked.value == "lamp for 2950 cents, by partner"

    run(body)


@shows("conditional_routing")
def test_the_content_decides_the_way(pattern: types.ModuleType, publish: Callable[[], str]):
    assert publish().splitlines() == [
        "C1 -> claim.approved",
        "C2 -> claim.doubtful",
        "C3 -> claim.incomplete",
    ]
    assert pattern.way_of(pattern.Claim("C", 500, 1)) == "claim.approved"
    assert pattern.way_of(pattern.Claim("C", 500.01, 1)) == "claim.doubtful"


@shows("conditional_routing")
def test_only_the_chosen_agent_gets_the_claim(pattern: types.ModuleType):
    async def body() -> None:
        async with serve(pattern.app) as served:
            filed = await pattern.app.send("claim.filed", pattern.Claim("C1", 42, 1))
            await served.settled()
            runs = {run.agent: run for run in await pattern.app.tasks.newest()}
            assert runs.keys() == {"route", "pay"}
            assert runs["pay"].value == "C1: 42.00 EUR are paid"
            assert runs["pay"].correlation_id == filed.id

    run(body)


@shows("document_pipeline")
def test_a_document_is_extracted_and_analysed_twice(
    pattern: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "page.txt"
    page.write_text("Pipelines carry pipelines; nothing else does. " * 100)

    async def body() -> None:
        async with serve(pattern.app):
            await pattern.main(page)

    anyio.run(body)  # files are read in threads, which a virtual clock does not wait for
    lines = sorted(capsys.readouterr().out.splitlines())
    uploads = {re.search(r"'upload': '([^']+)'", line)[1] for line in lines}  # type: ignore[index]
    assert len(uploads) == 1
    assert lines[0].startswith("{'document': 'page.txt', 'keywords': ['pipelines', 'nothing']")
    assert lines[1].startswith("{'document': 'page.txt', 'words': 600, 'minutes': 2")


@shows("document_pipeline")
def test_a_document_that_is_gone_is_a_dead_letter(pattern: types.ModuleType, tmp_path: Path):
    async def body() -> None:
        async with serve(pattern.app):
            with pytest.raises(TaskFailed, match="No such file"):
                await pattern.app.request("document.uploaded", f"{tmp_path}/gone", timeout=60)

    anyio.run(body)
