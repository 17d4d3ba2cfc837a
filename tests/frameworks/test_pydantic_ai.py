"""The example with PydanticAI: orders read and booked, mails without one, a busy model."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.model_server.server import ModelServer
from omnidaemon import TaskFailed
from tests.frameworks.conftest import Example

pytestmark = pytest.mark.timeout(400)

MAIL = {"text": "Customer: Grace Hopper\nArticle: paper clips\nQuantity: 200"}
ORDER = {"customer": "Grace Hopper", "article": "paper clips", "quantity": 200, "price": 0.05}


def test_its_readme_tells_what_happens(example: Example):
    example.follow_readme("pydantic_ai")


def test_an_order_is_read_with_the_price_that_the_tool_gave_and_booked(example: Example):
    example.worker("pydantic_ai")
    assert example.ask("mail.received", MAIL) == ORDER
    assert "0.05" in example.returned("article_price")[0]
    booked = example.record("order.read").value
    number = example.record("mail.received").task_id
    assert booked == {"number": number, "customer": "Grace Hopper", "total": 10.0}


def test_a_mail_without_an_order_is_a_dead_letter_after_one_run(example: Example):
    example.worker("pydantic_ai")
    with pytest.raises(TaskFailed, match="UnexpectedModelBehavior"):
        example.ask("mail.received", {"text": "Article: paper clips, please."})
    assert example.record("mail.received", "dead").attempts == 1


def test_a_busy_model_is_asked_again_by_the_next_run(tmp_path: Path):
    # OpenAI's client asks three times before it gives up.
    with ModelServer(busy=3) as model, Example(tmp_path, model) as example:
        example.worker("pydantic_ai")
        assert example.ask("mail.received", MAIL) == ORDER
        assert example.record("mail.received").attempts == 2
