"""Objects by their name, and backends by their scheme."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from omnidaemon import stores, transports
from omnidaemon.errors import ConfigurationError, ImportStringError, MissingExtra, UnknownBackend
from omnidaemon.imports import Backend, import_string, load_backend, scheme_of
from omnidaemon.stores.memory import MemoryStore
from omnidaemon.transports.base import Limits
from omnidaemon.transports.memory import MemoryTransport


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for modules made by a test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


# Strings


def test_a_string_leads_to_an_attribute() -> None:
    assert import_string("omnidaemon.imports:import_string") is import_string


def test_attributes_may_be_dotted() -> None:
    assert import_string("pathlib:Path.home.__name__") == "home"


@pytest.mark.parametrize(
    "path",
    ["shop", "shop.main", "shop:", ":app", ":", "", "shop/main.py:app", ".main:app", "a:b c"],
)
def test_what_is_no_string_of_the_kind_says_how_to_write_one(path: str) -> None:
    with pytest.raises(ImportStringError, match=r"write module:attribute, for example shop\.main:"):
        import_string(path)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("examples/quickstart.py:app", "examples.quickstart:app"),
        ("./desk.py:app", "desk:app"),
        ("desk.py", "desk:app"),
        ("/srv/desk/main.py:app", "shop.main:app"),
    ],
)
def test_a_file_is_told_how_its_module_is_written(path: str, meant: str) -> None:
    with pytest.raises(ImportStringError, match=f"names a file: .* for example {meant}$"):
        import_string(path)


@pytest.mark.parametrize("path", ["no_such_shop:app", "no_such_shop.main:app"])
def test_a_module_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ImportStringError, match="no module 'no_such_shop' here") as caught:
        import_string(path)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_module_missing_in_a_package_is_named() -> None:
    with pytest.raises(ImportStringError, match=r"no module 'omnidaemon\.nowhere' here"):
        import_string("omnidaemon.nowhere:app")


def test_an_attribute_that_is_not_there_is_named() -> None:
    with pytest.raises(ImportStringError, match=r"pathlib\.Path has no attribute 'nothing'"):
        import_string("pathlib:Path.nothing.more")


def test_a_module_that_imports_something_missing_shows_its_own_error(modules: Path) -> None:
    (modules / "shop_a.py").write_text("import not_installed_here\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        import_string("shop_a:app")


def test_a_module_that_fails_while_it_is_imported_shows_its_own_error(modules: Path) -> None:
    (modules / "shop_b.py").write_text("from pathlib import Nonsense\n")
    (modules / "shop_c.py").write_text("1 / 0\n")
    with pytest.raises(ImportError, match="Nonsense"):
        import_string("shop_b:app")
    with pytest.raises(ZeroDivisionError):
        import_string("shop_c:app")


# Schemes and tables


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("memory", "memory"),
        ("memory:", "memory"),
        ("memory://name", "memory"),
        ("sqlite+fast:folder/file.db", "sqlite+fast"),
        ("SQLite:///file.db", "sqlite"),
        ("redis://user:secret@host:6379", "redis"),
    ],
)
def test_a_scheme_is_what_stands_before_the_first_colon(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


@pytest.mark.parametrize("url", ["", "//host", "user secret@host", "/folder/file.db"])
def test_a_url_without_a_scheme_is_an_error_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        scheme_of(url)
    assert "secret" not in str(caught.value)


def test_a_backend_is_loaded_from_the_table() -> None:
    table = {"memory": Backend("omnidaemon.transports.memory:MemoryTransport")}
    assert load_backend("transports", table, "memory") is MemoryTransport


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(UnknownBackend, match="'kafka'; known are: memory, redis, "):
        transports.connect("kafka://user:secret@host")
    with pytest.raises(UnknownBackend, match="memory") as caught:
        stores.connect("kafka://user:secret@host")
    assert "secret" not in str(caught.value)


def test_another_package_adds_a_backend_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("post", "omnidaemon.transports.memory:MemoryTransport", group)]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert load_backend("transports", transports.BACKENDS, "memory") is MemoryTransport
    assert asked == []  # only for what the table lacks
    assert load_backend("transports", transports.BACKENDS, "post") is MemoryTransport
    assert asked == ["omnidaemon.transports"]
    with pytest.raises(UnknownBackend, match="memory, post, redis"):
        load_backend("transports", transports.BACKENDS, "kafka")


def test_a_missing_package_names_its_extra_and_not_the_package_of_our_name(modules: Path) -> None:
    (modules / "backend_a.py").write_text("import not_installed_here\n")
    table = {"redis": Backend("backend_a:Transport", extra="redis", requires="redis>=5.2")}
    with pytest.raises(MissingExtra) as caught:
        load_backend("transports", table, "redis")
    message = str(caught.value)
    assert "'not_installed_here'" in message
    assert "extra `redis`" in message
    assert "pip install 'redis>=5.2'" in message
    assert "pip install omnidaemon" not in message
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_without_an_extra_a_missing_package_is_its_own_error(modules: Path) -> None:
    (modules / "backend_b.py").write_text("import not_installed_here\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        load_backend("transports", {"own": Backend("backend_b:Transport")}, "own")


def test_connect_hands_on_url_limits_and_clock() -> None:
    limits = Limits(max_backlog=3)
    transport = transports.connect("memory://hands-on", limits=limits, clock=lambda: 5.0)
    store = stores.connect("memory://hands-on", clock=lambda: 5.0)
    assert isinstance(transport, MemoryTransport)
    assert isinstance(store, MemoryStore)
    assert transport.backend == store.backend == "memory://hands-on"


def test_naming_the_backends_imports_none_of_them() -> None:
    code = (
        "import sys, omnidaemon.transports, omnidaemon.stores;"
        "print([m for m in sys.modules if 'sqlite' in m or m in"
        " ('omnidaemon.transports.memory', 'omnidaemon.stores.memory')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
