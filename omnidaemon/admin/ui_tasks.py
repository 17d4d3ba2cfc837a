"""The tasks page: what runs, what has run, and what waits; filters, and the search by id."""

from __future__ import annotations

from typing import get_args

from starlette.responses import Response

from omnidaemon.admin.answers import Refused
from omnidaemon.admin.ui_pages import Pages, Visit
from omnidaemon.envelope import INTERNAL
from omnidaemon.errors import InvalidSettings
from omnidaemon.records import Roster
from omnidaemon.search import OpenPage, OpenRun, RunPage, Search, Wanted
from omnidaemon.tasks import TaskStatus

tasks = Pages("Tasks", "/tasks", "tasks")

SHOWN = 50
STATUSES: tuple[TaskStatus, ...] = ("pending", "running", "failed", "dead", "succeeded")
_FILTERS = ("topic", "agent", "status", "tenant_id", "correlation_id")


@tasks("GET", "/tasks", scope="read", tenants=True)
async def list_tasks(visit: Visit) -> Response:
    """The newest tasks that fit; what is open comes first."""
    search = Search(visit.app)
    text = visit.query.get("q", "").strip()
    if text and (answer := await _found(visit, search, text)) is not None:
        return answer
    given = {name: visit.query.get(name, "").strip() for name in _FILTERS}
    wanted = _wanted(visit, given)
    before = visit.query.get("before") or None
    try:
        page = await search.runs(wanted, limit=SHOWN, before=before)
    except InvalidSettings as error:
        raise Refused(
            422, f"this link does not lead on from a page of this list: {error}"
        ) from error
    # What is open is older than nothing: it stands on the first page alone.
    opened = OpenPage([], 0, 0) if before else await search.open(wanted)
    now_open = {(run.task_id, run.topic, run.agent) for run in opened.runs}
    bound = visit.caller.tenant
    if bound is not None:  # how much others have to do is not for one tenant to know
        opened = OpenPage(opened.runs, 0, 0)
        page = _own(page, wanted)
    return visit.render(
        "tasks.html",
        wanted=wanted,
        given=given,
        statuses=STATUSES,
        opened=_few(opened.runs),
        more_open=opened.beyond + max(0, len(opened.runs) - SHOWN),
        delayed=opened.delayed,
        runs=[run for run in page.runs if (run.task_id, run.topic, run.agent) not in now_open],
        looked=page.looked,
        shown=len(page.runs),
        filtered=any(given.values()),
        older=page.place and visit.url("/tasks", **given, before=page.place),
        newest=visit.url("/tasks", **given) if before else "",
        stream=visit.url("/events", topic=given["topic"], tenant_id=wanted.tenant_id),
        bound=bound,
        unknown=text,
        internal=given["topic"].startswith(INTERNAL),
        # Which agents there are is not known by tenant.
        known=[] if visit.fragment or bound else await Roster(visit.app.store).agents(),
    )


def _few(runs: list[OpenRun]) -> list[OpenRun]:
    """What runs now comes before what waits, and that before what is delayed."""
    return sorted(runs, key=lambda run: (run.status != "running", run.due is not None))[:SHOWN]


def _own(page: RunPage, wanted: Wanted) -> RunPage:
    """The page without what it says of other tenants' records that were looked at for it.

    Only those with a correlation id are looked at for all tenants together. A page of them that is
    not full ends at the last record looked at, whose place names it.
    """
    if wanted.correlation_id is None:
        return page
    return RunPage(page.runs, len(page.runs), page.place if len(page.runs) == SHOWN else None)


def _wanted(visit: Visit, given: dict[str, str]) -> Wanted:
    status = given["status"]
    known = get_args(TaskStatus)
    if status and status not in known:
        raise Refused(422, f"the status is one of {', '.join(known)}")
    return Wanted(
        given["topic"] or None,
        given["agent"] or None,
        next((one for one in STATUSES if one == status), None),
        visit.tenant(given["tenant_id"]),
        given["correlation_id"] or None,
    )


async def _found(visit: Visit, search: Search, text: str) -> Response | None:
    """Where the text leads, as a task's id or as a correlation id; None if nowhere."""
    bound = visit.caller.tenant
    exact = await search.exact(text)
    if exact is not None and (bound is None or not await visit.app.tasks.tenants(exact) - {bound}):
        return visit.redirect(f"/tasks/{exact}")
    belonging = Wanted(correlation_id=text, tenant_id=bound)
    if (await search.runs(belonging, limit=1)).runs or (await search.open(belonging)).runs:
        return visit.redirect("/tasks", correlation_id=text)
    return None
