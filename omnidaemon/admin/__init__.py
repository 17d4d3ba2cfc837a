"""The admin API: `Admin(app)` is an ASGI app to serve or to mount in FastAPI and Starlette."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omnidaemon.errors import MissingExtra

if TYPE_CHECKING:
    from omnidaemon.admin.api import Admin as Admin
    from omnidaemon.admin.server import ApiServer as ApiServer
    from omnidaemon.admin.server import serve_api as serve_api

__all__ = ["Admin", "ApiServer", "serve_api"]

_PLACES = {"Admin": "api", "ApiServer": "server", "serve_api": "server"}


def __getattr__(name: str) -> Any:
    """Imported when asked for: a worker without the API pays nothing, and needs no extra."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"omnidaemon.admin.{_PLACES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jinja2", "starlette", "uvicorn"):
            raise
        raise MissingExtra(
            f"the admin API needs the package {error.name!r}, which is not installed: install this "
            "package with its extra `api`, or: pip install jinja2 prometheus-client starlette "
            "uvicorn"
        ) from error
    return getattr(module, name)
