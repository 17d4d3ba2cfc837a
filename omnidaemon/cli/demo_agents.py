"""The demo's app: three agents that take documents apart.

    document.uploaded -> extract_text -> text.extracted -> measure   -> analysis.completed
                                                        -> summarize ->

Each agent names with `reply_to` where its results go, in the step that settles its run.
"""

from __future__ import annotations

import math
import re
from collections import Counter

import anyio
from msgspec import Struct, field

from omnidaemon import App, Backoff, Context, Reject

app = App("demo")

EXTRACTED, COMPLETED = "text.extracted", "analysis.completed"
WORDS_PER_MINUTE = 230
MOST_SENTENCES = 250  # comparing all with all grows with the square
_BACKOFF = Backoff(initial=0.4, jitter=0.2)


class Document(Struct):
    """A file to look at.

    Attributes:
        path: Where it lies.
        name: How people call it.
        stumble: True if `summarize` shall fail on its first run.
    """

    path: str
    name: str
    stumble: bool = False


class Text(Struct):
    """A document's words, without its markup."""

    name: str
    paragraphs: list[str]
    headings: list[str] = field(default_factory=list)
    stumble: bool = False


class StumbledOnPurpose(Exception):
    """The demo's failure: there is nothing wrong, it shows a retry."""


@app.agent(
    "document.uploaded", name="extract_text", consumers=4, backoff=_BACKOFF, reply_to=EXTRACTED
)
async def extract_text(document: Document) -> Text:
    """Reads a document and takes its markup away."""
    try:
        source = await anyio.Path(document.path).read_text("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise Reject(f"{document.path}: {error}") from error
    paragraphs, headings = without_markup(source)
    return Text(document.name, paragraphs, headings, document.stumble)


@app.agent(EXTRACTED, name="measure", consumers=4, backoff=_BACKOFF, reply_to=COMPLETED)
async def measure(text: Text) -> dict[str, object]:
    """Counts words and sentences, and estimates how long reading takes."""
    words = sum(len(_WORD.findall(paragraph)) for paragraph in [*text.headings, *text.paragraphs])
    return {
        "document": text.name,
        "words": words,
        "sentences": len(sentences(text.paragraphs)),
        "headings": text.headings,
        "reading_minutes": round(words / WORDS_PER_MINUTE, 2),
    }


@app.agent(EXTRACTED, name="summarize", consumers=2, backoff=_BACKOFF, reply_to=COMPLETED)
def summarize(text: Text, ctx: Context) -> dict[str, object]:
    """Finds the sentences that say most of the others; in a thread, for it computes."""
    if text.stumble and ctx.attempt == 1 and not ctx.replays:
        raise StumbledOnPurpose("the first run of this document fails, to show a retry")
    return {"document": text.name, "telling": most_telling(sentences(text.paragraphs))}


# Markdown and reStructuredText, as far as people use them in prose.

_FENCE = re.compile(r"^\s*(```|~~~)")
_RULE = re.compile(r"^\s*([=\-~^\"'`#*+_:.<>])\1{2,}\s*$")
_SKIPPED = re.compile(r"^\s*(\||:?-+:?\||\.\. |:[\w-]+:|<[/!a-zA-Z]|\[[^\]]+\]:|!\[|!!! |--8<--)")
_BULLET = re.compile(r"^\s*([-*+]|\d+[.)])\s+")
_INLINE = [
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\]]+)\](\([^)]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r":[\w:.-]+:`~?([^`<]+)(?:<[^>]*>)?`"), r"\1"),
    (re.compile(r"`+([^`]+)`+_{0,2}"), r"\1"),
    (re.compile(r"(\*\*|__)(.+?)\1"), r"\2"),
    (re.compile(r"(?<!\w)[*_](\S(?:.*?\S)?)[*_](?!\w)"), r"\1"),
    (re.compile(r"<[^>]{1,200}>"), ""),
]


def without_markup(source: str) -> tuple[list[str], list[str]]:
    """The paragraphs and the headings of a text, without code, tables and markup."""
    paragraphs: list[list[str]] = [[]]
    headings: list[str] = []
    fenced = False
    lines = source.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced or _RULE.match(line) or _SKIPPED.match(line) or line.startswith("    "):
            continue
        elif line.lstrip().startswith("#"):
            headings.append(_inline(line.strip().strip("#").strip()))
            paragraphs.append([])
        elif line.strip() and _RULE.match(following) and len(following.strip()) >= 3:
            headings.append(_inline(line.strip()))
            paragraphs.append([])
        elif not line.strip():
            paragraphs.append([])
        else:
            if _BULLET.match(line):
                paragraphs.append([])
            paragraphs[-1].append(_BULLET.sub("", line).strip())
    texts = (_inline(" ".join(lines)).strip() for lines in paragraphs)
    return [text for text in texts if text], [heading for heading in headings if heading]


def _inline(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text


# The most telling sentences: those most similar to all others (TextRank, on TF-IDF weights).

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-ZÀ-ÞА-Я0-9])")
_COMMON_WORDS = (
    "a about all also an and any are as at be been but by can do does each for from get has have "
    "if in into is it its may more must no not of on one or other our out so than that the their "
    "them then there these they this to up use used we what when where which who will with you "
    "your"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_FEWEST_WORDS, _MOST_WORDS = 7, 45
_ROUNDS, _DAMPING = 30, 0.85


def sentences(paragraphs: list[str]) -> list[str]:
    """The sentences of a text, in order."""
    return [s.strip() for paragraph in paragraphs for s in _END.split(paragraph) if s.strip()]


def most_telling(candidates: list[str], count: int = 2) -> list[str]:
    """The sentences that share most with the others, in the order of the text."""
    bags = [Counter(_terms(sentence)) for sentence in candidates]
    fit = [
        n
        for n, sentence in enumerate(candidates)
        if _FEWEST_WORDS <= len(_WORD.findall(sentence)) <= _MOST_WORDS and len(bags[n]) > 2
    ][:MOST_SENTENCES]
    if not fit:
        return candidates[:count]
    vectors = _weighted([bags[n] for n in fit])
    scores = _ranked(vectors)
    # Writers say first what matters most: the beginning counts up to a fifth more.
    placed = [score * (1.2 - 0.2 * n / len(fit)) for n, score in enumerate(scores)]
    best = sorted(range(len(fit)), key=placed.__getitem__, reverse=True)[:count]
    return [candidates[fit[n]] for n in sorted(best)]


def _terms(sentence: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(sentence))
    # Plurals and singulars count as one word; that is all the grammar there is here.
    return [word.removesuffix("s") for word in words if word not in _COMMON and len(word) > 2]


def _weighted(bags: list[Counter[str]]) -> list[dict[str, float]]:
    """Each bag of words as a vector of length 1, rare words heavier."""
    seen_in = Counter(term for bag in bags for term in bag)
    vectors = []
    for bag in bags:
        vector = {t: n * math.log(1 + len(bags) / seen_in[t]) for t, n in bag.items()}
        length = math.sqrt(sum(weight * weight for weight in vector.values()))
        vectors.append({term: weight / length for term, weight in vector.items()})
    return vectors


def _ranked(vectors: list[dict[str, float]]) -> list[float]:
    """The share of a random reader's time that each sentence gets, who follows similarities."""
    size = len(vectors)
    links = [[0.0] * size for _ in vectors]
    for i, one in enumerate(vectors):
        for j in range(i):
            other = vectors[j]
            small, large = (one, other) if len(one) < len(other) else (other, one)
            links[i][j] = links[j][i] = sum(w * large.get(term, 0.0) for term, w in small.items())
    leaving = [sum(row) or 1.0 for row in links]
    scores = [1 / size] * size
    for _ in range(_ROUNDS):
        sent = [score / total for score, total in zip(scores, leaving, strict=True)]
        scores = [
            (1 - _DAMPING) / size
            + _DAMPING * sum(link * part for link, part in zip(row, sent, strict=True))
            for row in links
        ]
    return scores
