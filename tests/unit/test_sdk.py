"""The classic SDK in one process: what it promises those who call it from their own event loop."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
from omnidaemon.errors import (
    AgentNotFound,
    DuplicateAgent,
    InvalidSettings,
    UnknownBackend,
)
from omnidaemon.testing import VirtualClockLoop
from tests.receiver import Receiver

FIELDS = {
    *("content", "id", "task_id", "topic", "tenant_id", "correlation_id", "causation_id"),
    *("source", "webhook", "reply_to", "created_at", "delivery_attempts", "agent"),
}


@pytest.fixture(autouse=True)
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the test's own, and with it an embedded backend."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVENT_BUS_TYPE", "REDIS_URL", "STORAGE_BACKEND", "OMNIDAEMON_SQLITE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead, the memory of this process, where a virtual clock can jump; empty."""
    monkeypatch.setattr("omnidaemon.sdk.MEMORY", f"memory://{secrets.token_hex(4)}")
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")


def event(topic: str, content: Any = None, **rest: Any) -> EventEnvelope:
    return EventEnvelope(topic=topic, payload=PayloadBase(content=content), **rest)


@asynccontextmanager
async def started(*configs: AgentConfig) -> AsyncIterator[OmniDaemonSDK]:
    sdk = OmniDaemonSDK()
    for config in configs:
        await sdk.register_agent(agent_config=config)
    await sdk.start()
    try:
        yield sdk
    finally:
        await sdk.shutdown()


async def result(sdk: OmniDaemonSDK, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := await sdk.get_result(task_id)) is None:
            await asyncio.sleep(0.01)
    return found


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    """Runs on a clock that jumps over what is waited for."""

    async def all_of_it() -> None:
        await main()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(all_of_it())


# Callbacks


def test_a_callback_is_given_the_whole_event_as_one_flat_dict() -> None:
    seen: list[dict[str, Any]] = []

    async def callback(message: dict[str, Any]) -> dict[str, Any]:
        seen.append(message)
        return {"n": message["content"]["n"] + 1}

    async def main() -> None:
        async with started(AgentConfig(topic="orders", callback=callback, name="mail")) as sdk:
            given = EventEnvelope(
                topic="orders",
                payload=PayloadBase(content={"n": 1}, reply_to="done", correlation_id="c"),
                tenant_id="t",
                causation_id="w",
                source="s",
            )
            task_id = await sdk.publish_task(event_envelope=given)
            assert task_id == given.id
            assert (await result(sdk, task_id))["result"] == {"n": 2}
            [message] = seen
            assert message.keys() == FIELDS
            assert message == {
                "content": {"n": 1},
                "id": task_id,
                "task_id": task_id,
                "topic": "orders",
                "tenant_id": "t",
                "correlation_id": "c",
                "causation_id": "w",
                "source": "s",
                "webhook": None,
                "reply_to": "done",
                "created_at": given.created_at,
                "delivery_attempts": 1,
                "agent": "mail",
            }

    asyncio.run(main())


class Caller:
    def __call__(self, message: dict[str, Any]) -> str:
        return f"{message['content']} by {type(self).__name__}"


class AsyncCaller:
    async def __call__(self, message: dict[str, Any]) -> str:
        return f"{message['content']} by {type(self).__name__}"


def test_any_callable_that_takes_a_dict_is_a_callback() -> None:
    loops: list[threading.Thread] = []

    async def coroutine(message: dict[str, Any]) -> str:
        loops.append(threading.current_thread())
        return f"{message['content']} async"

    def function(message: dict[str, Any]) -> str:
        loops.append(threading.current_thread())
        return f"{message['content']} sync"

    def with_word(word: str, message: dict[str, Any]) -> str:
        return f"{message['content']} {word}"

    callbacks: dict[str, Callable[[dict[str, Any]], Any]] = {
        "coroutine": coroutine,
        "function": function,
        "partial": functools.partial(with_word, "partial"),
        "async-partial": functools.partial(coroutine),
        "object": Caller(),
        "async-object": AsyncCaller(),
        "lambda": lambda message: coroutine(message),
    }

    async def main() -> None:
        configs = [AgentConfig("work", call, name=name) for name, call in callbacks.items()]
        async with started(*configs) as sdk:
            task_id = await sdk.publish_task(event("work", "done"))
            async with asyncio.timeout(30):
                while len(await sdk.list_results("work")) < len(callbacks):
                    await asyncio.sleep(0.01)
            agents = (await result(sdk, task_id))["agents"]
        assert {name: run["result"] for name, run in agents.items()} == {
            "coroutine": "done async",
            "function": "done sync",
            "partial": "done partial",
            "async-partial": "done async",
            "object": "done by Caller",
            "async-object": "done by AsyncCaller",
            "lambda": "done async",
        }
        main_thread = threading.main_thread()
        assert sorted(thread is main_thread for thread in loops) == [False, True, True, True]

    asyncio.run(main())


def test_a_callback_publishes_with_the_sdk_also_from_its_thread() -> None:
    sdk = OmniDaemonSDK()
    ids: list[str] = []

    async def first(message: dict[str, Any]) -> None:
        ids.append(await sdk.publish_task(event("second", message["content"] + 1)))

    def second(message: dict[str, Any]) -> None:
        ids.append(asyncio.run(sdk.publish_task(event("third", message["content"] + 1))))

    async def third(message: dict[str, Any]) -> int:
        return int(message["content"]) + 1

    async def main() -> None:
        for topic, callback in [("first", first), ("second", second), ("third", third)]:
            await sdk.register_agent(AgentConfig(topic, callback))
        await sdk.start()
        await result(sdk, await sdk.publish_task(event("first", 1)))
        async with asyncio.timeout(30):
            while len(ids) < 2:
                await asyncio.sleep(0.01)
        assert (await result(sdk, ids[1]))["result"] == 4
        await sdk.shutdown()

    asyncio.run(main())


# Retries


def test_a_failed_run_is_repeated_and_the_callback_knows_which_run_it_is(memory: None) -> None:
    attempts: list[int] = []

    def callback(message: dict[str, Any]) -> str:
        attempts.append(message["delivery_attempts"])
        if message["delivery_attempts"] < 3:
            raise ValueError("not yet")
        return "done"

    async def main() -> None:
        async with started(AgentConfig("work", callback)) as sdk:
            assert (await result(sdk, await sdk.publish_task(event("work"))))["result"] == "done"
        assert attempts == [1, 2, 3]

    run_virtual(main)


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        (SubscriptionConfig(), 4),
        (SubscriptionConfig(dlq_retry_limit=0), 1),
        (SubscriptionConfig(max_retries=1), 2),
    ],
)
def test_after_the_limit_it_is_a_dead_letter_and_comes_back_when_told(
    memory: None, config: SubscriptionConfig, runs: int
) -> None:
    attempts: list[int] = []

    async def callback(message: dict[str, Any]) -> str:
        attempts.append(message["delivery_attempts"])
        if len(attempts) <= runs:
            raise ValueError("no")
        return "at last"

    async def main() -> None:
        async with started(AgentConfig("work", callback, name="mail", config=config)) as sdk:
            task_id = await sdk.publish_task(event("work", {"n": 1}))
            dead = await result(sdk, task_id)
            assert (dead["status"], dead["result"]) == ("dead", None)
            assert dead["error"]["type"] == "ValueError"
            assert attempts == list(range(1, runs + 1))
            [letter] = await sdk.inspect_dlq("work")
            assert (letter["task_id"], letter["agent"]) == (task_id, "mail")
            assert letter["cause"]["attempts"] == runs
            assert letter["event"]["content"] == {"n": 1}
            numbers = (await sdk.metrics())["work"]["mail"]
            assert (numbers["tasks_received"], numbers["tasks_failed"]) == (runs, runs)
            assert await sdk.replay_dlq("work", [task_id]) == 1
            async with asyncio.timeout(30):
                while (found := await result(sdk, task_id))["status"] != "succeeded":
                    await asyncio.sleep(0.01)
            assert found["result"] == "at last"
            assert await sdk.inspect_dlq("work") == []

    run_virtual(main)


def test_without_a_dead_letter_queue_what_is_given_up_is_dropped(
    memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def callback(message: dict[str, Any]) -> None:
        raise ValueError("no")

    async def main() -> None:
        config = SubscriptionConfig(max_retries=0, dlq_enabled=False)
        async with started(AgentConfig("work", callback, config=config)) as sdk:
            task_id = await sdk.publish_task(event("work"))
            assert (await result(sdk, task_id))["status"] == "dead"
            assert await sdk.inspect_dlq("work") == []
            [agent] = (await sdk.list_agents())["work"]
            assert agent["config"]["dlq_enabled"] is False

    run_virtual(main)
    assert any("dropped" in line for line in caplog.messages)


async def nothing(message: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    "config", [{"consumer_count": 0}, {"max_retries": -1}, {"reclaim_idle_ms": 0}]
)
def test_a_value_that_cannot_be_is_refused_on_registration(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        asyncio.run(
            OmniDaemonSDK().register_agent(AgentConfig("work", nothing, config=config))  # type: ignore[arg-type]
        )


# Start and shutdown


def test_starting_and_shutting_down_as_often_as_one_likes_is_harmless() -> None:
    sdk = OmniDaemonSDK()

    async def main() -> None:
        await sdk.shutdown()
        await sdk.register_agent(AgentConfig("work", nothing))
        await sdk.register_agent(AgentConfig("work", nothing))
        for _ in range(2):
            await asyncio.gather(sdk.start(), sdk.start())
            await sdk.start()
            await sdk.register_agent(AgentConfig("work", nothing))
            health = await sdk.health()
            assert (health["status"], len(health["workers"])) == ("running", 1)
            assert health["runner_id"] == health["workers"][0]["id"]
            await result(sdk, await sdk.publish_task(event("work")))
            await asyncio.gather(sdk.shutdown(), sdk.shutdown())
            await sdk.shutdown()
            assert (await sdk.health())["status"] == "stopped"

    asyncio.run(main())
    asyncio.run(main())


def test_an_agent_registered_after_the_start_is_served_too() -> None:
    async def main() -> None:
        async with started() as sdk:  # without any agent yet
            await sdk.register_agent(AgentConfig("first", nothing))
            await sdk.register_agent(AgentConfig("second", nothing))  # while the first one joins
            await result(sdk, await sdk.publish_task(event("first")))
            await result(sdk, await sdk.publish_task(event("second")))
            await sdk.register_agent(AgentConfig("third", nothing))
            await result(sdk, await sdk.publish_task(event("third")))
            assert (await sdk.health())["subscribed_topics"] == ["first", "second", "third"]

    asyncio.run(main())


def test_a_deleted_agent_may_be_registered_again_and_another_of_its_name_may_not() -> None:
    async def other(message: dict[str, Any]) -> str:
        return "other"

    async def main() -> None:
        async with started(AgentConfig("work", nothing, name="a")) as sdk:
            with pytest.raises(DuplicateAgent):
                await sdk.register_agent(AgentConfig("work", other, name="a"))
            gone = await sdk.delete_agent("work", "a")
            assert gone["storage_deleted"]
            assert gone["group_deleted"]
            await sdk.register_agent(AgentConfig("work", other, name="a"))
            task_id = await sdk.publish_task(event("work"))
            assert (await result(sdk, task_id))["result"] == "other"
            with pytest.raises(AgentNotFound):
                await sdk.delete_agent("work", "gone")

    asyncio.run(main())


def test_what_was_registered_and_not_started_can_be_deleted() -> None:
    sdk = OmniDaemonSDK()
    for name in ("a", "b"):
        asyncio.run(sdk.register_agent(AgentConfig("work", nothing, name=name)))
    nothing_there = {"storage_deleted": False, "group_deleted": False, "dlq_deleted": False}
    gone = asyncio.run(sdk.delete_agent("work", "a"))
    assert gone == {"topic": "work", "agent": "a", **nothing_there}
    [gone] = asyncio.run(sdk.delete_topic("work"))
    assert gone == {"topic": "work", "agent": "b", **nothing_there}
    assert sdk.app.agents == []
    with pytest.raises(AgentNotFound):
        asyncio.run(sdk.delete_topic("work"))


def test_shutdown_lets_what_runs_finish() -> None:
    begun = threading.Event()

    async def slow(message: dict[str, Any]) -> str:
        begun.set()
        await asyncio.sleep(0.3)
        return "finished"

    async def main() -> None:
        async with started(AgentConfig("work", slow)) as sdk:
            task_id = await sdk.publish_task(event("work"))
            await asyncio.to_thread(begun.wait, 10)
        found = await sdk.get_result(task_id)
        assert found is not None
        assert found["result"] == "finished"

    asyncio.run(main())


def test_a_loop_that_ends_without_shutdown_hands_back_what_runs() -> None:
    begun = threading.Event()
    attempts: list[int] = []

    async def slow(message: dict[str, Any]) -> str:
        attempts.append(message["delivery_attempts"])
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(60)
        return "second time"

    sdk = OmniDaemonSDK()

    async def first() -> str:
        await sdk.register_agent(AgentConfig("work", slow))
        await sdk.start()
        task_id = await sdk.publish_task(event("work"))
        await asyncio.to_thread(begun.wait, 10)
        return task_id

    async def second(task_id: str) -> None:
        await sdk.start()
        assert (await result(sdk, task_id))["result"] == "second time"
        await sdk.shutdown()

    asyncio.run(second(asyncio.run(first())))
    assert attempts == [1, 1]  # an interruption burns no retry


def test_what_keeps_the_start_from_working_is_raised(tmp_path: Path) -> None:
    (tmp_path / ".omnidaemon_data").write_text("a file where the folder should be")

    async def main() -> None:
        sdk = OmniDaemonSDK()
        await sdk.register_agent(AgentConfig("work", nothing))
        with pytest.raises(Exception, match="omnidaemon_data"):
            await sdk.start()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    asyncio.run(main())


def test_a_programs_own_way_with_sigterm_is_left_alone() -> None:
    got: list[int] = []

    async def main() -> None:
        async with started(AgentConfig("work", nothing)):
            assert signal.getsignal(signal.SIGTERM) is handler
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler

    def handler(number: int, frame: object) -> None:
        got.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_in_another_thread_than_the_main_one_it_works_without_signals() -> None:
    async def main() -> str:
        async with started(AgentConfig("work", lambda message: "done")) as sdk:
            return str((await result(sdk, await sdk.publish_task(event("work"))))["result"])

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(main())))
    thread.start()
    thread.join(30)
    assert found == ["done"]


def test_another_threads_loop_can_shut_it_down() -> None:
    sdk = OmniDaemonSDK()

    async def main() -> None:
        await sdk.register_agent(AgentConfig("work", nothing))
        await sdk.start()
        await asyncio.to_thread(lambda: asyncio.run(sdk.shutdown()))
        assert (await sdk.health())["status"] == "stopped"

    asyncio.run(main())


def test_the_log_says_who_is_registered_and_what_is_listened_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = ""

    async def main() -> None:
        nonlocal runner
        async with started(
            AgentConfig("work", nothing, name="mail"), AgentConfig("play", nothing, name="ball")
        ) as sdk:
            runner = (await sdk.health())["runner_id"]
            await sdk.register_agent(AgentConfig("rest", nothing, name="late"))

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert [text for text in caplog.messages if text.startswith(f"[Runner {runner}]")] == [
        f"[Runner {runner}] Registered agent 'mail' on topic 'work'",
        f"[Runner {runner}] Registered agent 'ball' on topic 'play'",
        f"[Runner {runner}] Listening to topics: play, work",
        f"[Runner {runner}] Registered agent 'late' on topic 'rest'",
        f"[Runner {runner}] Listening to topics: play, rest, work",
    ]


# From any process and loop, without start


def test_everything_works_without_start_in_one_event_loop_after_another() -> None:
    sdk = OmniDaemonSDK()
    task_id = asyncio.run(sdk.publish_task(event("work", {"n": 1})))
    assert asyncio.run(sdk.get_result(task_id)) is None
    assert asyncio.run(sdk.get_result("gone")) is None
    assert asyncio.run(sdk.list_results()) == []
    assert asyncio.run(sdk.delete_result(task_id)) is False
    assert asyncio.run(sdk.list_agents()) == {}
    assert asyncio.run(sdk.get_agent("work", "gone")) is None
    [stream] = asyncio.run(sdk.list_streams())
    assert (stream["name"], stream["events"]) == ("work", 1)
    [stored] = asyncio.run(sdk.inspect_stream("work"))
    assert (stored["task_id"], stored["event"]["content"]) == (task_id, {"n": 1})
    assert asyncio.run(sdk.list_groups("work")) == []
    assert asyncio.run(sdk.inspect_dlq("work")) == []
    assert asyncio.run(sdk.replay_dlq("work")) == 0
    assert asyncio.run(sdk.delete_dlq("work")) == 0
    assert asyncio.run(sdk.get_bus_stats())["events"] == 1
    assert asyncio.run(sdk.metrics(limit=1)) == {}
    assert asyncio.run(sdk.storage_health())["healthy"]
    health = asyncio.run(OmniDaemonSDK().health())
    assert (health["status"], health["event_bus_type"]) == ("stopped", "sqlite")
    asyncio.run(sdk.save_config("key", [1]))
    assert asyncio.run(OmniDaemonSDK().get_config("key")) == [1]
    assert asyncio.run(sdk.get_config("gone", 2)) == 2
    assert asyncio.run(sdk.list_config()) == {"key": [1]}
    assert asyncio.run(sdk.clear_all())["config"] == 1
    assert asyncio.run(sdk.delete_topic("work")) == []
    for call in (sdk.unsubscribe_agent, sdk.resume_agent, sdk.delete_agent, sdk.get_agent):
        found: Any = call("work", "gone")
        if call == sdk.get_agent:
            assert asyncio.run(found) is None
        else:
            with pytest.raises(AgentNotFound):
                asyncio.run(found)


def test_another_sdk_looks_after_the_agents_that_this_one_runs() -> None:
    other = OmniDaemonSDK()

    async def main() -> None:
        config = SubscriptionConfig(consumer_count=2, reclaim_idle_ms=30_000)
        agent = AgentConfig(
            "work",
            lambda message: message["content"],
            name="echo",
            description="Says it again",
            tools=["voice"],
            config=config,
        )
        async with started(agent) as sdk:
            shown = await other.get_agent("work", "echo")
            assert shown is not None
            [listed] = (await other.list_agents())["work"]
            assert listed.keys() == shown.keys()
            assert (shown["description"], shown["tools"]) == ("Says it again", ["voice"])
            assert shown["config"]["consumer_count"] == 2
            assert shown["config"]["reclaim_idle_ms"] == 30_000
            assert shown["status"] == "running"
            await other.unsubscribe_agent("work", "echo")
            task_id = await other.publish_task(event("work", "hello"))
            paused = await other.get_agent("work", "echo")
            assert paused is not None
            assert (paused["status"], paused["lag"]) == ("paused", 1)
            await other.resume_agent("work", "echo")
            record = await result(other, task_id)
            assert record["result"] == "hello"
            assert (record["task_id"], record["status"]) == (task_id, "succeeded")
            assert record["agents"]["echo"]["result"] == "hello"
            assert record["timestamp"] == record["agents"]["echo"]["finished_at"]
            [listed] = await other.list_results(topic="work", limit=10)
            assert (listed["task_id"], listed["result"]) == (task_id, "hello")
            assert await other.list_results(topic="play") == []
            [group] = await other.list_groups("work")
            assert (group["name"], group["lag"]) == ("echo", 0)
            assert (await other.metrics("work"))["work"]["echo"]["tasks_processed"] == 1
            assert await other.delete_result(task_id)
            assert await other.get_result(task_id) is None
            assert await other.clear_metrics() == 1
            assert await other.clear_results() == 0
            assert await other.clear_agents() == 1
            [gone] = await sdk.delete_topic("work")
            assert (gone["agent"], gone["group_deleted"]) == ("echo", True)

    asyncio.run(main())


def test_what_is_answered_is_json(memory: None) -> None:
    def only_json(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and only_json(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(only_json, value))
        return value is None or type(value) in (str, int, float, bool)

    async def fails(message: dict[str, Any]) -> None:
        raise ValueError

    async def main() -> None:
        config = SubscriptionConfig(max_retries=0)
        agents = [AgentConfig("work", nothing), AgentConfig("work", fails, config=config)]
        async with started(*agents) as sdk:
            task_id = await sdk.publish_task(event("work", {"n": [1, None, {"a": 1.5}]}))
            async with asyncio.timeout(30):
                while len(await sdk.list_results()) < 2:
                    await asyncio.sleep(0.01)
            for answer in (
                await sdk.get_result(task_id),
                await sdk.list_results(),
                await sdk.list_agents(),
                await sdk.list_streams(),
                await sdk.inspect_stream("work"),
                await sdk.list_groups("work"),
                await sdk.inspect_dlq("work"),
                await sdk.get_bus_stats(),
                await sdk.health(),
                await sdk.metrics(),
                await sdk.storage_health(),
                await sdk.delete_topic("work"),
            ):
                assert answer
                assert only_json(answer), answer

    run_virtual(main)


def test_two_sdks_of_one_process_share_its_memory(memory: None) -> None:
    async def main() -> None:
        async with started(AgentConfig("work", lambda message: "done")):
            other = OmniDaemonSDK()
            assert (await result(other, await other.publish_task(event("work"))))["result"] == (
                "done"
            )
            assert (await other.health())["event_bus_type"] == "memory"

    asyncio.run(main())


def test_the_environment_and_a_dotenv_file_choose_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = OmniDaemonSDK()  # made before, as at import
    (tmp_path / ".env").write_text("OMNIDAEMON_SQLITE=mine.db\n")
    asyncio.run(sdk.publish_task(event("work")))
    assert (tmp_path / "mine.db").exists()
    monkeypatch.setenv("EVENT_BUS_TYPE", "carrier_pigeon")
    with pytest.raises(UnknownBackend, match="carrier_pigeon"):
        asyncio.run(OmniDaemonSDK().publish_task(event("work")))


def test_what_is_no_event_is_refused() -> None:
    sdk = OmniDaemonSDK()
    with pytest.raises(PayloadError, match="no EventEnvelope"):
        asyncio.run(sdk.publish_task({"topic": "work"}))  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        asyncio.run(sdk.publish_task(event("work", float("nan"))))
    with pytest.raises(TypeError):
        OmniDaemonSDK("redis://localhost")  # type: ignore[call-arg]


# The admin API beside it


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_admin_api_is_served_beside_the_agents_until_the_shutdown() -> None:
    async def main() -> None:
        async with started(AgentConfig("work", lambda message: 2, name="two")) as sdk:
            api = await start_api_server(sdk, port=0)
            assert await start_api_server(sdk, port=0) is api  # one per process
            status, health = await asyncio.to_thread(get, f"{api.url}/health")
            assert (status, health["status"], health["registered_agents_count"]) == (
                200,
                "running",
                1,
            )
            task_id = await sdk.publish_task(event("work"))
            await result(sdk, task_id)
            status, task = await asyncio.to_thread(get, f"{api.url}/tasks/{task_id}")
            assert (status, task["result"], task["status"]) == (200, 2, "succeeded")
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(get, f"{api.url}/health")

    asyncio.run(main())


def test_who_joined_the_admin_api_of_another_does_not_end_it() -> None:
    async def main() -> None:
        async with started(AgentConfig("work", nothing)) as sdk:
            api = await start_api_server(sdk, port=0)
            guest = OmniDaemonSDK()
            assert await start_api_server(guest, port=0) is api
            await guest.shutdown()
            status, _ = await asyncio.to_thread(get, f"{api.url}/livez")
            assert status == 200

    asyncio.run(main())


def test_the_environment_alone_starts_the_admin_api_and_a_taken_port_stops_no_agent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(port: int) -> None:
        async with started(AgentConfig("work", nothing)) as sdk:
            await result(sdk, await sdk.publish_task(event("work")))
            if not caplog.messages:
                status, _ = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/livez")
                assert status == 200

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OMNIDAEMON_API_ENABLED", "true")
        monkeypatch.setenv("OMNIDAEMON_API_PORT", str(port))
        asyncio.run(main(port))
        assert [text for text in caplog.messages if f"port {port} of 127.0.0.1" in text]
    caplog.clear()
    caplog.set_level(logging.ERROR)
    asyncio.run(main(port))
    assert caplog.messages == []


WITHOUT = """
import asyncio, sys
sys.modules[sys.argv[1]] = None
from omnidaemon import OmniDaemonSDK, start_api_server
from omnidaemon.errors import MissingExtra
try:
    asyncio.run(start_api_server(OmniDaemonSDK(), port=0))
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize("package", ["uvicorn", "jinja2"])
def test_without_its_packages_the_admin_api_names_the_extra(package: str, tmp_path: Path) -> None:
    # In a process of its own: modules that are imported twice would stay for the tests after it.
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, package],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert re.search(f"{package}.*extra `api`", ended.stdout)
    told = ended.stdout.partition("pip install ")[2].split()
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    wanted = tomllib.loads(pyproject)["project"]["optional-dependencies"]["api"]
    assert told == [name.partition(">=")[0] for name in wanted]


def test_the_webhook_of_a_payload_is_posted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIDAEMON_WEBHOOK_ALLOW", "127.0.0.1")

    async def main(receiver: Receiver) -> None:
        async with started(AgentConfig("work", lambda message: 42, name="mail")) as sdk:
            payload = PayloadBase(content=1, webhook=receiver.url)
            task_id = await sdk.publish_task(EventEnvelope("work", payload))
            [post] = await asyncio.to_thread(receiver.wait)
            assert list(await sdk.list_agents()) == ["work"]  # what posts is no agent of users
        body = json.loads(post.body)
        assert (body["task_id"], body["agent"], body["result"]) == (task_id, "mail", 42)

    with Receiver() as receiver:
        asyncio.run(main(receiver))
