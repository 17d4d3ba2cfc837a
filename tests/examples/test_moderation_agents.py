"""The moderator and the reviewer: what becomes of a file, of a repeat, and of a model's opinion."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import msgspec
import pytest

from examples.content_moderation.app import app
from examples.content_moderation.reviews import main as show_reviews
from examples.content_moderation.reviews import opened, store
from examples.content_moderation.settings import load
from examples.content_moderation.values import TASKS, FileTask, Verdict
from omnidaemon import ConfigurationError, TaskFailed
from omnidaemon.testing import serve
from tests.examples.conftest import moderated, rows

pytestmark = pytest.mark.usefixtures("home")

BAD = "Kill all the foreigners"


def test_each_verdict_ends_as_a_row_and_only_the_bad_file_is_moved(home, write):
    files = [
        write("The minutes of the meeting.", "1.txt"),
        write("Mail me: ada@example.org", "2.txt"),
        write(BAD, "3.txt"),
        write(b"\xff\x00\xfe", "4.bin"),
    ]
    verdicts = moderated(
        *[FileTask(str(file), metadata={"n": n}) for n, file in enumerate(files)],
        tenant_id="acme",
        source="test",
    )
    actions = [verdict["action"] for verdict in verdicts]
    assert actions == ["allow", "review", "quarantine", "review"]
    assert rows(home) == [
        ("passed", "nothing found"),
        ("open", "medium pii/email"),
        ("removed", "high hate/violence"),
        ("open", "medium reading/unreadable"),
    ]
    assert {row[:2] for row in rows(home, "tenant_id, source")} == {("acme", "test")}
    assert [json.loads(row[0])["n"] for row in rows(home, "metadata")] == [0, 1, 2, 3]
    assert [file.exists() for file in files] == [True, True, False, True]
    moved = Path(verdicts[2]["quarantined_to"])
    assert moved.read_text() == BAD
    sidecar = json.loads((home / "quarantine/verdicts" / f"{moved.parent.name}.json").read_bytes())
    assert sidecar == verdicts[2]
    everything = "".join(map(str, rows(home, "*"))) + json.dumps(verdicts)
    assert "ada@example.org" not in everything


def test_a_repeat_after_the_move_finds_the_same_verdict(home, write, monkeypatch):
    file = write(BAD)

    async def crash_once(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("after the work")
        return result

    monkeypatch.setattr(app, "middleware", (crash_once,))
    (verdict,) = moderated(FileTask(str(file)))
    assert Path(verdict["quarantined_to"]).read_text() == BAD
    assert rows(home) == [("removed", "high hate/violence")]


def test_a_file_that_is_gone_is_no_failure_and_other_things_are(home, write, tmp_path, monkeypatch):
    assert moderated(FileTask(str(tmp_path / "gone.txt"))) == [None]
    link = write("x").with_name("link.txt")
    link.symlink_to("note.txt")
    pipe = link.with_name("pipe.txt")
    os.mkfifo(pipe)
    monkeypatch.setenv("MODERATION_FOLDERS", str(tmp_path / "inbox"))
    for path, reason in [
        (str(link), "no regular file"),
        (str(pipe), "no regular file"),
        ("note.txt", "not absolute"),
        ("/etc/hostname", "in none of MODERATION_FOLDERS"),
        (f"{tmp_path}/inbox/../../secret", "in none of MODERATION_FOLDERS"),
    ]:
        with pytest.raises(BaseExceptionGroup) as raised:
            moderated(FileTask(path))
        assert raised.group_contains(TaskFailed, match=reason)
    assert moderated(FileTask(str(link.with_name("note.txt"))))[0]["action"] == "allow"


def test_a_newer_verdict_of_an_event_replaces_the_row_and_an_older_one_does_not(home):
    def verdict(at: float) -> Verdict:
        return Verdict("e1", "/x", "0", "allow", [], at)

    with opened(home / "moderation.db") as db:
        for at, status in [(2.0, "open"), (2.0, "repeat"), (1.0, "older"), (3.0, "passed")]:
            store(db, verdict(at), status, "s")
            (now,) = db.execute("SELECT status FROM moderation_reviews").fetchone()
            assert now == ("passed" if at == 3 else "open")


def test_the_table_is_shown(home, write, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reviews"])
    with pytest.raises(SystemExit):
        show_reviews()
    file = write("damn damn")
    moderated(FileTask(str(file)))
    capsys.readouterr()
    show_reviews()
    assert f"passed   {file}\n         low profanity/mild × 2\n" in capsys.readouterr().out


# Settings and counters


def test_settings_come_from_the_environment_with_defaults_below_home(tmp_path):
    default = load({"HOME": "ignored"})
    assert default.database == Path.home() / ".omniagent/moderation.db"
    assert (default.model, default.metrics_port, default.folders) == (None, None, ())
    named = load({"MODERATION_DB": "~/x.db", "OPENAI_API_KEY": "k", "MODERATION_HOME": "/h"})
    assert (named.database, named.quarantine) == (Path.home() / "x.db", Path("/h/quarantine"))
    assert msgspec.to_builtins(named.model)["url"] == "https://api.openai.com/v1"
    for wrong in ("many", "70000", "-1"):
        with pytest.raises(ConfigurationError, match="MODERATION_METRICS_PORT"):
            load({"MODERATION_METRICS_PORT": wrong})


def test_counters_are_served_where_prometheus_looks(home, write, monkeypatch, caplog):
    monkeypatch.setenv("MODERATION_METRICS_PORT", "0")
    text = ""

    async def body() -> None:
        nonlocal text
        async with serve(app) as served:
            await app.send(TASKS, FileTask(str(write(BAD))))
            await served.settled()
            line = next(m for m in caplog.messages if "/metrics" in m)
            text = await anyio.to_thread.run_sync(_get, line.split()[-1])

    anyio.run(body)
    assert 'moderation_files_total{action="quarantine"} 1.0' in text
    assert 'moderation_findings_total{severity="high",tool="hate"} 1.0' in text
    assert 'moderation_reviews_total{status="removed"} 1.0' in text


def _get(url: str) -> str:
    with urlopen(url) as answer:
        return str(answer.read().decode())


def test_counters_without_the_package_or_the_port_are_a_clear_error(home, monkeypatch):
    import socket
    import sys

    from examples.content_moderation.metrics import counting

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"PORT={port} cannot be used"), counting(port):
            pass
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match="its extra `metrics`"), counting(0):
        pass
