"""A process killed between any two statements of a settlement: all of it happened, or nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from omnidaemon.messages import Message
from omnidaemon.records import METRICS, RESULTS
from omnidaemon.stores.sqlite import SQLiteStore
from omnidaemon.transports.sqlite import SQLiteTransport

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import os, signal, sys
import anyio
from omnidaemon.drivers.sqlite import Database
from omnidaemon.messages import Ack, Bury, Count, Message, Release, RetryAfter, Settlement, Write
from omnidaemon.transports.sqlite import SQLiteTransport

url, action, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
actions = {"ack": Ack(), "retry": RetryAfter(0), "bury": Bury(b"why"), "release": Release()}
armed = False
seen = 0

def statement(sql):
    global seen
    if armed:
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

Database.trace = staticmethod(statement)

async def main():
    global armed
    async with SQLiteTransport(url) as transport:
        async with transport.subscribe("work", "agent", lease=60) as subscription:
            [delivery] = await subscription.receive(1, 0)
            settlement = Settlement(
                delivery,
                actions[action],
                publish=(Message("replies", "reply", b"reply"),),
                changes=(
                    Write("results", "event/agent", b"result", "work", 60),
                    Count("metrics", "work/agent", "processed", 1),
                ),
                notice="event",
            )
            armed = True
            await subscription.settle([settlement])
            armed = False
            print(seen)

anyio.run(main)
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def state(url):
    """What a settlement changes, as the next process finds it."""
    transport, store = SQLiteTransport(url), SQLiteStore(url)
    async with transport, store:
        return {
            "place": [(p.state, p.attempt) for p in await transport.locate("event")],
            "dead": [letter.reason for letter in await transport.dead_letters("work")],
            "replies": [event.id for event in await transport.browse("replies")],
            "records": [record.key for record in await store.browse(RESULTS)],
            "counters": await store.totals(METRICS),
        }


@pytest.mark.parametrize("action", ["ack", "retry", "bury", "release"])
async def test_a_settlement_cut_anywhere_happened_whole_or_not_at_all(action, tmp_path):
    outcomes = []
    finished = None
    for die_at in range(1, 100):
        url = f"sqlite://{tmp_path}/{action}-{die_at}.db"
        transport = SQLiteTransport(url)
        async with transport, transport.subscribe("work", "agent", lease=60):
            await transport.publish(Message("work", "event", b"body"))
        ran = subprocess.run(  # noqa: ASYNC221  nothing else waits here
            [sys.executable, "-c", SCRIPT, url, action, str(die_at)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        outcomes.append(await state(url))
        if ran.returncode == 0:
            finished = int(ran.stdout)
            break
        assert ran.returncode == -signal.SIGKILL, ran.stderr

    # Each of the statements was the last one once (their number varies by one or two, with the
    # database thread's looks for other processes); the last round ran to its end.
    assert finished is not None
    assert 5 <= finished < len(outcomes)
    untouched = {
        "place": [("running", 1)],
        "dead": [],
        "replies": [],
        "records": [],
        "counters": {},
    }
    done = outcomes[-1]
    assert done["records"] == ["event/agent"]
    assert done["replies"] == ["reply"]
    assert done["counters"] == {"work/agent": {"processed": 1}}
    changes = [outcome for outcome in outcomes if outcome != untouched]
    assert outcomes[0] == untouched
    assert all(outcome == done for outcome in changes), msgspec.json.encode(changes)
