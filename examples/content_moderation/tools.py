"""The moderator's tools for words: spam, profanity, hate. Plain functions over a text.

The lists are short and English, to show the way; hand your own to the functions, or add to them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from examples.content_moderation.values import Finding, Severity

# Letters that look like Latin ones; they count as those in words that mix the two alphabets.
_LOOKALIKES = str.maketrans("аеіорсухѕԁ", "aeiopcyxsd")
_DIGITS = str.maketrans("01345@$7", "oieasast")
_WORD = re.compile(r"[\w@$*]+(?:['’][\w]+)*")


def plain(text: str) -> str:
    """The text without its disguises: odd forms of letters, invisible signs, mixed alphabets."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return re.sub(r"\w+", _one_alphabet, text)


def _one_alphabet(word: re.Match[str]) -> str:
    return word[0].translate(_LOOKALIKES) if re.search("[A-Za-z]", word[0]) else word[0]


def line_of(text: str, position: int) -> int:
    """The line, from 1, that a position lies in."""
    return text.count("\n", 0, position) + 1


# Spam: no sign proves it, many together do.

PHRASES = (
    "act now",
    "click here",
    "double your",
    "earn money",
    "free money",
    "limited time",
    "no risk",
    "risk free",
    "wire transfer",
    "work from home",
    "you have been selected",
    "you have won",
)
_LINK = re.compile(r"https?://([^\s/]+)", re.IGNORECASE)
_SHORTENERS = frozenset({"bit.ly", "goo.gl", "is.gd", "ow.ly", "t.co", "tinyurl.com"})
_SUM = re.compile(r"[$€£]\s?\d{1,3}(?:[.,]\d{3})+|[$€£]\s?\d{4,}")
_SHOUTED = re.compile(r"\b[A-Z]{3,}\b")


def spam(text: str, phrases: Iterable[str] = PHRASES) -> list[Finding]:
    """One finding that lists the signs, if they weigh enough together."""
    text = plain(text)
    words = re.sub(r"[\W_]+", " ", text.lower())
    signs = [(2, repr(phrase)) for phrase in phrases if f" {phrase} " in f" {words} "]
    hosts = [host.lower() for host in _LINK.findall(text)]
    if len(hosts) > 3:
        signs.append((2, f"{len(hosts)} links"))
    if not _SHORTENERS.isdisjoint(hosts):
        signs.append((2, "a shortened link"))
    if _SUM.search(text):
        signs.append((1, "a large sum"))
    if len(_SHOUTED.findall(text)) > max(4, len(words.split()) // 5):
        signs.append((1, "shouting"))
    if "!!!" in text:
        signs.append((1, "!!!"))
    lines = Counter(line.strip() for line in text.splitlines() if len(line.strip()) > 10)
    if max(lines.values(), default=0) > 3:
        signs.append((2, "the same line again and again"))
    weight = sum(points for points, _ in signs)
    if weight < 2:
        return []
    severity: Severity = "high" if weight >= 6 else "medium" if weight >= 4 else "low"
    return [Finding("spam", "signs", severity, ", ".join(sign for _, sign in signs))]


# Profanity: whole words only, so that people from Scunthorpe may write.

STRONG = ("asshole", "bastard", "bitch", "bullshit", "fuck", "motherfucker", "shit", "wanker")
MILD = ("arse", "bloody hell", "bollocks", "crap", "damn", "piss")
_ENDINGS = r"(?:s|es|ed|er|ers|ing|ty|y)?"


def profanity(
    text: str, strong: Iterable[str] = STRONG, mild: Iterable[str] = MILD
) -> list[Finding]:
    """A finding for each such word, also if drawn out, starred or written with digits.

    Mild ones are low, strong ones medium; from the third strong one on they are high.
    """
    text = plain(text).lower()
    # Digits are read as letters within words that have letters: `sh1t`, but not `7175`.
    text = _WORD.sub(
        lambda word: word[0].translate(_DIGITS) if re.search("[a-z]", word[0]) else word[0], text
    )
    found = [(hit.start(), hit[0], "strong") for hit in _pattern(strong).finditer(text)]
    serious: Severity = "high" if len(found) >= 3 else "medium"
    found += [(hit.start(), hit[0], "mild") for hit in _pattern(mild).finditer(text)]
    return [
        Finding(
            "profanity",
            kind,
            serious if kind == "strong" else "low",
            f"{word[0]}{'*' * (len(word) - 1)}",
            line_of(text, start),
        )
        for start, word, kind in sorted(found)
    ]


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches the words whole, each letter once or more, vowels starred or not."""
    forms = (
        "".join(f"[{x}*]+" if x in "aeiou" else rf"{re.escape(x)}+" for x in word) for word in words
    )
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(forms)}){_ENDINGS}(?![^\W_])")


# Hate: calls for violence against, and contempt of, groups of people.

GROUPS = (
    "asians?|blacks?|christians?|disabled people|foreigners|gays?|gypsies|hindus?|immigrants|jews?|"
    "lesbians?|migrants|muslims?|refugees|trans people|whites?|women"
)
_VIOLENCE = r"(?:burn|deport|eradicate|exterminate|gas|get rid of|hang|kill|lynch|shoot|wipe out)"
_CONTEMPT = (
    r"(?:animals|cockroaches|filth|inferior|parasites|rats|scum|subhumans?|vermin|worthless)"
)
_THEM = rf"(?:(?:all|every|these|the|those)\s+){{0,3}}(?:{GROUPS})"
_HATE = {
    "violence": re.compile(rf"\b{_VIOLENCE}\s+{_THEM}\b"),
    "contempt": re.compile(rf"\b{_THEM}\s+(?:are|is)\s+(?:\w+\s+){{0,2}}{_CONTEMPT}\b"),
}
_REPORTED = re.compile(
    r"\b(?:condemn\w*|convicted|never|nobody|no one|not|racists?|reject\w*|said|says|shouted|"
    r"slogans?|wrong)\b|n't\b"
)


def hate(text: str) -> list[Finding]:
    """High for what is said outright, medium where the sentence may report or deny it."""
    text = plain(text).lower()
    found = []
    for kind, pattern in _HATE.items():
        for hit in pattern.finditer(text):
            begin = max(text.rfind(sign, 0, hit.start()) for sign in ".!?\n") + 1
            reported = _REPORTED.search(text, begin, hit.end()) is not None
            severity: Severity = "medium" if reported else "high"
            evidence = " ".join(hit[0].split())
            found.append(Finding("hate", kind, severity, evidence, line_of(text, hit.start())))
    return sorted(found, key=lambda finding: finding.line)
