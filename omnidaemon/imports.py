"""Objects by their name: "module:attribute" strings, and backends by the scheme of their URL."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from msgspec import Struct

from omnidaemon.errors import (
    ConfigurationError,
    ImportStringError,
    MissingExtra,
    UnknownBackend,
)

Kind = Literal["transports", "stores"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class Backend(Struct, frozen=True):
    """A line of a table of backends.

    Attributes:
        target: "module:Class".
        extra: The extra of this package that installs what the module imports; None if it needs
            nothing that is not always there.
        requires: The same as requirements for `pip install`, such as "redis>=5".
    """

    target: str
    extra: str | None = None
    requires: str = ""


def import_string(path: str) -> Any:
    """Imports `path`, which reads "module:attribute"; the attribute may be dotted.

    Raises:
        ImportStringError: No colon, no such module, or no such attribute. What a module raises
            while it is imported comes through as it is.
    """
    name, _, attributes = path.partition(":")
    # Checked before importing: importlib answers a relative or misspelt name with TypeError.
    if not all(part.isidentifier() for part in (*name.split("."), *attributes.split("."))):
        raise ImportStringError(
            f"{path!r} names {'a file' if _is_file(name) else 'no object'}: write"
            f" module:attribute, for example {_example(name, attributes)}"
        )
    value: Any = _import_module(name, path)
    passed = name
    for attribute in attributes.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError as error:
            raise ImportStringError(
                f"{path!r} leads nowhere: {passed} has no attribute {attribute!r}"
                " (write module:attribute, for example shop.main:app)"
            ) from error
        passed += f".{attribute}"
    return value


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _example(name: str, attributes: str) -> str:
    """How to write what was written as a file; the same for all that is not understood."""
    module = name.removeprefix("./").removesuffix(".py").replace("/", ".")
    if _is_file(name) and all(part.isidentifier() for part in module.split(".")):
        return f"{module}:{attributes or 'app'}"
    return "shop.main:app"


def _import_module(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module asked for, or a package above it: one that is there and imports
        # something missing must show its own error.
        missing = error.name or ""
        if missing == name or name.startswith(f"{missing}."):
            raise ImportStringError(
                f"{path!r} leads nowhere: there is no module {missing!r} here; is the folder it"
                " stands in on the path? (write module:attribute, for example shop.main:app)"
            ) from error
        raise


def scheme_of(url: str) -> str:
    """Returns the part of a backend's URL before the first colon, or all of a bare "memory".

    Raises:
        ConfigurationError: It has none. The message does not repeat the URL, which may hold a
            password.
    """
    scheme = url.partition(":")[0].lower()
    if not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            "a backend is named by a URL such as sqlite:folder/file.db, redis://host:6379 or"
            " memory:, and the one given has no scheme"
        )
    return scheme


def load_backend(kind: Kind, table: Mapping[str, Backend], scheme: str) -> Any:
    """Imports the class behind a scheme.

    What the table lacks is looked up in the entry-point group `omnidaemon.<kind>`, where other
    packages add theirs under the scheme's name.

    Raises:
        UnknownBackend: Neither lists the scheme.
        MissingExtra: It is known, and what it needs is not installed.
    """
    backend = table.get(scheme)
    if backend is not None:
        return _load(backend, scheme)
    added = _added(kind)
    if scheme in added:
        return added[scheme].load()
    known = ", ".join(sorted({*table, *added}))
    raise UnknownBackend(
        f"{kind} know no backend {scheme!r}; known are: {known}. A package can add one with an"
        f" entry point in the group omnidaemon.{kind}"
    )


def _added(kind: Kind) -> dict[str, Any]:
    from importlib.metadata import entry_points  # 40 ms, and seldom needed

    return {entry.name: entry for entry in entry_points(group=f"omnidaemon.{kind}")}


def _load(backend: Backend, scheme: str) -> Any:
    try:
        return import_string(backend.target)
    except ModuleNotFoundError as error:
        if backend.extra is None:
            raise
        # Never "pip install <our name>": an unrelated package has that name on the index.
        raise MissingExtra(
            f"{scheme}: needs the package {error.name!r}, which is not installed: install this"
            f" package with its extra `{backend.extra}`, or: pip install '{backend.requires}'"
        ) from error
