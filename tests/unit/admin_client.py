"""A client of the admin API that holds each answer to the document, and an app to look at."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jsonschema_rs
import msgspec

from omnidaemon import App, Backoff
from omnidaemon.admin import Admin
from omnidaemon.admin.api import ENDPOINTS
from omnidaemon.admin.openapi import document
from omnidaemon.testing import Served, serve

KEYS = (
    "reader-key:read",
    "publisher-key:publish",
    "admin-key:admin",
    "both-key:read+publish",
    "a-key:read+publish:a",
    "a-admin-key:admin:a",
)


def shop() -> App:
    """An app whose agent `charge` fails for the content "bad"."""
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", retries=0, tools=["bank"], description="Charges.")
    async def charge(content: Any) -> Any:
        if content == "bad":
            raise ValueError("no money")
        return {"charged": content}

    @app.agent("mails", name="mail", retries=1, backoff=Backoff(initial=0.001))
    async def mail(content: Any) -> Any:
        return content

    return app


DOCUMENT = msgspec.json.decode(msgspec.json.encode(document(ENDPOINTS, keys=True)))


async def check_against_document(answer: httpx.Response) -> None:
    """Fails if an endpoint answers what its document does not say."""
    path = answer.request.url.path
    for endpoint in ENDPOINTS:
        pattern = re.sub(r"\{\w+\}", "[^/]+", endpoint.path)
        if endpoint.method == answer.request.method and re.fullmatch(pattern, path):
            break
    else:
        return  # another app's, or nobody's
    responses = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"]
    assert str(answer.status_code) in responses, f"{answer.status_code} is not documented"
    media = responses[str(answer.status_code)]["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in media, f"{kind} is not documented"
    if kind == "application/json":
        await answer.aread()
        schema = {**media[kind]["schema"], "components": DOCUMENT["components"]}
        jsonschema_rs.validate(schema, answer.json())


def client(admin: Any, key: str | None = None, host: str = "localhost") -> httpx.AsyncClient:
    """A client that calls the ASGI app directly."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(admin),
        base_url=f"http://{host}",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        event_hooks={"response": [check_against_document]},
    )


@asynccontextmanager
async def served_shop() -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A worker of the shop, and a client that may do all."""
    app = shop()
    async with serve(app) as served, client(Admin(app, auth="none")) as http:
        yield served, http
