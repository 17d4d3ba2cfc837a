"""What the help desk does, tried without a server and without waiting."""

from pathlib import Path

import pytest
from desk import app

from omnidaemon import TaskFailed
from omnidaemon.testing import run, serve


@pytest.fixture(autouse=True)
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a price list in it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "prices.txt"
    file.write_text("tea 3.50")
    return file


def test_a_question_is_answered_from_the_price_list() -> None:
    async def body() -> None:
        async with serve(app):
            question = {"customer": "Ada", "text": "What is tea?"}
            assert "tea 3.50" in await app.request("question.asked", question, timeout=5)

    run(body)


def test_a_busy_weather_service_is_asked_again() -> None:
    async def body() -> None:
        async with serve(app) as served:
            question = {"customer": "Ada", "text": "How is the weather?"}
            task = await app.send("question.asked", question)
            await served.settled()
            assert (await task.results())["answer"].attempts == 2

    run(body)


def test_without_a_price_list_a_question_is_given_up(prices: Path) -> None:
    prices.unlink()

    async def body() -> None:
        async with serve(app):
            question = {"customer": "Ada", "text": "What is tea?"}
            with pytest.raises(TaskFailed, match=r"prices\.txt"):
                await app.request("question.asked", question, timeout=60)

    run(body)
