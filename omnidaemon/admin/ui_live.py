"""`/ui/events`: runs as they end, for pages that show them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
from starlette.responses import Response, StreamingResponse

from omnidaemon.admin.events import Feed, Listener, Mark
from omnidaemon.admin.ui_pages import Pages, Visit

live = Pages("", "")

STREAM_SECONDS = 300.0
"""A stream ends by then, and the browser opens the next, if its session still lasts."""


@live("GET", "/events", scope="read", tenants=True)
async def stream_events(visit: Visit) -> Response:
    """The same events as the API's `/events`, by the session instead of a key."""
    feed: Feed = visit.shared["feed"]
    last = visit.request.headers.get("last-event-id")
    topic = visit.query.get("topic") or None
    listener = Listener(feed, topic, visit.tenant(visit.query.get("tenant_id")))
    await listener.start(Mark.parse(last) if last else None)
    return StreamingResponse(
        _for_a_while(listener.stream()),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        media_type="text/event-stream",
    )


async def _for_a_while(stream: AsyncIterator[str]) -> AsyncIterator[str]:
    end = anyio.current_time() + STREAM_SECONDS
    async with aclosing(stream) as parts:  # type: ignore[type-var]
        async for part in parts:
            yield part
            if anyio.current_time() >= end:
                return
