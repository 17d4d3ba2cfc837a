"""The JSON store in several processes at once, and in ones that are killed while they write."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omnidaemon.messages import Count, Write
from omnidaemon.stores.json import JSONStore
from tests.redis.servers import RedisServer, binaries

pytestmark = [pytest.mark.anyio]
ROOT = Path(__file__).parent.parent.parent

WRITER = """
import sys
import anyio
from omnidaemon.drivers.json_records import Records
from omnidaemon.messages import Count, Write
from omnidaemon.stores.json import JSONStore

url, name, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
Records.waste = 20_000  # so that the file is replaced many times meanwhile

async def main():
    async with JSONStore(url) as store:
        print("open", flush=True)
        sys.stdin.readline()
        for number in range(most):
            await store.write(
                Write("results", f"{name}/{number}", b'{"by":"%s"}' % name.encode(), name),
                Write("beats", "all", b"%d" % number),
                Count("metrics", "all", "records", 1),
                Count("metrics", name, "records", 1),
            )
            print(number, flush=True)

anyio.run(main)
"""

APP = """
from omnidaemon import App

app = App("shop")

@app.agent("orders")
async def double(n: int) -> int:
    return 2 * n + 2
"""


@pytest.fixture
def redis_url(tmp_path, no_server):
    """Starts a server when asked."""
    started = []

    def url():
        if not binaries():
            no_server("there is no redis-server")
        folder = tmp_path / "redis"
        folder.mkdir()
        started.append(RedisServer(binaries()[max(binaries())], folder))
        started[-1].start()
        return started[-1].url

    yield url
    for server in started:
        server.stop()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def write_in_processes():
    """Starts writers, which begin together."""
    started = []

    def write(url, names, most):
        for name in names:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, url, name, str(most)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for writer in started[-len(names) :]:
            assert writer.stdout.readline() == "open\n"
        for writer in started[-len(names) :]:
            writer.stdin.write("\n")
            writer.stdin.flush()
        return started[-len(names) :]

    yield write
    for writer in started:
        writer.kill()
        writer.communicate()


async def test_three_processes_lose_no_record_and_no_count(write_in_processes, tmp_path):
    url = f"json:{tmp_path}/shared"
    names = ["one", "two", "three"]
    for writer in write_in_processes(url, names, 300):
        writer.communicate()
        assert writer.returncode == 0
    async with JSONStore(url) as store:
        assert len(await store.browse("results", limit=10_000)) == 900
        for name in names:
            found = await store.browse("results", label=name, limit=10_000)
            assert [record.key for record in found] == [f"{name}/{n}" for n in range(299, -1, -1)]
        assert await store.totals("metrics") == {
            "all": {"records": 900},
            **{name: {"records": 300} for name in names},
        }


async def test_writers_killed_at_any_moment_leave_whole_writes_only(write_in_processes, tmp_path):
    url = f"json:{tmp_path}/shared"
    luck = random.Random(1)
    reported = {}
    for turn in range(8):
        writers = write_in_processes(url, [f"{turn}-a", f"{turn}-b"], 100_000)
        lines = [writers[0].stdout.readline() for _ in range(luck.randrange(5, 150))]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer, name in zip(writers, "ab", strict=True):
            said = "".join(lines) + writer.stdout.read()
            lines = []
            # Of the last line, a part may be missing.
            reported[f"{turn}-{name}"] = said.count("\n")
    async with JSONStore(url) as store:
        await store.write(Write("beats", "all", b"0"), Count("metrics", "check", "records", 0))
        totals = await store.totals("metrics")
        records = 0
        for name, least in reported.items():
            found = await store.browse("results", label=name, limit=100_000)
            # What was reported as written is there, and at most the write that was cut besides.
            assert len(found) in (least, least + 1)
            assert totals.get(name, {"records": 0}) == {"records": len(found)}
            records += len(found)
        assert records > 300
        assert totals["all"] == {"records": records}


@pytest.mark.parametrize("bus", ["sqlite", "redis_stream"])
def test_the_command_line_reads_what_a_worker_keeps_in_json_files(
    bus, start, run, tmp_path, redis_url
):
    (tmp_path / "shop.py").write_text(APP)
    env = {
        "EVENT_BUS_TYPE": bus,
        "STORAGE_BACKEND": "json",
        "JSON_STORAGE_DIR": str(tmp_path / "deep" / "data"),
        "OMNIDAEMON_SQLITE": str(tmp_path / "events.db"),
    }
    if bus == "redis_stream":
        env["REDIS_URL"] = redis_url()
    worker = start("worker", "shop:app", **env)
    worker.line("is ready")
    published = run("task", "publish", "--topic", "orders", "--payload", "20", "--wait", **env)
    assert published.returncode == 0, published.stderr
    assert "42" in published.stdout
    [task] = json.loads(run("task", "list", "--json", **env).stdout)
    shown = json.loads(run("task", "result", task["task_id"], "--json", **env).stdout)
    assert "42" in json.dumps(shown)
    assert "orders" in run("metrics", **env).stdout
    assert json.loads(run("health", "--json", **env).stdout)["status"] == "running"

    file = tmp_path / "deep" / "data" / "records.jsonl"
    damaged = file.read_bytes().replace(b'"collection":"results"', b'"collection":results', 1)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    file.write_bytes(damaged)
    for command in (("metrics",), ("task", "list"), ("task", "result", task["task_id"])):
        failed = run(*command, **env)
        assert failed.returncode == 1
        assert f"{file} is damaged: line" in failed.stderr
    assert file.read_bytes() == damaged
