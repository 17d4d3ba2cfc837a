"""Logs: what a line says of the task that it belongs to, and how lines look.

Where a program sets logging up itself, nothing here is used unless it says so:
`handler.addFilter(TaskFilter())` names the task on every line, and `JsonFormatter()` writes JSON.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from omnidaemon.context import current_run
from omnidaemon.envelope import decode
from omnidaemon.errors import DecodeError
from omnidaemon.messages import Delivery
from omnidaemon.records import iso
from omnidaemon.settings import LogFormat
from omnidaemon.telemetry.signals import trace_ids

FIELDS = ("task_id", "topic", "agent", "attempt", "correlation_id", "trace_id", "span_id")
"""What every line of a task carries, as far as the task has it."""

_PLAIN = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
_LONGEST = 200  # a correlation id may be any text
_PARTING = re.compile(r"[\s=\[\]\"']")
_OWN = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class TaskFilter(logging.Filter):
    """Gives each record the attributes of FIELDS, "" where there is none; lets all through.

    It knows the task by the context that the line is logged in: the handler's own, that of tasks it
    starts, and of threads that anyio or asyncio start for it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds what is not there yet."""
        run = current_run.get()
        found: dict[str, Any] = {}
        headers: Mapping[str, str] = {}
        if run is not None and "task_id" not in vars(record):
            headers = run.headers
            found = {
                "task_id": run.id,
                "topic": run.topic,
                "agent": run.agent,
                "attempt": run.attempt,
                "correlation_id": run.correlation_id or "",
            }
        if "trace_id" not in vars(record):
            found["trace_id"], found["span_id"] = trace_ids(headers)
        for name in FIELDS:
            if name not in vars(record):
                setattr(record, name, found.get(name, ""))
        return True


def about(delivery: Delivery) -> dict[str, Any]:
    """The fields of a line that is logged outside of the run it is about, for `extra`."""
    found: dict[str, Any] = {
        "task_id": delivery.id,
        "topic": delivery.topic,
        "agent": delivery.group,
        "attempt": delivery.attempt,
    }
    try:
        envelope = decode(delivery.body)
    except DecodeError:
        return {**found, "trace_id": ""}
    found["correlation_id"] = envelope.correlation_id or ""
    found["trace_id"] = trace_ids(envelope.headers)[0]
    return found


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Those of FIELDS that the record has."""
    return {name: value for name in FIELDS if (value := getattr(record, name, "")) != ""}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, pid, the task's fields, extras."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as text, without the end of the line."""
        line: dict[str, Any] = {
            "timestamp": iso(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _OWN and name not in line and name not in FIELDS:
                line[name] = value
        try:
            return _encode(line)
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
            # Lone surrogates, keys that JSON has not: the line is worth more than its exact look.
            shown = {str(name): _escaped(str(value)) for name, value in line.items()}
            return _encode(shown)


class TextFormatter(logging.Formatter):
    """A line for people, with the task's fields at its end; as `logging.Formatter` otherwise."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The first line; tracebacks follow it."""
        return f"{super().formatMessage(record)}{suffix(record)}"


def suffix(record: logging.LogRecord) -> str:
    """The task's fields as ` [name=value ...]`; "" for a line of no task."""
    fields = fields_of(record)
    return f" [{' '.join(f'{k}={_quoted(v)}' for k, v in fields.items())}]" if fields else ""


def _quoted(value: object) -> str:
    """As it is, or as Python writes it where it would look like another field, or line."""
    text = str(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return shown if shown.isprintable() and not _PARTING.search(shown) else repr(shown)


def make_handler(form: LogFormat) -> logging.Handler:
    """Writes to standard error, in the form that was asked for."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    handler: logging.Handler
    if form == "auto" and terminal:
        from rich.console import Console  # these take 60 ms, and terminals alone want them
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%X")
        handler.setFormatter(TextFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(TextFormatter(_PLAIN) if form == "text" else JsonFormatter())
    handler.addFilter(TaskFilter())
    return handler


def set_up(level: str, form: LogFormat) -> None:
    """Logs to standard error what all loggers say, unless the program has its own way.

    Args:
        level: The least level that is logged; in a program with its own way, of our loggers alone.
        form: How lines look.
    """
    root = logging.getLogger()
    # One of OpenTelemetry's sends lines elsewhere, and shows them to nobody here.
    if all(type(own).__module__.startswith("opentelemetry.") for own in root.handlers):
        root.addHandler(make_handler(form))
        root.setLevel(level.upper())
    logging.getLogger("omnidaemon").setLevel(level.upper())
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # the supervisor says it better


def _encode(line: dict[str, Any]) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
