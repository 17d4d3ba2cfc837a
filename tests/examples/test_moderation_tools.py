"""The moderator's tools see what they shall see, and not what only looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples.content_moderation.pii import iban_is_valid, luhn_is_valid, pii, redact
from examples.content_moderation.tools import hate, profanity, spam
from examples.content_moderation.values import Finding, Severity, decide, stricter

Tool = Callable[[str], list[Finding]]


def seen(tool: Tool, text: str) -> list[tuple[str, Severity]]:
    return [(finding.category, finding.severity) for finding in tool(text)]


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("write to ada.lovelace+x@mail.example.co.uk, please", "email"),
        ("pay with 4111 1111 1111 1111 12/27", "card"),
        ("pay with 5500-0000-0000-0004.", "card"),
        ("Amex 378282246310005", "card"),
        ("order 12 of 4111111111111111", "card"),
        ("IBAN DE89 3704 0044 0532 0130 00 is ours", "iban"),
        ("GB82WEST12345698765432", "iban"),
        ("call +49 (30) 901820", "phone"),
        ("call 0044 20 7946 0958", "phone"),
        ("call (415) 555-0132 today", "phone"),
        ("call 030/901 820 12", "phone"),
        ("from 8.8.8.8 at noon", "ip"),
        ("from 2001:4860:4860::8888", "ip"),
        ("c\u200bard 4111\u200b111111111111", "card"),
        ("４１１１１１１１１１１１１１１１", "card"),
    ],
)
def test_personal_data_is_found_once(text: str, category: str):
    assert [kind for kind, _ in seen(pii, text)] == [category]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "0000 0000 0000 0000",
        "4444444444444444",
        "DE88 3704 0044 0532 0130 00",  # the checksum is wrong
        "at 127.0.0.1, 192.168.1.1 and 300.1.1.1",
        "version 8.8.8.8 and v1.2.3.4",
        "on 2026-11-21 at 12:30:45, or 21.11.2026",
        "unix time 1712345678, number 20261121",
        "pi is 3.14159265358979",
        "std::vector and aa:bb:cc:dd:ee:ff",
        "user@localhost, @name, a@b",
        "1,234,567,890",
    ],
)
def test_what_only_looks_like_personal_data_is_none(text: str):
    assert seen(pii, text) == []


def test_no_evidence_shows_the_data_itself():
    text = "ada@example.org\n4111111111111111\nDE89370400440532013000\n+49 30 901820\n8.8.8.8"
    findings = pii(text)
    assert [finding.line for finding in findings] == [1, 2, 3, 4, 5]
    assert [finding.severity for finding in findings] == ["medium", "high", "high", "medium", "low"]
    shown = " ".join(finding.evidence for finding in findings)
    assert not any(secret in shown for secret in ("ada@", "411111", "3704", "9018", "8.8"))
    assert redact(text) == "[email]\n[card]\n[iban]\n[phone]\n[ip]"


def test_checksums_are_those_of_the_standards():
    assert [luhn_is_valid(number) for number in ("79927398713", "79927398710")] == [True, False]
    assert iban_is_valid("NL91ABNA0417164300")
    assert not iban_is_valid("NL91ABNA0417164301")
    assert not iban_is_valid("NL91ABNA04171643")
    assert not iban_is_valid("XX91ABNA0417164300")


def test_many_signs_of_spam_weigh_more_than_one():
    assert seen(spam, "You have won! Now click here.") == [("signs", "medium")]
    loud = "ACT NOW!!! You have won $1,000,000, free money: https://bit.ly/x"
    assert seen(spam, loud) == [("signs", "high")]
    (finding,) = spam(loud)
    assert "'free money'" in finding.evidence
    assert "a shortened link" in finding.evidence
    assert seen(spam, "Please click here to see the minutes.") == [("signs", "low")]
    assert seen(spam, "buy this very thing\n" * 5) == [("signs", "low")]


@pytest.mark.parametrize(
    "text",
    [
        "The minutes of NATO and UNESCO are at https://example.org/a",
        "Contact now, and you have wondered.",
        "- [ ] one\n- [ ] one\n- [ ] one\n- [ ] one\n",
        "",
    ],
)
def test_ordinary_text_is_no_spam(text: str):
    assert seen(spam, text) == []


@pytest.mark.parametrize(
    "text", ["shit", "SHIT!", "sh1t", "$hit", "shiiiit", "sh*t", "bullshit", "fucking", "ѕһit shіt"]
)
def test_strong_words_are_found_in_their_disguises(text: str):
    assert ("strong", "medium") in seen(profanity, text)


@pytest.mark.parametrize(
    "text",
    ["Scunthorpe", "shitake and Matsushita", "a class assassin", "grape scraper", "5417 7175"],
)
def test_words_that_contain_others_are_left_alone(text: str):
    assert seen(profanity, text) == []


def test_the_third_strong_word_makes_it_serious_and_none_is_repeated():
    assert seen(profanity, "damn") == [("mild", "low")]
    assert {severity for _, severity in seen(profanity, "shit fuck\nbitch")} == {"high"}
    finding = profanity("a\nb fuck")[0]
    assert (finding.evidence, finding.line) == ("f***", 2)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Kill all the foreigners", [("violence", "high")]),
        ("Those refugees are nothing but vermin!", [("contempt", "high")]),
        ("It is fine. Women are so inferior", [("contempt", "high")]),
        ("He shouted 'kill all foreigners' and was convicted", [("violence", "medium")]),
        ("Nobody may say that immigrants are parasites.", [("contempt", "medium")]),
        ("Immigrants are welcome. Rats are animals.", []),
        ("We shoot photos; women are engineers.", []),
    ],
)
def test_hate_is_told_from_reports_of_it(text: str, found: list[tuple[str, str]]):
    assert seen(hate, text) == found


def test_the_worst_finding_decides_and_small_ones_add_up():
    def of(*severities: Severity) -> str:
        return decide(Finding("t", "c", severity, "") for severity in severities)

    assert of() == of("low") == of("low", "low") == "allow"
    assert of("medium") == of("low", "low", "low") == "review"
    assert of("low", "high") == "quarantine"
    assert stricter("allow", "review") == stricter("review", "allow") == "review"
    assert stricter("quarantine", "allow") == "quarantine"
