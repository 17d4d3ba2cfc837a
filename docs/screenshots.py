"""Takes the pictures of the dashboard in docs/images, of a real worker under a real load.

    python docs/screenshots.py [--seconds 285] [--only overview]

It starts a worker of the app below on the embedded SQLite, in a folder of its own, publishes events
for a while, and photographs the pages in Chromium, light and dark.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

import omnidaemon
from omnidaemon import App, Backoff, Reject
from omnidaemon.fleet import Fleet

HERE = Path(__file__).resolve().parent
app = App("insurance")

_BACKOFF = Backoff(initial=2.0, maximum=20.0)
_chance = random.Random(7)
_POLICIES = {f"HH-{number}": 25_000 + number * 13 for number in range(2000, 2400)}


class PolicyNotFound(LookupError):
    """The number on the claim is none of ours."""


class Claim(Struct):
    """What a policy holder has sent.

    Attributes:
        number: The claim's.
        policy: The policy's, as it was read.
        text: What happened, in their words.
        amount: What they ask for, in euros, as it was written.
    """

    number: str
    policy: str
    text: str
    amount: str


@app.agent(
    "claims.received",
    name="read-claim",
    consumers=6,
    reply_to="claims.read",
    tools=["ocr", "entity-extractor"],
)
async def read_claim(claim: Claim) -> dict[str, Any]:
    """Reads a claim and writes down who, what and how much."""
    await asyncio.sleep(_chance.uniform(0.05, 0.4))
    amount = float(claim.amount.replace(".", "").replace(",", "."))
    return {"claim": claim.number, "policy": claim.policy, "amount": amount, "about": claim.text}


@app.agent("claims.read", name="check-policy", consumers=4, retries=1, backoff=_BACKOFF)
async def check_policy(content: dict[str, Any]) -> dict[str, Any]:
    """Looks the policy up, and whether it covers what happened."""
    await asyncio.sleep(_chance.uniform(0.02, 0.2))
    policy = content["policy"]
    if policy not in _POLICIES:
        raise PolicyNotFound(f"there is no policy {policy}: was the number misread?")
    return {"claim": content["claim"], "covered": content["amount"] <= _POLICIES[policy]}


@app.agent(
    "claims.read",
    name="assess-damage",
    consumers=4,
    retries=2,
    backoff=_BACKOFF,
    timeout=1.5,
    reply_to="claims.decided",
    tools=["price-list", "photo-search"],
)
async def assess_damage(content: dict[str, Any]) -> dict[str, Any]:
    """Estimates what the repair costs, and says whether the claim is plausible."""
    await asyncio.sleep(_chance.choice([0.2, 0.4, 0.7, 0.9, 0.9, 0.5, 0.3, 0.6, 2.0]))
    estimate = round(content["amount"] * _chance.uniform(0.7, 1.1), 2)
    if content["amount"] > 20_000:
        raise Reject(f"€ {content['amount']:,.2f} is above the limit for agents: a person decides")
    return {"claim": content["claim"], "estimate": estimate, "pay": estimate <= content["amount"]}


@app.agent("claims.decided", name="write-letter", consumers=2, tools=["letterhead"])
async def write_letter(content: dict[str, Any]) -> str:
    """Writes to the policy holder."""
    await asyncio.sleep(_chance.uniform(0.1, 0.5))
    what = "pay" if content["pay"] else "cannot pay"
    return (
        f"Dear policy holder, we {what} € {content['estimate']:,.2f} for claim {content['claim']}."
    )


@app.agent("mail.received", name="sort-mail", consumers=8)
async def sort_mail(content: dict[str, Any]) -> str:
    """Says which department a letter is for."""
    await asyncio.sleep(_chance.uniform(0.01, 0.1))
    return "claims" if "claim" in content["subject"] else "policies"


@app.agent("payments.requested", name="pay-out", retries=3, backoff=Backoff(initial=15, jitter=0.2))
async def pay_out(content: dict[str, Any]) -> dict[str, str]:
    """Hands a payment to the bank."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", 9)  # where nothing listens
    except OSError as error:
        raise ConnectionError(f"the bank's gateway is away: {error.strerror}") from error
    writer.close()
    return {"paid": content["claim"]}


@app.agent("photos.uploaded", name="describe-photo", consumers=2, tools=["vision-model"])
async def describe_photo(content: dict[str, Any]) -> str:
    """Says what a photo of the damage shows."""
    await asyncio.sleep(1.0)
    return f"{content['file']}: a dented door"


if host := os.environ.get("SHOWN_HOST"):
    # Workers are named after their host: the pictures shall not name this one.
    socket.gethostname = lambda: host

if os.environ.get("WITH_REPORTS"):

    @app.agent("reports.due", name="monthly-report")
    async def monthly_report(content: dict[str, Any]) -> str:
        """Sums the month up."""
        return f"{content['month']}: done"


_DAMAGES = (
    "Hail has dented the roof and the bonnet.",
    "The dishwasher leaked into the flat below.",
    "A ball went through the kitchen window.",
    "Somebody backed into the parked car and drove away.",
)


def a_claim(number: int) -> Claim:
    """One in twelve has a policy that does not exist, one in twenty is too large."""
    policy = f"HH-{_chance.randrange(2000, 2400)}" if number % 12 else f"HM-{2000 + number % 97}"
    amount = f"{_chance.randrange(1, 9)}.{_chance.randrange(100, 999)},{_chance.randrange(10, 99)}"
    if number % 20 == 0:
        amount = f"4{amount}"
    if number % 33 == 0:
        amount = "see invoice"
    return Claim(f"C-{10_000 + number}", policy, _chance.choice(_DAMAGES), amount)


async def publish(stop: threading.Event) -> None:
    """A load that swells and ebbs, some of every kind."""
    fleet = Fleet(app)
    await fleet.pause("photos.uploaded", "describe-photo")
    for month in ("September", "October"):
        await app.send("reports.due", {"month": month})
    loop = asyncio.get_running_loop()
    number = 0
    while not stop.is_set():
        number += 1
        await app.send("claims.received", a_claim(number), tenant_id=f"office-{number % 3}")
        for letter in range(_chance.randrange(1, 5)):
            subject = f"about my claim {number}" if letter else "a question"
            await app.send("mail.received", {"from": f"customer-{number}", "subject": subject})
        if number % 15 == 0:
            await app.send("payments.requested", {"claim": f"C-{10_000 + number}", "euros": 310})
        if number % 10 == 0:
            await app.send("photos.uploaded", {"file": f"door-{number}.jpg"})
        if number % 25 == 0:
            await app.send("reminders", {"claim": f"C-{10_000 + number}"}, delay=3600)
        swell = 1 + 0.8 * abs((loop.time() % 60) - 30) / 30
        await asyncio.sleep(_chance.uniform(0.1, 0.5) * swell)
    await app.close()


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder with this app and the package, so that tracebacks name the same paths everywhere."""
    folder = Path(tempfile.gettempdir(), "insurance")
    folder.mkdir()  # not one that somebody else uses
    try:
        (folder / "claims.py").symlink_to(HERE / "screenshots.py")
        (folder / "omnidaemon").symlink_to(Path(omnidaemon.__file__).parent)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def worker(folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A worker of this app, in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "omnidaemon", "worker", "claims:app", *options],
        cwd=folder,
        env={**os.environ, "SHOWN_HOST": "office-1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def line_of(process: subprocess.Popen[str], pattern: str) -> str:
    """The first part in parentheses of the log line that matches."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(pattern, line):
            return match[1]
    raise SystemExit("the worker has ended: run it by hand to see why")


@contextmanager
def load(seconds: float) -> Iterator[str]:
    """A worker that has been under load for a while; gives the dashboard's address."""
    with workplace() as folder:
        # An agent that ran once, and whose worker nobody has started again.
        with worker(folder, WITH_REPORTS="1") as once:
            line_of(once, r"(is ready)")
        with worker(folder, "--api-port", "0") as process:
            url = line_of(process, r"admin API is served at (http://[^\s,]+)")
            line_of(process, r"(is ready)")
            drain = subprocess.Popen(  # what the worker logs must go somewhere
                ["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL
            )
            os.chdir(folder)
            stop = threading.Event()
            publisher = threading.Thread(target=asyncio.run, args=[publish(stop)])
            publisher.start()
            try:
                stop.wait(seconds)
                yield f"{url}/ui"
            finally:
                stop.set()
                publisher.join()
                os.chdir(HERE)
                process.send_signal(signal.SIGTERM)
                process.wait(60)
                drain.wait(10)


def take(url: str, only: str | None, into: Path) -> None:
    """Photographs the pages."""
    from playwright.sync_api import sync_playwright

    into.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        for theme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1280, "height": 940}, color_scheme=theme, reduced_motion="reduce"
            )
            for name in pages(page, url):
                if only in (None, name):
                    page.wait_for_timeout(500)
                    suffix = "" if theme == "light" else "-dark"
                    page.screenshot(path=into / f"{name}{suffix}.png")
        browser.close()


def pages(page: Any, url: str) -> Iterator[str]:
    """Opens what is photographed, one after another; gives the name of the picture."""
    page.goto(f"{url}/")
    yield "overview"
    page.get_by_role("link", name=re.compile("PolicyNotFound")).first.click()
    page.get_by_role("heading", level=1).wait_for()
    yield "task"
    for name, path in {
        "tasks": "/tasks",
        "dead-letters": "/letters",
        "agents": "/agents",
    }.items():
        page.goto(f"{url}{path}")
        yield name
    page.goto(f"{url}/try?topic=claims.read")
    page.get_by_label("Content").fill(
        '{\n  "claim": "C-10001",\n  "policy": "HH-2100",\n  "amount": 1200\n}'
    )
    page.get_by_role("button", name="Publish").click()
    page.get_by_text('"covered": true').wait_for()
    page.get_by_text('"estimate"').wait_for()
    yield "try"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=285.0, help="how long the load lasts")
    parser.add_argument("--only", help="the name of one picture")
    parser.add_argument("--into", type=Path, default=HERE / "images", help="the folder")
    options = parser.parse_args()
    with load(options.seconds) as url:
        take(url, options.only, options.into.resolve())


if __name__ == "__main__":
    main()
