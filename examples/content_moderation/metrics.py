"""Counters for Prometheus, if MODERATION_METRICS_PORT is set and the package is there.

They count runs: what is run again after a crash is counted again. Exact counts are in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from examples.content_moderation.values import Verdict
from omnidaemon import ConfigurationError

logger = logging.getLogger(__name__)


class Counters:
    """What the agents count; without a registry, nothing."""

    def __init__(self, registry: Any = None) -> None:
        self._files = self._findings = self._reviews = None
        if registry is not None:
            from prometheus_client import Counter

            self._files = Counter("moderation_files", "Files judged", ["action"], registry=registry)
            self._findings = Counter(
                "moderation_findings", "What tools saw", ["tool", "severity"], registry=registry
            )
            self._reviews = Counter(
                "moderation_reviews", "Reviews stored", ["status"], registry=registry
            )

    def judged(self, verdict: Verdict) -> None:
        """Counts a file and its findings."""
        if self._files is not None and self._findings is not None:
            self._files.labels(verdict.action).inc()
            for finding in verdict.findings:
                self._findings.labels(finding.tool, finding.severity).inc()

    def reviewed(self, status: str) -> None:
        """Counts a review."""
        if self._reviews is not None:
            self._reviews.labels(status).inc()


@contextmanager
def counting(port: int | None) -> Iterator[Counters]:
    """Serves the counters on 127.0.0.1 while the block lasts; with None there are none.

    Raises:
        ConfigurationError: The package is missing, or the port is taken.
    """
    if port is None:
        yield Counters()
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "MODERATION_METRICS_PORT needs the package 'prometheus_client', which is not "
            "installed: install this package with its extra `metrics`, or pip install "
            "prometheus-client"
        ) from error
    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigurationError(
            f"MODERATION_METRICS_PORT={port} cannot be used: {error.strerror}; each worker process "
            "needs a port of its own"
        ) from error
    logger.info("counters on http://127.0.0.1:%d/metrics", server.server_port)
    try:
        yield Counters(registry)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
