"""The shop on OmniDaemon: `omnidaemon worker examples.coming_from.on_omnidaemon:app`."""

from msgspec import Struct

from omnidaemon import App

app = App("shop")


class Order(Struct):
    id: str
    total: float


class Receipt(Struct):
    order: str
    charged: float


@app.agent("order.placed", retries=3, retry_on=(ConnectionError,), reply_to="order.charged")
async def charge(order: Order) -> Receipt:
    return Receipt(order.id, order.total)


@app.agent("order.charged")
async def mail(receipt: Receipt) -> str:
    text = f"mailed: {receipt.order} has cost {receipt.charged}"
    print(text, flush=True)
    return text


def ask() -> None:
    """Places an order and waits until it is charged; the mail goes out after that."""
    with app.blocking() as sender:
        print(sender.send("order.placed", Order("A1", 9.5)).result(timeout=30))
