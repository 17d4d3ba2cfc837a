"""The moderator's tool for personal data: e-mail, phone, card, IBAN and IP addresses.

What has a checksum is checked, so that an order number is no card. Evidence is masked: findings
travel to other agents, logs and tables.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from examples.content_moderation.tools import line_of, plain
from examples.content_moderation.values import Finding, Severity


class Span(Struct, frozen=True):
    """A piece of personal data in a text."""

    start: int
    end: int
    category: str
    evidence: str


def pii(text: str) -> list[Finding]:
    """A finding for each: cards and IBANs high, e-mail and phone medium, IP addresses low."""
    text = plain(text)
    return [
        Finding("pii", span.category, SEVERITY[span.category], span.evidence, line_of(text, at))
        for span in spans(text)
        for at in [span.start]
    ]


def redact(text: str) -> str:
    """The text with a word in brackets for each piece of personal data."""
    text = plain(text)
    for span in reversed(spans(text)):
        text = f"{text[: span.start]}[{span.category}]{text[span.end :]}"
    return text


def spans(text: str) -> list[Span]:
    """All of them, in order; what one kind has taken no later kind takes again."""
    found: list[Span] = []
    for find in (_ibans, _cards, _emails, _addresses, _phones):
        for span in find(text):
            if all(span.end <= other.start or other.end <= span.start for other in found):
                found.append(span)
    return sorted(found, key=lambda span: span.start)


SEVERITY: dict[str, Severity] = {
    "iban": "high",
    "card": "high",
    "email": "medium",
    "phone": "medium",
    "ip": "low",
}

# IBAN, ISO 13616: the country says the length, the whole is 1 modulo 97.

_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22,
    "DK": 18, "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GI": 23, "GR": 27, "HR": 21,
    "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}")


def iban_is_valid(iban: str) -> bool:
    """Whether its length and its checksum are right; without spaces."""
    if len(iban) != _LENGTHS.get(iban[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def _ibans(text: str) -> Iterator[Span]:
    for begin in _IBAN.finditer(text):
        end = _after(text, begin.start(), _LENGTHS.get(begin[0][:2], 0), str.isalnum, " ")
        iban = text[begin.start() : end].replace(" ", "")
        if iban.isascii() and iban_is_valid(iban):
            yield Span(begin.start(), end, "iban", f"{iban[:2]}… ending {iban[-2:]}")


def _after(text: str, start: int, count: int, counts: Callable[[str], bool], between: str) -> int:
    """Where `count` signs that count end, single separators between; `start` if they do not."""
    at, left = start, count
    while left:
        if at < len(text) and counts(text[at]):
            left -= 1
        elif not (at + 1 < len(text) and text[at] in between and counts(text[at + 1])):
            return start
        at += 1
    return start if at < len(text) and counts(text[at]) else at


# Cards, ISO/IEC 7812: 13 to 19 digits, the last of which is the Luhn check digit.

_GROUP = re.compile(r"(?<![0-9.,])(?=[2-6])")


def luhn_is_valid(digits: str) -> bool:
    """Whether the last digit is the right one."""
    doubled = (int(digit) * (2 if n % 2 else 1) for n, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _cards(text: str) -> Iterator[Span]:
    taken = 0
    for begin in _GROUP.finditer(text):
        start = begin.start()
        for count in range(19, 12, -1) if start >= taken else ():
            end = _after(text, start, count, _is_digit, " -")
            digits = re.sub("[ -]", "", text[start:end])
            if digits and len(set(digits)) > 1 and luhn_is_valid(digits):
                yield Span(start, end, "card", f"ending {digits[-4:]}")
                taken = end
                break


def _is_digit(sign: str) -> bool:
    return sign in "0123456789"


_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")


def _emails(text: str) -> Iterator[Span]:
    for hit in _EMAIL.finditer(text):
        name, _, host = hit[0].partition("@")
        yield Span(hit.start(), hit.end(), "email", f"{name[0]}***@{host}")


_V4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])")
_V6 = re.compile(r"(?<![\w:])[0-9A-Fa-f:]{6,39}(?![\w:])")
_VERSION = re.compile(r"(?:version|release|\bv)\.?\s*$", re.IGNORECASE)


def _addresses(text: str) -> Iterator[Span]:
    """Public ones: 127.0.0.1 and 192.168.1.1 are nobody's."""
    for pattern in (_V4, _V6):
        for hit in pattern.finditer(text):
            if pattern is _V6 and hit[0].count(":") < 4:
                continue
            if _VERSION.search(text, max(0, hit.start() - 12), hit.start()):
                continue
            try:
                address = ipaddress.ip_address(hit[0])
            except ValueError:
                continue
            if address.is_global:
                first = re.split("[.:]", hit[0])[0]
                yield Span(hit.start(), hit.end(), "ip", f"IPv{address.version} {first}…")


_PHONE = re.compile(r"(?<![\w.,+/-])(?:\+|\()?[0-9][0-9 ()/.-]{6,20}[0-9](?![\w]|[.,/-][0-9])")
_AMERICAN = re.compile(r"\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}")
_DATE = re.compile(r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4}")


def _phones(text: str) -> Iterator[Span]:
    """In the international form, with a leading zero and separators, or as in North America."""
    for hit in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", hit[0])
        abroad = re.match(r"\+|00[1-9]", hit[0]) is not None and 8 <= len(digits) <= 17
        at_home = re.match(r"\(?0[1-9]", hit[0]) is not None and 9 <= len(digits) <= 12
        separated = digits != hit[0]
        if _DATE.match(hit[0]):
            continue
        if abroad or (at_home and separated) or _AMERICAN.fullmatch(hit[0]):
            yield Span(hit.start(), hit.end(), "phone", f"ending {digits[-2:]}")
