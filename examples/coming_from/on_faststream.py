"""The shop on FastStream: `faststream run examples.coming_from.on_faststream:app`."""

import asyncio
import os

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from pydantic import BaseModel

broker = RedisBroker(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app = FastStream(broker)


class Order(BaseModel):
    id: str
    total: float


class Receipt(BaseModel):
    order: str
    charged: float


@broker.subscriber(stream=StreamSub("order.placed", group="charge", consumer="worker-1"))
@broker.publisher(stream="order.charged")
async def charge(order: Order) -> Receipt:
    return Receipt(order=order.id, charged=order.total)


@broker.subscriber(stream=StreamSub("order.charged", group="mail", consumer="worker-1"))
async def mail(receipt: Receipt) -> None:
    print(f"mailed: {receipt.order} has cost {receipt.charged}", flush=True)


async def main() -> None:
    async with broker:
        await broker.publish(Order(id="A1", total=9.5), stream="order.placed")


def ask() -> None:
    """Places an order; nothing comes back, the worker prints the mail."""
    asyncio.run(main())
