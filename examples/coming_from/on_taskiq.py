"""The shop on Taskiq: `taskiq worker examples.coming_from.on_taskiq:broker`."""

import asyncio
import os
from dataclasses import dataclass

from taskiq import SmartRetryMiddleware
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
broker = (
    RedisStreamBroker(url)
    .with_result_backend(RedisAsyncResultBackend(url, result_ex_time=86_400))
    .with_middlewares(SmartRetryMiddleware(use_delay_exponent=True, use_jitter=True))
)


@dataclass
class Order:
    id: str
    total: float


@dataclass
class Receipt:
    order: str
    charged: float


@broker.task(retry_on_error=True, max_retries=3)
async def charge(order: Order) -> Receipt:
    return Receipt(order.id, order.total)


@broker.task
async def mail(receipt: Receipt) -> str:
    return f"mailed: {receipt.order} has cost {receipt.charged}"


async def main() -> None:
    await broker.startup()
    charged = await (await charge.kiq(Order("A1", 9.5))).wait_result(timeout=30)
    mailed = await (await mail.kiq(charged.return_value)).wait_result(timeout=30)
    print(mailed.return_value)
    await broker.shutdown()


def ask() -> None:
    """Places an order and waits until the mail is out."""
    asyncio.run(main())
