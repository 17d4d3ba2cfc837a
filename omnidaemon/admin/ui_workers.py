"""Workers: which processes live, by their heartbeats, and what they hold."""

from __future__ import annotations

from starlette.responses import Response

from omnidaemon.admin.ui_pages import Pages, Visit, once_for_all
from omnidaemon.records import BEAT_SECONDS, BEAT_TTL, Roster

workers = Pages("Workers", "/workers", "workers")


@workers("GET", "/workers", scope="read")
async def show_workers(visit: Visit) -> Response:
    """All workers whose heartbeat is fresh."""
    found = await once_for_all(visit, "workers", 1.0, Roster(visit.app.store).workers)
    return visit.render("workers.html", workers=found, beat=BEAT_SECONDS, silent=BEAT_TTL)
