"""A worker's own port for Prometheus: what this process has done, beside what it uses."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from omnidaemon.errors import ConfigurationError, MissingExtra
from omnidaemon.exposition import WorkerNumbers, registry, worker_families
from omnidaemon.worker.tally import Tally
from omnidaemon.worker.worker import Worker

logger = logging.getLogger("omnidaemon.worker")


class Port(Struct, frozen=True):
    """Where a worker's metrics are served.

    Attributes:
        host: The address to listen on.
        number: The port; 0 takes a free one.
        insisted: True if the worker must not run without it.
    """

    host: str
    number: int
    insisted: bool = False


@contextmanager
def exporting(worker: Worker, tally: Tally, port: Port) -> Iterator[None]:
    """Serves the worker's metrics meanwhile, from a thread; if that cannot be, says why.

    Raises:
        ConfigurationError: It was insisted on, and the port is taken or a package missing.
    """
    server = None
    try:
        server = _listen(worker, tally, port)
    except ConfigurationError as error:
        if port.insisted:
            raise
        logger.error("%s", error)
    try:
        yield
    finally:
        if server is not None:
            server.stop()


class _Server:
    """prometheus_client's server, in its thread."""

    def __init__(self, worker: Worker, tally: Tally, port: Port) -> None:
        def numbers() -> WorkerNumbers:
            return WorkerNumbers(tally.totals, worker.running, tally.lease_losses, worker.state)

        found = registry(lambda: worker_families(numbers()))
        from prometheus_client import (
            PlatformCollector,
            ProcessCollector,
            start_http_server,
        )

        ProcessCollector(registry=found)
        PlatformCollector(registry=found)
        self._server, self._thread = start_http_server(port.number, port.host, found)
        self.port = self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _listen(worker: Worker, tally: Tally, port: Port) -> _Server:
    try:
        server = _Server(worker, tally, port)
    except MissingExtra:
        raise
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(
            f"the worker's metrics are not served: port {port.number} of {port.host} cannot be "
            f"listened on ({why}): end what uses it, or choose another with --metrics-port or "
            "OMNIDAEMON_METRICS_PORT"
        ) from error
    host = f"[{port.host}]" if ":" in port.host else port.host
    logger.info("the worker's metrics are served at http://%s:%d/metrics", host, server.port)
    return server
