"""The shop on Celery: `celery -A examples.coming_from.on_celery worker`."""

import os

from celery import Celery

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
app = Celery("shop", broker=url, backend=url)


@app.task(acks_late=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=3)
def charge(order: dict) -> dict:
    return {"order": order["id"], "charged": order["total"]}


@app.task(acks_late=True)
def mail(receipt: dict) -> str:
    return f"mailed: {receipt['order']} has cost {receipt['charged']}"


def ask() -> None:
    """Places an order and waits until the mail is out."""
    mailed = (charge.s({"id": "A1", "total": 9.5}) | mail.s()).delay()
    print(mailed.get(timeout=30))
