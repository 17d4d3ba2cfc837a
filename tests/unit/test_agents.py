"""Registration: names, routers, and values that are refused."""

import math
from functools import partial

import pytest

from omnidaemon import AgentRouter, App, Backoff
from omnidaemon.errors import ConfigurationError, DuplicateAgent, InvalidSettings


async def charge(order: dict) -> None: ...


class Greeter:
    async def __call__(self, content): ...


def test_the_decorated_function_stays_itself_and_gives_the_name():
    app = App()
    assert app.agent("order.placed")(charge) is charge
    assert [(a.topic, a.name) for a in app.agents] == [("order.placed", "charge")]


def test_a_default_name_is_the_qualified_name_without_where_it_was_defined():
    def local(content): ...

    app = App()
    for handler in (local, Greeter(), partial(charge)):
        app.agent("topic.a")(handler)
    assert [agent.name for agent in app.agents] == ["local", "Greeter", "charge"]


def test_a_lambda_wants_a_name():
    app = App()
    with pytest.raises(InvalidSettings, match="name="):
        app.agent("a")(lambda content: None)
    app.agent("a", name="short")(lambda content: None)


def test_the_description_is_the_first_line_of_the_docstring():
    app = App()

    @app.agent("a")
    async def handler(content):
        """Says hello.

        And more.
        """

    assert app.agents[0].description == "Says hello."


def test_a_router_puts_its_prefix_before_the_topics():
    orders = AgentRouter(prefix="order.")
    orders.agent("placed")(charge)
    app = App()
    app.include(orders)
    app.include(orders, prefix="eu.")
    assert [a.topic for a in app.agents] == ["order.placed", "eu.order.placed"]


def test_one_function_may_serve_several_topics_but_a_name_only_once_per_topic():
    app = App()
    app.agent("a")(charge)
    app.agent("b")(charge)
    with pytest.raises(DuplicateAgent, match=r"'charge'.*'a'"):
        app.agent("a")(charge)
    app.agent("a", name="other")(charge)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"consumers": 0}, "consumers=0"),
        ({"consumers": True}, "consumers=True"),
        ({"consumers": 2.0}, "consumers"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"lease": -5}, "lease"),
        ({"lease": math.inf}, "lease"),
        ({"retry_on": "ValueError"}, "exception classes"),
        ({"give_up_on": [ValueError()]}, "exception classes"),
        ({"start": "middle"}, "start"),
        ({"name": "a b"}, "agent name"),
        ({"reply_to": "a b"}, "topic name"),
        ({"reply_to": "omni.x"}, "reserved"),
        ({"backoff": 0}, "backoff=0: give a Backoff"),
        ({"dead_letter": "no"}, "True or False"),
        ({"timeout_mode": "abandn"}, "cancel, abandon"),
        ({"tools": "search"}, "list of names"),
        ({"tools": [1]}, "list of names"),
        ({"description": 5}, "text"),
    ],
)
def test_values_without_sense_are_refused_at_registration(bad, words):
    with pytest.raises(InvalidSettings, match=words):
        App().agent("a", **bad)(charge)


@pytest.mark.parametrize("topic", ["", "a b", "omni.secret", "topic", "a/b", "{a}"])
def test_topics_that_cannot_be_are_refused_at_registration(topic):
    with pytest.raises(ConfigurationError, match="topic"):
        App().agent(topic)(charge)


@pytest.mark.parametrize("topic", [charge, None, 5])
def test_a_decorator_without_a_topic_says_how_to_write_it(topic):
    with pytest.raises(InvalidSettings, match=r"write @app\.agent\("):
        App().agent(topic)


@pytest.mark.parametrize(
    "bad",
    [
        {"transport": ["redis://:hush@localhost"]},
        {"store": object()},
        {"settings": {"redis_url": "redis://:hush@localhost"}},
    ],
)
def test_an_app_of_what_cannot_be_is_refused_at_once_and_shows_no_password(bad):
    with pytest.raises(InvalidSettings, match=f"{next(iter(bad))}= is a") as refused:
        App("shop", **bad)
    assert "hush" not in str(refused.value)


def test_a_backoff_of_text_is_refused():
    with pytest.raises(InvalidSettings, match="give numbers"):
        Backoff(initial="1")


def test_a_timeout_on_a_sync_handler_must_be_meant():
    def sync(content): ...

    with pytest.raises(InvalidSettings, match="abandon"):
        App().agent("a", timeout=5)(sync)
    App().agent("a", timeout=5, timeout_mode="abandon")(sync)
