"""The dead letters page: what agents gave up, by the error, to be handed back or removed."""

from __future__ import annotations

from starlette.responses import Response

from omnidaemon.admin.answers import Refused
from omnidaemon.admin.ui_pages import Pages, Visit
from omnidaemon.letters import LetterGroup, Letters

letters = Pages("Dead letters", "/letters", "letters")

SECONDS = 30.0


@letters("GET", "/letters", scope="read", seconds=SECONDS)
async def list_letters(visit: Visit) -> Response:
    """All dead letters by their errors, or the errors of one topic or agent."""
    grouping = await Letters(visit.app).grouped()
    wanted = visit.query.get("topic"), visit.query.get("agent")
    groups = [group for group in grouping.groups if _has(group, *wanted)]
    of = " of ".join(name for name in reversed(wanted) if name)
    return visit.render("letters.html", grouping=grouping, groups=groups, of=of)


def _has(group: LetterGroup, topic: str | None, agent: str | None) -> bool:
    return any(topic in (None, "", t) and agent in (None, "", a) for t, a in group.agents)


@letters("GET", "/letters/{key}", scope="read", seconds=SECONDS)
async def show_group(visit: Visit) -> Response:
    """The letters with one error."""
    key = visit.request.path_params["key"]
    group = await Letters(visit.app).group(key)
    return visit.render("letters_group.html", group=group)


@letters("POST", "/letters/replay", scope="admin", seconds=SECONDS)
async def replay_letters(visit: Visit) -> Response:
    """Hands letters of one error back, or all where the form says so."""
    key = visit.form.get("key", "")
    if not key and visit.form.get("all") != "yes":
        raise Refused(422, "say which dead letters: the key of their error, or all=yes")
    count = await Letters(visit.app).replay(key or None)
    return visit.redirect("/letters", notice=f"{_letters(count)} replayed.")


@letters("POST", "/letters/discard", scope="admin", seconds=SECONDS)
async def discard_letters(visit: Visit) -> Response:
    """Removes letters of one error."""
    count = await Letters(visit.app).discard(visit.form.get("key", ""))
    return visit.redirect("/letters", notice=f"{_letters(count)} deleted.")


def _letters(count: int) -> str:
    return "1 dead letter is" if count == 1 else f"{count:,} dead letters are"
