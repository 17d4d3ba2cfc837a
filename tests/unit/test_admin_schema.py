"""The OpenAPI document is true: what it allows is answered, and as it says."""

from __future__ import annotations

from typing import Any

import anyio
import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from omnidaemon import App
from omnidaemon.admin import Admin
from omnidaemon.testing import serve

BOARD = "memory://openapi"


def filled() -> App:
    """An app with something of everything, and no worker any more."""
    app = App("filled", transport=BOARD)

    @app.agent("orders", name="charge", retries=0)
    async def charge(content: Any) -> Any:
        if content == "bad":
            raise ValueError("no money")
        return content

    async def fill() -> None:
        async with serve(app, url=BOARD) as served:
            for content in (1, "bad", {"a": [None, 1.5]}, "bad"):
                await app.send("orders", content, id=f"a{len(str(content))}", tenant_id="t")
            await served.settled()
            await app.send("waiting", 1)

    anyio.run(fill)
    return app


schema = schemathesis.openapi.from_asgi(
    "/openapi.json", Admin(filled(), auth="none", hosts=["testserver"])
).exclude(path="/events")  # it does not end


@schema.parametrize()
@hypothesis.settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_no_request_ends_in_a_5xx_or_an_answer_outside_the_document(
    case: schemathesis.Case[Any],
) -> None:
    # Every check but two. No schema says that an integer within any value has 64 bits at most; and
    # GET /agents/topic/orders is asked of an agent, whose topic cannot be called `topic`.
    case.call_and_validate(excluded_checks=[positive_data_acceptance, unsupported_method])
