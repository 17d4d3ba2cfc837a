"""The API served beside a worker: by uvicorn, in a thread with an event loop of its own.

In a thread, because a handler that blocks the worker's loop is when people look; and because
uvicorn takes over signals in the main thread alone.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

import uvicorn

from omnidaemon.admin.api import Admin
from omnidaemon.app import App
from omnidaemon.errors import ConfigurationError, InvalidSettings

logger = logging.getLogger("omnidaemon.admin")

STOP_SECONDS = 2.0
_lock = threading.Lock()
_serving: ApiServer | None = None


class ApiServer:
    """The API as this process serves it.

    Attributes:
        host: The address it listens on.
        port: The port it listens on.
        app: Whose API it is; others of the process join it, and do not end it.
    """

    def __init__(self, app: App, admin: Admin, listener: socket.socket) -> None:
        self.app = app
        self.host, self.port = listener.getsockname()[:2]
        self._listener = listener
        self._pid = os.getpid()
        self._server = uvicorn.Server(
            uvicorn.Config(
                admin,
                lifespan="auto",
                ws="none",
                log_config=None,
                log_level="warning",  # what matters is said here
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="omnidaemon-api", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether it serves, in this process: a fork has no such thread."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def stop(self) -> None:
        """Ends it; streams that are open end within two seconds."""
        global _serving
        with _lock:
            if _serving is self:
                _serving = None
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:  # whatever it is, the worker goes on
            logger.exception("the admin API at %s has ended", self.url)
        finally:
            self._listener.close()


def serve_api(
    app: App,
    *,
    host: str | None = None,
    port: int | None = None,
    keys: Sequence[str] | None = None,
) -> ApiServer:
    """Serves the admin API of the app from this process until it ends, or `stop()`.

    There is one per process: a second call joins the first, whatever it asks for.

    Args:
        app: Whose backends are looked at.
        host: The address to listen on; by default OMNIDAEMON_API_HOST, 127.0.0.1.
        port: The port; by default OMNIDAEMON_API_PORT, 8765; 0 takes a free one.
        keys: Entries as in OMNIDAEMON_API_KEYS; None takes the settings'.

    Raises:
        InvalidSettings: It would be open to other machines without keys, or a key is not usable.
        ConfigurationError: The address cannot be listened on.
    """
    global _serving
    settings = app.settings
    host = settings.api_host if host is None else host
    port = settings.api_port if port is None else port
    keys = settings.api_keys if keys is None else keys
    with _lock:
        if _serving is not None and _serving.alive:
            logger.info("the admin API is served already, at %s", _serving.url)
            return _serving
        hosts = list(settings.api_hosts)
        addresses = _addresses(host, port)
        if not keys and not all(_is_loopback(address[1][0]) for address in addresses):
            raise InvalidSettings(
                f"the admin API is not served: on {host} other machines would reach it without a "
                "key. Set OMNIDAEMON_API_KEYS=key:scope (scopes read, publish, admin), or leave "
                "OMNIDAEMON_API_HOST at 127.0.0.1"
            )
        admin = Admin(app, auth="keys" if keys else "none", keys=keys, hosts=hosts)
        _serving = ApiServer(app, admin, _listen(host, port, addresses))
        logger.info(
            "the admin API is served at %s, and the dashboard at %s/ui, %s",
            _serving.url,
            _serving.url,
            "to those who have a key" if keys else "to this machine, without keys",
        )
        return _serving


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except OSError as error:
        raise ConfigurationError(
            f"the admin API is not served: {host!r} is no address of this machine "
            f"({error.strerror}): see OMNIDAEMON_API_HOST"
        ) from error
    return [(family, address) for family, _, _, _, address in found]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _listen(
    host: str, port: int, addresses: list[tuple[socket.AddressFamily, Any]]
) -> socket.socket:
    family, address = addresses[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"the admin API is not served: port {port} of {host} cannot be listened on "
            f"({os.strerror(error.errno or 0)}): end what uses it, or choose another with "
            "--api-port or OMNIDAEMON_API_PORT"
        ) from error
    return listener
