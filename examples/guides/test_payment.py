"""An order is charged once, though it is run twice and sent twice."""

from examples.guides.payment import Order, app, provider
from omnidaemon.testing import run, serve


def test_an_order_is_charged_once() -> None:
    async def body() -> None:
        async with serve(app):
            for _ in range(2):
                answer = await app.request("order.placed", Order("A1", 950), timeout=60)
                assert answer == {"charged": 950}

    run(body)
    assert provider.charges == {"order-A1": 950}
