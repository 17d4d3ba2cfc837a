"""The files that guides show do what the guides say."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import click
import pytest

from examples.guides import payment, test_payment
from omnidaemon.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def test_an_order_that_is_run_and_sent_twice_is_charged_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(payment, "provider", payment.Provider())
    monkeypatch.setattr(test_payment, "provider", payment.provider)
    test_payment.test_an_order_is_charged_once()


def test_without_the_key_the_order_would_be_charged_again(monkeypatch: pytest.MonkeyPatch):
    class Forgetful(payment.Provider):
        async def charge(self, cents: int, *, idempotency_key: str) -> int:
            return await super().charge(
                cents, idempotency_key=f"{idempotency_key}-{len(self.charges)}"
            )

    monkeypatch.setattr(payment, "provider", Forgetful())
    monkeypatch.setattr(test_payment, "provider", payment.provider)
    with pytest.raises(AssertionError):
        test_payment.test_an_order_is_charged_once()


def test_the_unit_of_systemd_starts_a_worker_as_it_can_be_started():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "examples/tutorial/desk.service")
    program, command, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program == f"{unit['Service']['WorkingDirectory']}/.venv/bin/omnidaemon"
    worker = cli.get_command(click.Context(cli), command)
    assert worker is not None
    parsed = worker.make_context("worker", arguments)
    assert parsed.params["processes"] == 2
    assert int(unit["Service"]["TimeoutStopSec"]) > 30  # the worker's own grace
    assert unit["Service"]["KillMode"] == "mixed"  # SIGTERM to the first alone
