"""The second opinion: a model makes verdicts stricter, and nothing waits for it for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from examples.content_moderation import opinion, state
from examples.content_moderation.app import app
from examples.content_moderation.settings import load
from examples.content_moderation.values import TASKS, FileTask
from omnidaemon.testing import Served, run, serve
from tests.examples.conftest import moderated, rows

pytestmark = pytest.mark.usefixtures("home")

BAD = "Kill all the foreigners"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[httpx.Request]]:
    """A model that answers with the text, the status, or the error that it is given."""
    asked: list[httpx.Request] = []
    monkeypatch.setenv("OPENAI_BASE_URL", "http://model.example/v1/")
    monkeypatch.setenv("OPENAI_MODEL", "small")

    def model(said: Any) -> list[httpx.Request]:
        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            if isinstance(said, Exception):
                raise said
            if isinstance(said, int):
                return httpx.Response(said)
            return httpx.Response(200, json={"choices": [{"message": {"content": said}}]})

        class Client(httpx.AsyncClient):
            def __init__(self, **options: Any) -> None:
                super().__init__(transport=httpx.MockTransport(answer), **options)

        monkeypatch.setattr(state.httpx, "AsyncClient", Client)
        return asked

    return model


@pytest.mark.parametrize(
    ("text", "said", "action"),
    [
        ("hello", "allow", "allow"),
        ("hello", "review", "review"),
        ("hello", "quarantine", "quarantine"),
        ("call +49 30 901820", "allow", "review"),  # it makes nothing milder
    ],
)
def test_the_model_can_make_a_verdict_stricter_only(home, write, model, text, said, action):
    asked = model(json.dumps({"action": said, "reason": "so"}))
    file = write(text)
    (verdict,) = moderated(FileTask(str(file)))
    assert (verdict["action"], verdict["second_opinion"]) == (action, f"{said}: so")
    assert file.exists() == (action != "quarantine")
    (request,) = asked
    assert str(request.url) == "http://model.example/v1/chat/completions"
    assert "authorization" not in request.headers
    body = json.loads(request.content)
    assert body["model"] == "small"
    assert "901820" not in str(body)


def test_what_the_rules_remove_is_not_shown_to_the_model(home, write, model):
    asked = model("{}")
    assert moderated(FileTask(str(write(BAD))))[0]["action"] == "quarantine"
    assert asked == []


def test_the_key_is_sent_and_never_shown(home, write, model, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    asked = model(500)
    (verdict,) = _in_virtual_time(write("hello"))
    assert asked[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in json.dumps(verdict) + caplog.text + str(rows(home, "*"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (503, "none: the model answered 503"),
        (httpx.ConnectError("refused"), "none: the model cannot be reached: ConnectError"),
        ("I will not", "none: the model answered something else than was asked"),
        ('{"action": "delete"}', "none: the model answered something else than was asked"),
    ],
)
def test_without_its_answer_a_person_decides_after_some_tries(home, write, model, said, reason):
    asked = model(said)
    (verdict,) = _in_virtual_time(write("hello"))
    assert (verdict["action"], verdict["second_opinion"]) == ("review", reason)
    assert len(asked) == 3


def _in_virtual_time(file: Path) -> list[Any]:
    """For retries, whose waits need not be waited for."""

    async def body() -> Any:
        async with serve(app) as served:
            handle = await app.send(TASKS, FileTask(str(file)))
            while not (done := await _verdict(served, handle.id)):
                await anyio.sleep(0.5)
            while not await app.tasks.newest("content_moderation.reviews"):
                await anyio.sleep(0.5)
            return done

    return [run(body)]


async def _verdict(served: Served, task_id: str) -> Any:
    records = (await served.app.tasks.get(task_id)).runs.values()
    return next((record.value for record in records if record.status == "succeeded"), None)


def test_a_long_text_is_cut_before_it_is_sent(write):
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": "{}"}}]})

    async def body() -> None:
        model = load({"OPENAI_BASE_URL": "http://m"}).model
        assert model is not None
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            with pytest.raises(opinion.NoOpinion):
                await opinion.ask(client, model, "x" * 20_000)

    anyio.run(body)
    assert len(sent[0]["messages"][1]["content"]) == opinion.LONGEST
