"""One attempt to post to a webhook, to real servers: where it goes, and when it ends."""

import logging
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import trustme

from omnidaemon import posting
from omnidaemon.posting import Answer, HttpSender, Post, Undeliverable, Undelivered
from omnidaemon.webhook_rules import Target, parse_target
from tests.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio

LOCAL = ("127.0.0.0/8",)
HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1"}


def post(url: str, body: bytes = b'{"a": 1}') -> Post:
    return Post(parse_target(url), HEADERS, body)


class Resolver:
    """Answers in turn, the last answer from then on."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[tuple[str, int]] = []
        self._answers = list(answers)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that anything in this process has had looked up."""
    names: list[str] = []
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        names.append(host.decode() if isinstance(host, bytes) else host)
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


async def test_the_body_and_the_headers_arrive_as_they_are() -> None:
    with Receiver(lambda _: Reply(202, {"Retry-After": "5"})) as receiver:
        answer = await HttpSender(LOCAL)(post(f"{receiver.url}/hooks/1?a=%20b&c", b"\x00\xff"))
        (request,) = receiver.requests
    assert answer == Answer(202, "5")
    assert (request.method, request.path, request.body) == (
        "POST",
        "/hooks/1?a=%20b&c",
        b"\x00\xff",
    )
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-type": "application/json",
        "webhook-id": "msg_1",
        "content-length": "2",
        "connection": "close",
    }


async def test_the_checked_address_is_used_and_the_name_is_asked_for_once(
    looked_up: list[str],
) -> None:
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    sender = HttpSender(LOCAL, resolve=resolver)
    with Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/"
        assert (await sender(post(url))).status == 200
        with pytest.raises(Undeliverable, match=r"hooks\.example is at 10\.0\.0\.1"):
            await sender(post(url))
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
    assert len(receiver.requests) == 1
    assert len(resolver.asked) == 2
    assert not [name for name in looked_up if "hooks" in name]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://localhost:{port}/",
        "http://localhost.:{port}/",
    ],
)
async def test_this_machine_is_not_reached_unless_it_is_allowed(url: str) -> None:
    with Receiver() as receiver:
        with pytest.raises(Undeliverable, match="OMNIDAEMON_WEBHOOK_ALLOW"):
            await HttpSender()(post(url.format(port=receiver.port)))
        assert not receiver.requests
        answer = await HttpSender([*LOCAL, "::1", "localhost"])(
            post(url.format(port=receiver.port).replace("[::ffff:127.0.0.1]", "localhost"))
        )
        assert answer.status == 200


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f000001", "127.1"])
async def test_an_odd_form_of_a_private_address_is_refused_where_it_is_resolved_too(
    host: str,
) -> None:
    with pytest.raises(Undeliverable, match=r"is at 127\.0\.0\.1"):
        await HttpSender()(Post(Target("http", host, 80, "/"), HEADERS, b""))


async def test_a_name_with_a_private_address_among_others_is_refused() -> None:
    for addresses in (["8.8.8.8", "192.168.0.1"], ["169.254.169.254"], ["::ffff:10.0.0.1"]):
        with pytest.raises(Undeliverable, match="no public address"):
            await HttpSender(resolve=Resolver(addresses))(post("https://hooks.example/"))


async def test_an_address_of_version_6_is_reached() -> None:
    try:
        receiver = Receiver(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with receiver:
        with pytest.raises(Undeliverable, match="is at ::1"):
            await HttpSender()(post(receiver.url))
        assert (await HttpSender(["::1"])(post(receiver.url))).status == 200
    assert receiver.requests[0].headers["host"] == f"[::1]:{receiver.port}"


async def test_the_next_address_is_tried_if_one_lets_nobody_in() -> None:
    with Receiver() as receiver:
        sender = HttpSender(LOCAL, resolve=Resolver(["127.0.0.2", "127.0.0.1"]))
        assert (await sender(post(f"http://hooks.example:{receiver.port}/"))).status == 200


@contextmanager
def tls_receiver(name: str) -> Iterator[tuple[Receiver, ssl.SSLContext, list[str | None]]]:
    """A server with a certificate for the name, who trusts it, and the names it was asked for."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(theirs)
    authority.configure_trust(ours)
    asked: list[str | None] = []
    theirs.sni_callback = lambda _sock, asked_for, _context: asked.append(asked_for)
    with Receiver(tls=theirs) as receiver:
        yield receiver, ours, asked


async def test_tls_goes_by_the_name_though_the_address_is_fixed() -> None:
    with tls_receiver("hooks.example") as (receiver, trusted, asked):
        sender = HttpSender(LOCAL, resolve=Resolver(["127.0.0.1"]), tls=trusted)
        assert (await sender(post(f"https://hooks.example:{receiver.port}/"))).status == 200
        assert asked == ["hooks.example"]
        with pytest.raises(Undelivered, match="certificate"):
            await sender(post(f"https://other.example:{receiver.port}/"))
        with pytest.raises(Undelivered, match="certificate"):
            await HttpSender(LOCAL, resolve=Resolver(["127.0.0.1"]))(
                post(f"https://hooks.example:{receiver.port}/")
            )
        assert len(receiver.requests) == 1


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with (
        Receiver() as inside,
        Receiver(lambda _: Reply(307, {"Location": f"{inside.url}/"})) as receiver,
    ):
        assert (await HttpSender(LOCAL)(post(receiver.url))).status == 307
        assert not inside.requests


async def test_an_answer_without_end_is_cut_off_and_counts_by_its_status() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65_536)

    with Receiver(lambda _: Reply(200, body=endless())) as receiver:
        started = time.monotonic()
        assert (await HttpSender(LOCAL)(post(receiver.url))).status == 200
        assert time.monotonic() - started < posting.TOTAL_SECONDS
    assert receiver.sent < 20_000_000  # what fits into the buffers on the way


async def test_an_answer_that_drips_is_not_waited_for() -> None:
    with Receiver() as receiver:

        def dripping() -> Iterator[bytes]:
            while not receiver.closing.wait(0.05):
                yield b"."

        receiver._answer = lambda _: Reply(200, body=dripping())
        started = time.monotonic()
        assert (await HttpSender(LOCAL)(post(receiver.url))).status == 200
        assert time.monotonic() - started < posting.BODY_SECONDS + 2


async def test_a_status_that_comes_at_the_last_moment_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posting, "TOTAL_SECONDS", 0.8)
    with Receiver() as receiver:

        def body() -> Iterator[bytes]:
            while not receiver.closing.wait(0.05):
                yield b"."

        receiver._answer = lambda _: Reply(200, body=body())
        assert posting.BODY_SECONDS > 0.8
        assert (await HttpSender(LOCAL)(post(receiver.url))).status == 200


async def test_an_answer_that_breaks_off_after_its_status_counts() -> None:
    with Receiver(lambda _: Reply(200, {"Content-Length": "50"}, b"short")) as receiver:
        assert (await HttpSender(LOCAL)(post(receiver.url))).status == 200


async def test_who_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "TOTAL_SECONDS", 0.3)
    with Receiver(lambda _: Reply(hang=True)) as receiver:
        sender = HttpSender(LOCAL)
        with pytest.raises(Undelivered, match=r"did not answer within 0\.3 s"):
            await sender(post(receiver.url))
        assert len(receiver.requests) == 1


async def test_a_name_that_takes_too_long_counts_towards_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posting, "TOTAL_SECONDS", 0.3)

    async def never(host: str, port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(Undelivered, match="did not answer within"):
        await HttpSender(resolve=never)(post("https://hooks.example/"))


async def test_what_cannot_be_reached_says_why_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.DEBUG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Undelivered, match="cannot be reached") as caught:
            await HttpSender(LOCAL)(post(f"http://127.0.0.1:{port}/s3cret?s3cret=1"))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(Undelivered, match="is not found"):
        await HttpSender()(post("https://nothing.invalid/s3cret"))
    with pytest.raises(Undelivered, match="has no address"):
        await HttpSender(resolve=Resolver([]))(post("https://hooks.example/s3cret"))
    with Receiver(lambda _: Reply(500)) as receiver:
        await HttpSender(LOCAL)(post(f"{receiver.url}/s3cret", b"s3cret"))
    assert caplog.text  # the HTTP library does log
    assert "s3cret" not in caplog.text


async def test_garbage_instead_of_http_is_undelivered() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def garbage(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"220 mail.example ESMTP\r\n")

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, garbage)
        with pytest.raises(Undelivered, match="cannot be reached"):
            await HttpSender(LOCAL)(post(f"http://127.0.0.1:{port}/"))
        group.cancel_scope.cancel()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await HttpSender(LOCAL)(post(receiver.url))
        assert len(receiver.requests) == 1
        assert not proxy.requests
