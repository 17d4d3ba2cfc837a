"""Programs of the classic SDK as users write them, in real processes, on both backends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.process.conftest import SECONDS, Started, environment
from tests.redis.servers import RedisServer, binaries

AGENTS = """
import asyncio
import logging
from omnidaemon import AgentConfig, OmniDaemonSDK, SubscriptionConfig

logging.basicConfig(level=logging.INFO)
sdk = OmniDaemonSDK()


async def slow(message):
    print("begun", message["content"]["n"], message["delivery_attempts"], flush=True)
    await asyncio.sleep(message["content"]["seconds"])
    return {"n": message["content"]["n"] + 1, "agent": message["agent"]}


async def main():
    await sdk.register_agent(
        agent_config=AgentConfig(
            topic="work",
            callback=slow,
            name="slow",
            config=SubscriptionConfig(consumer_count=2),
        )
    )
    try:
        await sdk.start()
        late = AgentConfig(topic="late", callback=lambda message: "late", name="late")
        await sdk.register_agent(agent_config=late)
        print("serving", flush=True)
        while True:
            await asyncio.sleep(3600)
    finally:
        FINALLY
        print("over", flush=True)


asyncio.run(main())
"""
AT_ONCE = AGENTS.replace("FINALLY", "pass")
DRAINING = AGENTS.replace("FINALLY", "await sdk.shutdown()")

# One call per event loop, and no shutdown: as scripts and notebooks do.
ASKING = """
import asyncio, json, sys
from omnidaemon import EventEnvelope, OmniDaemonSDK, PayloadBase

sdk = OmniDaemonSDK()


async def result(task_id):
    async with asyncio.timeout(25):
        while (record := await sdk.get_result(task_id)) is None:
            await asyncio.sleep(0.02)
    return record


print(json.dumps(asyncio.run(eval(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, no_server: Callable[[str], NoReturn]
) -> Iterator[RedisServer]:
    if not binaries():
        no_server("there is no redis-server")
    made = RedisServer(binaries()[max(binaries())], tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.stop()


class Programs:
    """Runs programs in one folder, on one backend; a warning is an error in all of them."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._settings = settings
        self._started: list[Started] = []

    def start(self, program: str, name: str = "agents.py", *arguments: str) -> Started:
        """Starts a program; its lines can be waited for."""
        file = self._folder / name
        if not file.exists() or file.read_text() != program:  # one that starts may be reading it
            file.write_text(program)
        command = (sys.executable, "-W", "error", name, *arguments)
        env = environment(**self._settings)
        self._started.append(Started(self._folder, command, env))
        return self._started[-1]

    def ask(self, call: str) -> Any:
        """What `sdk.<call>` gives, in a process of its own that says nothing else."""
        return self._ask(f"sdk.{call}")

    def _ask(self, call: str) -> Any:
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", ASKING, call],
            cwd=self._folder,
            env=environment(**self._settings, PYTHONASYNCIODEBUG="0"),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        said = [line for line in ended.stderr.splitlines() if not line.startswith("Executing <")]
        assert (ended.returncode, said) == (0, []), ended.stderr
        return json.loads(ended.stdout)

    def publish(self, topic: str, content: Any) -> str:
        event = f"EventEnvelope(topic={topic!r}, payload=PayloadBase(content={content!r}))"
        return str(self.ask(f"publish_task(event_envelope={event})"))

    def result(self, task_id: str) -> Any:
        """The record of a task, waited for."""
        return self._ask(f"result({task_id!r})")

    def clean_up(self) -> None:
        for program in self._started:
            program.clean_up()


@pytest.fixture(params=["sqlite", "redis"])
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Programs]:
    """The embedded default, and Redis."""
    settings = {}
    if request.param == "redis":
        settings["REDIS_URL"] = request.getfixturevalue("server").url
        settings["REDIS_KEY_PREFIX"] = f"t{os.urandom(4).hex()}"
    made = Programs(tmp_path, **settings)
    yield made
    made.clean_up()


def test_a_program_serves_and_others_publish_look_and_manage(programs: Programs) -> None:
    assert programs.ask("health()")["status"] == "stopped"
    running = programs.start(DRAINING)
    running.line("[Runner ", "Registered agent 'slow' on topic 'work'")
    running.line("[Runner ", "Listening to topics: work")
    running.line("serving")
    task_id = programs.publish("work", {"n": 1, "seconds": 0})
    record = programs.result(task_id)
    assert record["result"] == {"n": 2, "agent": "slow"}
    assert record["status"] == "succeeded"
    assert programs.result(programs.publish("late", None))["result"] == "late"

    health = programs.ask("health()")
    deadline = time.monotonic() + SECONDS
    while "late" not in health["subscribed_topics"]:  # said with the next heartbeat
        assert time.monotonic() < deadline, health
        health = programs.ask("health()")
    assert health["status"] == "running"
    assert health["event_bus_connected"]
    assert health["storage_healthy"]
    assert health["subscribed_topics"] == ["late", "work"]
    assert health["registered_agents_count"] == 2
    assert [worker["pid"] for worker in health["workers"]] == [running.pid]
    assert health["runner_id"] in running.text

    agents = programs.ask("list_agents()")
    assert {topic: [a["name"] for a in named] for topic, named in agents.items()} == {
        "late": ["late"],
        "work": ["slow"],
    }
    assert programs.ask("metrics(topic='work')")["work"]["slow"]["tasks_processed"] == 1
    assert programs.ask("unsubscribe_agent('work', 'slow')")
    waiting = programs.publish("work", {"n": 5, "seconds": 0})
    assert programs.ask("get_agent('work', 'slow')")["lag"] == 1
    assert programs.ask(f"get_result({waiting!r})") is None
    assert programs.ask("resume_agent('work', 'slow')")
    assert programs.result(waiting)["result"]["n"] == 6


def test_sigterm_lets_what_runs_finish_and_ends_with_0(programs: Programs) -> None:
    running = programs.start(DRAINING)
    running.line("serving")
    task_id = programs.publish("work", {"n": 1, "seconds": 1})
    running.line("begun 1 1")
    running.send(signal.SIGTERM)
    assert running.ended() == 0
    assert running.lines[-1] == "over"
    assert "Traceback" not in running.text
    assert programs.ask(f"get_result({task_id!r})")["result"]["n"] == 2
    assert programs.ask("health()")["status"] == "stopped"


def test_a_second_sigterm_hands_back_what_runs(programs: Programs) -> None:
    running = programs.start(DRAINING)
    running.line("serving")
    task_id = programs.publish("work", {"n": 1, "seconds": 3600})
    running.line("begun 1 1")
    running.send(signal.SIGTERM)
    running.line("drains")
    running.send(signal.SIGTERM)
    assert running.ended() == 0
    taking_over = programs.start(DRAINING.replace('message["content"]["seconds"]', "0"))
    taking_over.line("begun 1 1")  # uncharged
    assert programs.result(task_id)["status"] == "succeeded"


def test_without_shutdown_what_runs_is_handed_back_and_nothing_is_said(
    programs: Programs,
) -> None:
    running = programs.start(AT_ONCE)
    running.line("serving")
    task_id = programs.publish("work", {"n": 1, "seconds": 3600})
    running.line("begun 1 1")
    running.send(signal.SIGTERM)
    assert running.ended() == 0
    after = running.text.partition("over")[2]
    assert "Warning" not in after, after
    assert "Error" not in after, after
    taking_over = programs.start(DRAINING.replace('message["content"]["seconds"]', "0"))
    taking_over.line("begun 1 1")
    assert programs.result(task_id)["status"] == "succeeded"


def test_ctrl_c_drains_as_well(programs: Programs) -> None:
    running = programs.start(DRAINING)
    running.line("serving")
    task_id = programs.publish("work", {"n": 1, "seconds": 1})
    running.line("begun 1 1")
    running.send(signal.SIGINT)
    running.line("over")
    assert programs.ask(f"get_result({task_id!r})")["result"]["n"] == 2


def test_three_unnamed_instances_of_a_program_share_the_load(programs: Programs) -> None:
    unnamed = DRAINING.replace('            name="slow",\n', "")
    running = [programs.start(unnamed) for _ in range(3)]
    for one in running:
        one.line("serving")
    ids = [programs.publish("work", {"n": n, "seconds": 0.5}) for n in range(6)]
    for task_id in ids:
        record = programs.result(task_id)
        assert list(record["agents"]) == ["agents.slow:work"]
    assert len(programs.ask("health()")["workers"]) == 3
    for one in running:
        one.send(signal.SIGTERM)
        assert one.ended() == 0
    begun = sorted(line for one in running for line in one.lines if line.startswith("begun"))
    assert begun == [f"begun {n} 1" for n in range(6)]  # each ran once


FOR_EVER = """
import asyncio
from omnidaemon import AgentConfig, OmniDaemonSDK

sdk = OmniDaemonSDK()


async def begin():
    await sdk.register_agent(AgentConfig(topic="work", callback=print, name="printer"))
    await sdk.start()
    print("serving", flush=True)


loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
loop.run_forever()
"""


def test_where_no_main_task_is_left_sigterm_drains_and_then_does_its_work(
    programs: Programs,
) -> None:
    running = programs.start(FOR_EVER)
    running.line("serving")
    running.send(signal.SIGTERM)
    assert running.ended() == -signal.SIGTERM
    assert "has drained" in running.text
    assert programs.ask("health()")["status"] == "stopped"


def test_the_example_serves_and_asks(programs: Programs) -> None:
    example = Path(__file__).parents[2] / "examples/classic_sdk.py"
    serving = programs.start(example.read_text(), "classic_sdk.py")
    serving.line("Registered agent 'greeter' on topic 'greet.user'")
    asking = programs.start(example.read_text(), "classic_sdk.py", "Ada")
    assert asking.ended() == 0
    assert asking.lines == ["Hello, Ada!"]
    serving.line("is ready")
    serving.send(signal.SIGTERM)
    assert serving.ended() == 0
