"""An agent that charges a card, through a provider that knows idempotency keys."""

from typing import Annotated, Any

from msgspec import Struct

from omnidaemon import App, Context, Depends

app = App("payments")


class Provider:
    """Stands for the client of a payment provider, which recognises a key that it has seen."""

    def __init__(self) -> None:
        self.charges: dict[str, int] = {}

    async def charge(self, cents: int, *, idempotency_key: str) -> int:
        """Charges once per key."""
        return self.charges.setdefault(idempotency_key, cents)


provider = Provider()


class Order(Struct):
    id: str
    cents: int


def the_provider() -> Provider:
    return provider


@app.agent("order.placed")
async def charge(
    order: Order, ctx: Context, payments: Annotated[Provider, Depends(the_provider)]
) -> dict[str, Any]:
    """Charges an order once, however often it is run or sent."""
    cents = await payments.charge(order.cents, idempotency_key=f"order-{order.id}")
    if ctx.attempt == 1:
        raise ConnectionError("the answer was lost")  # to show that a second run is borne
    return {"charged": cents}
