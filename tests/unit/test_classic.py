"""The values of the classic SDK: what they accept, what they fill in, and what they refuse."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
import uuid

import pytest

from omnidaemon import (
    AgentConfig,
    EventEnvelope,
    OmniDaemonSDK,
    PayloadBase,
    PayloadError,
    SubscriptionConfig,
    start_api_server,
)
from omnidaemon.errors import InvalidSettings


def callback(event: dict) -> None: ...


class Agent:
    async def method(self, event: dict) -> None: ...

    def __call__(self, event: dict) -> None: ...


def test_the_face_has_them_and_imports_them_only_when_asked() -> None:
    assert callable(OmniDaemonSDK)
    assert callable(start_api_server)
    program = """
import sys
import omnidaemon
print([name for name in sys.modules if name.startswith(("omnidaemon.sdk", "omnidaemon.worker"))])
assert "OmniDaemonSDK" in dir(omnidaemon)
from omnidaemon import OmniDaemonSDK
print("omnidaemon.sdk" in sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split("\n")[:2] == ["[]", "True"]


def test_an_event_has_an_id_and_a_time_and_is_in_its_first_delivery() -> None:
    before = time.time()
    event = EventEnvelope(topic="orders", payload=PayloadBase(content={"n": 1}))
    assert str(uuid.UUID(event.id)) == event.id
    assert before <= event.created_at <= time.time()
    assert event.delivery_attempts == 1
    nothing = (event.tenant_id, event.correlation_id, event.causation_id, event.source)
    assert nothing == (None,) * 4
    assert (event.payload.webhook, event.payload.reply_to) == (None, None)
    assert event.id != EventEnvelope("orders", PayloadBase("text")).id


def test_all_that_an_event_says_travels() -> None:
    event = EventEnvelope(
        topic=" orders ",
        payload=PayloadBase(content=[1, "a", None], webhook="https://e.test/x", reply_to="done"),
        id="mine",
        created_at=12.5,
        tenant_id="t",
        correlation_id="c",
        causation_id="w",
        source="s",
    )
    envelope = event.envelope()
    assert (envelope.topic, envelope.id, envelope.created_at) == ("orders", "mine", 12.5)
    assert envelope.content == [1, "a", None]
    assert (envelope.webhook, envelope.reply_to) == ("https://e.test/x", "done")
    assert (envelope.tenant_id, envelope.correlation_id) == ("t", "c")
    assert (envelope.causation_id, envelope.source) == ("w", "s")


def test_a_payloads_correlation_id_becomes_the_events_unless_it_has_one() -> None:
    payload = PayloadBase(content=1, correlation_id="p")
    assert EventEnvelope("orders", payload).correlation_id == "p"
    assert EventEnvelope("orders", payload, correlation_id="e").envelope().correlation_id == "e"
    late = EventEnvelope("orders", PayloadBase(1))
    late.payload.correlation_id = "later"
    assert late.envelope().correlation_id == "later"


def test_a_payload_may_be_a_dict_with_its_fields() -> None:
    event = EventEnvelope("orders", {"content": 1, "reply_to": "done"})  # type: ignore[arg-type]
    assert event.payload == PayloadBase(1, reply_to="done")
    for bad in ({"contents": 1}, {}, "text", None):
        with pytest.raises(PayloadError, match="payload="):
            EventEnvelope("orders", bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "topic", "omni.x", "a b", "-a", "a" * 201, None, "ä"])
def test_a_topic_that_cannot_be_is_refused_where_it_is_written(topic: str) -> None:
    with pytest.raises(PayloadError):
        EventEnvelope(topic, PayloadBase(1))
    with pytest.raises(InvalidSettings):
        AgentConfig(topic, callback)


def test_an_agents_name_is_made_of_module_function_and_topic() -> None:
    name = AgentConfig(topic="orders", callback=callback).name
    assert name == f"{__name__}.callback:orders"
    assert AgentConfig("orders", callback).name == name
    assert AgentConfig("others", callback).name != name
    assert AgentConfig("orders", functools.partial(callback)).name == name
    assert AgentConfig("orders", Agent()).name == f"{__name__}.Agent:orders"
    assert AgentConfig("orders", Agent().method).name == f"{__name__}.Agent.method:orders"
    inner = AgentConfig("orders", lambda event: event).name
    assert inner.startswith(f"{__name__}.test_an_agents_name_is_made")
    assert AgentConfig("orders", callback, name=" mail ").name == "mail"
    long = [AgentConfig(end * 200, callback).name for end in "ab"]
    assert [len(name) for name in long] == [200, 200]
    with pytest.raises(InvalidSettings, match="agent name"):
        AgentConfig("orders", callback, name="a b")
    with pytest.raises(InvalidSettings, match="can be called"):
        AgentConfig("orders", "callback")  # type: ignore[arg-type]


def test_a_program_has_the_same_names_each_time_and_another_program_has_others(tmp_path) -> None:
    program = """
from omnidaemon import AgentConfig
def work(event): ...
print(AgentConfig("orders", work).name)
"""
    (tmp_path / "shop").mkdir()
    for file in ("shop.py", "mail.py", "shop/__main__.py"):
        (tmp_path / file).write_text(program)
    names = []
    for arguments in (["shop.py"], ["shop.py"], ["mail.py"], ["shop"], ["-m", "shop"]):
        command = [sys.executable, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        names.append(ended.stdout.strip())
    shop, mail = "shop.work:orders", "mail.work:orders"
    assert names == [shop, shop, mail, shop, shop]


def test_an_agents_defaults_are_its_own() -> None:
    one, other = AgentConfig("orders", callback), AgentConfig("orders", callback)
    assert (one.description, one.tools) == ("", [])
    assert one.tools is not other.tools
    config = one.config
    assert (config.consumer_count, config.dlq_retry_limit, config.reclaim_idle_ms) == (1, 3, 60000)
    assert config.dlq_enabled


def test_the_retry_limit_has_two_names() -> None:
    for config in (
        SubscriptionConfig(max_retries=5),
        SubscriptionConfig(dlq_retry_limit=5),
        SubscriptionConfig(dlq_retry_limit=5, max_retries=5),
        AgentConfig("a", callback, config={"max_retries": 5}).config,  # type: ignore[arg-type]
    ):
        assert (config.dlq_retry_limit, config.max_retries) == (5, 5)
    assert SubscriptionConfig(max_retries=0).dlq_retry_limit == 0
    with pytest.raises(InvalidSettings, match="two names of one limit"):
        SubscriptionConfig(dlq_retry_limit=3, max_retries=5)
    with pytest.raises(InvalidSettings, match="config="):
        AgentConfig("a", callback, config={"retries": 5})  # type: ignore[arg-type]
