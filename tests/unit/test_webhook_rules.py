"""The rules of webhooks: which URLs, which addresses, which signatures, what answers mean."""

import ipaddress
import json
import os
import time
from base64 import b64encode
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from omnidaemon.errors import InvalidSettings, PayloadError
from omnidaemon.webhook_rules import (
    AddressRules,
    Target,
    is_public,
    parse_target,
    retry_after,
    signature,
    signing_keys,
    verdict,
)


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://a.example", Target("https", "a.example", 443, "/"), "a.example"),
        ("HTTP://A.Example:80/x?y=1", Target("http", "a.example", 80, "/x?y=1"), "a.example"),
        (
            "https://a.example:8443/x@y",
            Target("https", "a.example", 8443, "/x@y"),
            "a.example:8443",
        ),
        ("http://a.example.:81", Target("http", "a.example", 81, "/"), "a.example:81"),
        ("https://xn--bcher-kva.example/%C3%BC", None, "xn--bcher-kva.example"),
        ("http://127.0.0.1:8000/", Target("http", "127.0.0.1", 8000, "/"), "127.0.0.1:8000"),
        ("http://[0:0::1]:8000/a", Target("http", "::1", 8000, "/a"), "[::1]:8000"),
        ("https://under_score.example/", None, "under_score.example"),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target | None, authority: str) -> None:
    found = parse_target(url)
    assert found.authority == authority
    assert target in (None, found)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (5, "as text"),
        ("", "such as https://host/path"),
        ("hooks.example/s3cret", "such as https://host/path"),
        ("ftp://hooks.example/s3cret", "such as https://host/path"),
        ("file:///etc/s3cret", "such as https://host/path"),
        ("https:///s3cret", "such as https://host/path"),
        ("https://user:s3cret@hooks.example/", "credentials"),
        ("https://s3cret@hooks.example/", "credentials"),
        ("https://@hooks.example/", "credentials"),
        ("https://hooks.example/#s3cret", "fragment"),
        ("https://hooks.example/a s3cret", "characters"),
        ("https://hooks.example\\s3cret", "characters"),
        ("https://hooks.example/\r\nX: s3cret", "characters"),
        ("https://bücher.example/s3cret", "xn--"),
        ("https://hooks.example:0/s3cret", "port 0"),
        ("https://hooks.example:65536/s3cret", "cannot be read"),
        ("https://hooks.example:s3cret/", "cannot be read"),
        ("https://[::1/s3cret", "cannot be read"),
        ("https://-a.example/s3cret", "no host name"),
        ("https://a..example/s3cret", "no host name"),
        (f"https://{'a' * 64}.example/s3cret", "no host name"),
        ("https://hooks.example/" + "s3cret" * 400, "2,000 are allowed"),
        ("http://2130706433/s3cret", "four decimal numbers"),
        ("http://0177.0.0.1/s3cret", "four decimal numbers"),
        ("http://0x7f000001/s3cret", "four decimal numbers"),
        ("http://0x7f.0.0.0x1/s3cret", "four decimal numbers"),
        ("http://127.1/s3cret", "four decimal numbers"),
        ("http://127.0.0.1.1/s3cret", "four decimal numbers"),
        ("http://256.0.0.1/s3cret", "four decimal numbers"),
        ("http://1.2.3.08/s3cret", "four decimal numbers"),
        ("http://[::1::2]/s3cret", "the webhook's URL has a"),
        ("http://[v1.a]/s3cret", "the webhook's URL has a"),
    ],
)
def test_a_url_that_is_not_usable_is_refused_without_being_shown(url: object, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        parse_target(url)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_clear_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://host/{text}"):
        try:
            target = parse_target(url)
        except PayloadError:
            continue
        assert target.host
        assert target.path.startswith("/")
        assert target.path.isascii()


def test_what_is_shown_of_a_url_has_no_path_and_no_query() -> None:
    assert parse_target("https://a.example:444/s3cret?s3cret=1").shown == "https://a.example:444"


PRIVATE = """\
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1
    169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.8 192.0.0.170 192.0.2.1
    192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:2::1
    2001:10::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd12:3456::1
    fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 4000::1
"""

PUBLIC = """\
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 93.184.215.14 100.63.255.255 100.128.0.1 126.0.0.1
    128.0.0.1 169.253.0.1 169.255.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.167.0.1 198.17.0.1
    198.20.0.1 223.255.255.255
    2606:4700::1111 2a00:1450:4001::1 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_what_is_not_everybodys_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_what_is_everybodys_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(address) and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_loopback


def target(host: str = "hooks.example", port: int = 443) -> Target:
    return Target("https", host, port, "/")


def test_one_address_that_is_not_public_refuses_all() -> None:
    rules = AddressRules()
    assert rules.refusal(target(), ["8.8.8.8", "2606:4700::1111"]) is None
    refusal = rules.refusal(target(), ["8.8.8.8", "10.0.0.1"])
    assert refusal == "hooks.example is at 10.0.0.1, which is no public address"


@pytest.mark.parametrize(
    ("allow", "address", "allowed"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "192.168.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["::1"], "::1", True),
        (["fd00::/8"], "fd12::1", True),
        (["hooks.example"], "10.1.2.3", True),
        (["HOOKS.example."], "10.1.2.3", True),
        (["example"], "10.1.2.3", False),
        (["other.example"], "10.1.2.3", False),
    ],
)
def test_hosts_and_networks_may_be_allowed(allow: list[str], address: str, allowed: bool) -> None:
    assert (AddressRules(allow).refusal(target(), [address]) is None) == allowed


def test_ports_of_other_protocols_are_refused_unless_the_host_is_allowed() -> None:
    assert AddressRules().refusal(target(port=25), ["8.8.8.8"]) == "port 25 is another protocol's"
    for port in (80, 443, 1024, 8443, 65535):
        assert AddressRules().refusal(target(port=port), ["8.8.8.8"]) is None
    assert AddressRules(["8.8.8.8"]).refusal(target(port=25), ["8.8.8.8"]) is None
    assert AddressRules(["hooks.example"]).refusal(target(port=25), ["8.8.8.8"]) is None


def secret(size: int = 32) -> str:
    return "whsec_" + b64encode(os.urandom(size)).decode()


def test_a_signature_verifies_with_each_of_two_secrets_and_no_third() -> None:
    old, new, other = secret(), secret(24), secret()
    now, body = int(time.time()), json.dumps({"a": "ü"}).encode()
    keys = signing_keys((new, old))
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(keys, "msg_1", now, body),
    }
    assert len(headers["webhook-signature"].split(" ")) == 2
    for known in (new, old, old.removeprefix("whsec_")):
        assert Webhook(known).verify(body, headers) == {"a": "ü"}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)
    for change in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(now + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(new).verify(body, {**headers, **change})


_SHORT = "whsec_" + b64encode(b"S3CRET" * 3 + b"short").decode()  # 23 bytes


@pytest.mark.parametrize("bad", ["", "whsec_", "S3CRET", "whsec_S3CRET!", _SHORT])
def test_a_secret_that_is_none_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(InvalidSettings, match="OMNIDAEMON_WEBHOOK_SECRET: secret 2 of 2") as caught:
        signing_keys((secret(), bad))
    assert not bad.removeprefix("whsec_") or bad.removeprefix("whsec_") not in str(caught.value)


def test_a_secret_may_lack_its_padding() -> None:
    assert signing_keys((secret(32).rstrip("="),))


@pytest.mark.parametrize(
    ("statuses", "meaning"),
    [
        ((200, 201, 202, 204, 299), "delivered"),
        ((408, 425, 429, 500, 502, 503, 504, 599), "again"),
        ((300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422), "never"),
    ],
)
def test_a_status_means(statuses: tuple[int, ...], meaning: str) -> None:
    assert {verdict(status) for status in statuses} == {meaning}


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("100000", 3600),
        ("9" * 60, 3600),
        ("9" * 5000, None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW + 90, usegmt=True).replace("GMT", "-0000"), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        (formatdate(NOW + 90_000, usegmt=True), 3600),
        ("Tue, 14 Nov 2023 25:61:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_within_a_bound(
    text: str | None, seconds: float | None
) -> None:
    assert retry_after(text, NOW, most=3600) == seconds
