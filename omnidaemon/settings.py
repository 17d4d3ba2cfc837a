"""The settings: one frozen value, and the only reader of the environment and of `.env`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from msgspec import Struct

from omnidaemon.errors import InvalidSettings, UnknownBackend

T = TypeVar("T")

EventBus = Literal["redis_stream", "sqlite", "sqlite+fast", "memory"]
Storage = Literal["json", "redis", "sqlite", "memory"]
Wire = Literal["json", "msgpack"]
LogFormat = Literal["auto", "json", "text"]

EVENT_BUSES = ("redis_stream", "sqlite", "sqlite+fast", "memory")
STORAGES = ("json", "redis", "sqlite", "memory")
PLANNED = ("kafka", "rabbitmq", "nats", "postgresql", "mongodb")
REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")

# Without a word on it, one file holds events and results, beside where JSON files would lie.
SQLITE_FILE = "omnidaemon.db"
_SECRETS = frozenset({"api_keys", "webhook_secrets"})
_SECRET_VARIABLES = frozenset({"OMNIDAEMON_API_KEYS", "OMNIDAEMON_WEBHOOK_SECRET"})
_SECRET_PARAMETER = re.compile(
    r"((?:^|&)[^=&]*(?:pass|pwd|secret|token|auth|key)[^=&]*=)[^&]*", re.IGNORECASE
)
_NO_PORT = re.compile(r"^:|:(?![0-9]{1,5}(?:,|$)|[0-9a-fA-F:.]*\])")


class Settings(Struct, frozen=True, kw_only=True):
    """What the environment says, checked; without arguments, what holds when it says nothing.

    Attributes:
        event_bus: Where events wait; with REDIS_URL set it is Redis by default (EVENT_BUS_TYPE).
        storage: Where results and records are kept; by default where events are (STORAGE_BACKEND).
        sqlite: The SQLite file; by default `omnidaemon.db` in JSON_STORAGE_DIR
            (OMNIDAEMON_SQLITE).
        json_storage_dir: The folder of JSON files and of the SQLite file (JSON_STORAGE_DIR).
        redis_url: The Redis server, cluster or sentinels (REDIS_URL).
        redis_key_prefix: What every Redis key starts with (REDIS_KEY_PREFIX).
        wire: How envelopes are written; all forms are always read (OMNIDAEMON_WIRE).
        log_level: A level of the logging module (LOG_LEVEL).
        log_format: How lines look: one JSON object each, text, or by whether a person reads them at
            a terminal (LOG_FORMAT).
        api_enabled: Whether a worker serves the admin API (OMNIDAEMON_API_ENABLED).
        api_host: The address it listens on (OMNIDAEMON_API_HOST).
        api_port: The port it listens on (OMNIDAEMON_API_PORT).
        api_keys: Its keys, separated by commas, each `key:scope` or `key:scope:tenant`
            (OMNIDAEMON_API_KEYS).
        api_hosts: Host names under which it is answered without keys, besides localhost
            (OMNIDAEMON_API_HOSTS).
        metrics_port: Where a worker serves its own metrics for Prometheus, if anywhere. With
            several processes the others take the ports after it (OMNIDAEMON_METRICS_PORT).
        metrics_host: The address it listens on for that (OMNIDAEMON_METRICS_HOST).
        webhooks: Whether a worker posts to webhooks; else the posts wait for one that does
            (OMNIDAEMON_WEBHOOKS).
        webhook_secrets: What webhooks are signed with, `whsec_...`; two, separated by a comma,
            while one replaces the other (OMNIDAEMON_WEBHOOK_SECRET).
        webhook_allow: Hosts and networks that webhooks reach although they are private
            (OMNIDAEMON_WEBHOOK_ALLOW).
        result_ttl: Seconds for which a result is kept (OMNIDAEMON_RESULT_TTL).
        retention: Settled events kept per topic, for inspection (OMNIDAEMON_RETENTION).
        max_backlog: Unsettled events per topic beyond which new ones are refused; by default
            there is no bound (OMNIDAEMON_MAX_BACKLOG).
        max_message: Bytes an encoded envelope may have (OMNIDAEMON_MAX_MESSAGE).
        grace: Seconds that running handlers get when a worker stops (OMNIDAEMON_GRACE).
        chosen_by: Which variables led to `event_bus`.
    """

    event_bus: EventBus = "sqlite"
    storage: Storage | None = None
    sqlite: str | None = None
    json_storage_dir: str = ".omnidaemon_data"
    redis_url: str = "redis://localhost:6379"
    redis_key_prefix: str = "omni"
    wire: Wire = "json"
    log_level: str = "INFO"
    log_format: LogFormat = "auto"
    api_enabled: bool = False
    api_host: str = "127.0.0.1"
    api_port: int = 8765
    api_keys: tuple[str, ...] = ()
    api_hosts: tuple[str, ...] = ()
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    webhooks: bool = True
    webhook_secrets: tuple[str, ...] = ()
    webhook_allow: tuple[str, ...] = ()
    result_ttl: float = 86_400.0
    retention: int = 10_000
    max_backlog: int | None = None
    max_message: int = 1_000_000
    grace: float = 30.0
    chosen_by: str = "EVENT_BUS_TYPE is not set and REDIS_URL neither"

    @property
    def sqlite_file(self) -> str:
        """The SQLite file, as configured (relative to the current folder, perhaps)."""
        return self.sqlite or str(Path(self.json_storage_dir, SQLITE_FILE))

    @property
    def transport_url(self) -> str:
        """What `omnidaemon.transports.connect` takes; may hold a password."""
        match self.event_bus:
            case "redis_stream":
                return self._prefixed_redis_url
            case "memory":
                return "memory:"
            case "sqlite" | "sqlite+fast":
                return f"{self.event_bus}:{self.sqlite_file}"

    @property
    def store_url(self) -> str:
        """What `omnidaemon.stores.connect` takes; may hold a password."""
        match self.storage:
            case None:
                return self.transport_url
            case "redis":
                return self._prefixed_redis_url
            case "memory":
                return "memory:"
            case "json":
                return f"json:{self.json_storage_dir}"
            case "sqlite":
                # One file has one durability: that of the bus, if the bus is in it.
                fast = self.event_bus == "sqlite+fast"
                return f"sqlite{'+fast' if fast else ''}:{self.sqlite_file}"

    @property
    def _prefixed_redis_url(self) -> str:
        if self.redis_key_prefix == "omni":
            return self.redis_url  # the backends' own default
        mark = "&" if "?" in self.redis_url else "?"
        return f"{self.redis_url}{mark}prefix={self.redis_key_prefix}"

    @property
    def why(self) -> str:
        """One line for people: which backends were chosen, and by which variables."""
        events = f"{self.chosen_by}: {_describe(self.transport_url)}"
        if self.storage is None:
            return f"{events}, results in it too"
        if self.store_url == self.transport_url:
            return f"{events}, results in it too (STORAGE_BACKEND={self.storage})"
        return f"{events}; STORAGE_BACKEND={self.storage}: results in {_describe(self.store_url)}"

    def public(self) -> dict[str, Any]:
        """Every field by its name, without passwords, keys and secrets."""
        shown: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in _SECRETS:
                value = tuple("***" for _ in value)
            elif isinstance(value, str):
                value = redact_url(value)
            shown[name] = value
        return shown

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.public().items())
        return f"Settings({fields})"


def load_settings(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")
) -> Settings:
    """Reads the settings from the environment and a `.env` file; an empty value is no value.

    Args:
        environ: The variables; None takes the process's own. They win over the file's.
        dotenv: The file, in the current folder and not looked for above it; it may be missing.
            None reads no file.

    Raises:
        UnknownBackend: A backend is unknown or not supported yet.
        InvalidSettings: The file cannot be read, or a variable has no usable value.
            Both name every bad value at once, and no secret.
    """
    values = _read_dotenv(dotenv) if dotenv is not None else {}
    values.update(os.environ if environ is None else environ)
    reader = _Reader(values)
    chosen_by, event_bus = _choose_bus(reader)
    settings = Settings(
        event_bus=event_bus,
        storage=cast("Storage | None", reader.backend("STORAGE_BACKEND", STORAGES)),
        sqlite=reader.value("OMNIDAEMON_SQLITE", _path, None),
        json_storage_dir=reader.value("JSON_STORAGE_DIR", _path, ".omnidaemon_data"),
        redis_url=reader.value("REDIS_URL", _redis_url, "redis://localhost:6379"),
        redis_key_prefix=reader.value("REDIS_KEY_PREFIX", _prefix, "omni"),
        wire=cast(Wire, reader.value("OMNIDAEMON_WIRE", _one_of("json", "msgpack"), "json")),
        log_level=reader.value("LOG_LEVEL", _one_of(*LOG_LEVELS), "INFO"),
        log_format=cast(LogFormat, reader.value("LOG_FORMAT", _one_of(*LOG_FORMATS), "auto")),
        api_enabled=reader.value("OMNIDAEMON_API_ENABLED", _boolean, False),
        api_host=reader.value("OMNIDAEMON_API_HOST", _host, "127.0.0.1"),
        api_port=reader.value("OMNIDAEMON_API_PORT", _whole(1, 65_535), 8765),
        api_keys=reader.value("OMNIDAEMON_API_KEYS", _list, ()),
        api_hosts=reader.value("OMNIDAEMON_API_HOSTS", _host_names, ()),
        metrics_port=reader.value("OMNIDAEMON_METRICS_PORT", _whole(1, 65_535), None),
        metrics_host=reader.value("OMNIDAEMON_METRICS_HOST", _host, "127.0.0.1"),
        webhooks=reader.value("OMNIDAEMON_WEBHOOKS", _boolean, True),
        webhook_secrets=reader.value("OMNIDAEMON_WEBHOOK_SECRET", _list, ()),
        webhook_allow=reader.value("OMNIDAEMON_WEBHOOK_ALLOW", _hosts_and_networks, ()),
        result_ttl=reader.value("OMNIDAEMON_RESULT_TTL", _seconds(1, 315_360_000), 86_400.0),
        retention=reader.value("OMNIDAEMON_RETENTION", _whole(0, 1_000_000_000), 10_000),
        max_backlog=reader.value("OMNIDAEMON_MAX_BACKLOG", _whole(1, 1_000_000_000_000), None),
        max_message=reader.value("OMNIDAEMON_MAX_MESSAGE", _whole(1_000, 512_000_000), 1_000_000),
        grace=reader.value("OMNIDAEMON_GRACE", _seconds(0, 86_400), 30.0),
        chosen_by=chosen_by,
    )
    reader.raise_problems()
    return settings


def redact_url(url: str) -> str:
    """The URL without its password, also if it is badly written; rather too little than too much.

    Other text comes back as it is, unless it holds an `@`.
    """
    if url.partition(":")[0] in ("sqlite", "sqlite+fast", "json", "memory"):
        return url  # a path, in which an @ is a letter
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url)
    start = scheme[0] if scheme else ""
    place, mark, query = url[len(start) :].partition("?")
    if "@" in query:
        return f"{start}***"  # where the password ends cannot be told
    who, at, place = place.rpartition("@")
    if at:
        # A name without a password is hidden too: mostly it is a password without a name.
        name, colon, _ = who.partition(":")
        who = f"{name}:***" if colon else "***"
    elif scheme and _NO_PORT.search(place.partition("/")[0]):
        return f"{start}***"  # redis://:password, with the host forgotten
    query = _SECRET_PARAMETER.sub(r"\1***", query)
    return f"{start}{who}{at}{place}{mark}{query}"


def _describe(url: str) -> str:
    scheme, _, path = url.partition(":")
    match scheme:
        case "memory":
            return "the memory of this process"
        case "json":
            return f"the JSON files of {path}"
        case "sqlite":
            return f"the embedded SQLite file {path}"
        case "sqlite+fast":
            return f"the embedded SQLite file {path} (fast: a power cut may lose the last events)"
        case _:
            return f"Redis at {redact_url(url)}"


def _choose_bus(reader: _Reader) -> tuple[str, EventBus]:
    bus = cast("EventBus | None", reader.backend("EVENT_BUS_TYPE", EVENT_BUSES))
    if bus is not None:
        return f"EVENT_BUS_TYPE={bus}", bus
    if reader.get("REDIS_URL") is not None:
        return "EVENT_BUS_TYPE is not set and REDIS_URL is", "redis_stream"
    return "EVENT_BUS_TYPE is not set and REDIS_URL neither", "sqlite"


def _read_dotenv(file: Path) -> dict[str, str]:
    """The file's variables as they stand there; nothing in them is expanded."""
    # Here, so that a process with all it needs in its environment does not pay for the import.
    from dotenv.parser import parse_stream

    try:
        with file.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (FileNotFoundError, IsADirectoryError):
        return {}  # a folder of that name is a virtual environment
    except UnicodeDecodeError:
        raise InvalidSettings(f"{file} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidSettings(
            f"{file} cannot be read ({reason}): make it readable, or move it away"
        ) from error
    # `dotenv_values` would skip such lines with a warning. What stands there may be a secret.
    bad = [str(binding.original.line) for binding in bindings if binding.error]
    if bad:
        raise InvalidSettings(f"{file}, line {', '.join(bad)}: not of the form NAME=value")
    return {
        binding.key: binding.value
        for binding in bindings
        if binding.key is not None and binding.value is not None
    }


class _BadValueError(Exception):
    """A value is not usable; the message says what is accepted."""


class _Reader:
    """Takes variables one by one and remembers what was wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._problems: list[str] = []
        self._error: type[InvalidSettings | UnknownBackend] = InvalidSettings

    def get(self, name: str) -> str | None:
        return self._values.get(name, "").strip() or None

    def value(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The parsed value, or the default if there is none or (remembered) a bad one."""
        text = self.get(name)
        if text is None:
            return default
        try:
            if "\0" in text:
                raise _BadValueError("give a value without NUL")
            return parse(text)
        except _BadValueError as bad:
            shown = "***" if name in _SECRET_VARIABLES else _shown(text)
            self._problems.append(f"{name}={shown}: {bad}")
            return default

    def backend(self, name: str, known: tuple[str, ...]) -> str | None:
        """One of the known names; None if there is none, or (remembered) another."""
        text = self.get(name)
        if text is None or text.lower() in known:
            return text and text.lower()
        what = "is not supported yet" if text.lower() in PLANNED else "is unknown"
        self._problems.append(f"{name}={_shown(text)} {what}: give one of {', '.join(known)}")
        self._error = UnknownBackend
        return None

    def raise_problems(self) -> None:
        if len(self._problems) == 1:
            raise self._error(self._problems[0])
        if self._problems:
            raise self._error("\n  ".join(["several settings are wrong:", *self._problems]))


def _shown(text: str) -> str:
    shown = redact_url(text)
    return repr(shown if len(shown) <= 80 else shown[:80] + "…")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise _BadValueError(f"give one of {', '.join(choices)}")

    return parse


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise _BadValueError("give true or false")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # A length first: int() of a very long text is slow, and refused with an error of its own.
        if re.fullmatch(r"[0-9][0-9_]{0,29}", text) and "__" not in text and text[-1] != "_":
            number = int(text)
            if low <= number <= high:
                return number
        raise _BadValueError(f"give a whole number from {low} to {high}")

    return parse


def _seconds(low: int, high: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,30}(\.[0-9]{1,30})?", text):
            number = float(text)
            if low <= number <= high:
                return number
        raise _BadValueError(f"give seconds from {low} to {high}")

    return parse


def _path(text: str) -> str:
    if re.match(r":memory:|file:|sqlite(\+fast)?:|json:", text):
        raise _BadValueError("give a path, not a URL (for events in memory: EVENT_BUS_TYPE=memory)")
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise _BadValueError("give a path without ~: there is no such home directory") from None


def _redis_url(text: str) -> str:
    """Checks what can be checked without knowing how many hosts it names."""
    accepted = f"give {'://…, '.join(REDIS_SCHEMES)}://…"
    if "${" in text:
        raise _BadValueError("variables are not expanded: write the URL out")
    try:
        parts = urlsplit(text)
        if "," not in parts.netloc:
            _ = parts.port
    except ValueError:
        raise _BadValueError(
            "the host or the port cannot be read: percent-encode the password"
        ) from None
    if parts.scheme not in REDIS_SCHEMES or "://" not in text:
        raise _BadValueError(accepted)
    return text


def _prefix(text: str) -> str:
    # Braces would be a hash tag in a cluster, and decide where every key lies.
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", text):
        return text
    raise _BadValueError("give up to 100 letters, digits, and . _ : - after the first")


def _host(text: str) -> str:
    import ipaddress  # 4 ms of every start, for few

    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})", text):
        return text
    raise _BadValueError("give a host name or an address, without scheme and port")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def _host_names(text: str) -> tuple[str, ...]:
    return tuple(_host(part) for part in _list(text))


def _hosts_and_networks(text: str) -> tuple[str, ...]:
    import ipaddress

    found = []
    for part in _list(text):
        if "/" not in part:
            found.append(_host(part))
            continue
        try:
            found.append(str(ipaddress.ip_network(part, strict=False)))
        except ValueError:
            raise _BadValueError(
                "give host names, addresses or networks (10.0.0.0/8), separated by commas"
            ) from None
    return tuple(found)
