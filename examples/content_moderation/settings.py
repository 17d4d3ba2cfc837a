"""Where the example keeps its files, and what it may use: the one reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from omnidaemon import ConfigurationError


class Model(Struct, frozen=True):
    """An OpenAI-compatible model.

    Attributes:
        url: Its base URL, such as `https://api.openai.com/v1`.
        name: Which one.
        key: None for one that asks for none, as local ones do.
    """

    url: str
    name: str
    key: str | None = None


class Settings(Struct, frozen=True):
    """What the environment says.

    Attributes:
        database: The SQLite file with the table `moderation_reviews`.
        quarantine: The folder that files are moved to.
        seen: The SQLite file in which the publisher remembers what it has published.
        folders: If there are any, the agents touch only files within them.
        metrics_port: Where Prometheus finds the counters; None counts nothing.
        model: Who is asked for a second opinion; None asks nobody.
    """

    database: Path
    quarantine: Path
    seen: Path
    folders: tuple[Path, ...] = ()
    metrics_port: int | None = None
    model: Model | None = None


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads MODERATION_* and OPENAI_*; an empty value is no value.

    Raises:
        ConfigurationError: The port is none.
    """
    env = {name: value for name, value in (environ or os.environ).items() if value}
    home = Path(env.get("MODERATION_HOME", "~/.omniagent")).expanduser().absolute()
    model = None
    if "OPENAI_API_KEY" in env or "OPENAI_BASE_URL" in env:
        model = Model(
            env.get("OPENAI_BASE_URL", "https://api.openai.com/v1").rstrip("/"),
            env.get("OPENAI_MODEL", "gpt-4o-mini"),
            env.get("OPENAI_API_KEY"),
        )
    folders = env.get("MODERATION_FOLDERS", "").split(os.pathsep)
    return Settings(
        database=_path(env, "MODERATION_DB", home / "moderation.db"),
        quarantine=_path(env, "MODERATION_QUARANTINE", home / "quarantine"),
        seen=_path(env, "MODERATION_SEEN", home / "publisher.db"),
        folders=tuple(Path(folder).expanduser().resolve() for folder in folders if folder),
        metrics_port=_port(env.get("MODERATION_METRICS_PORT")),
        model=model,
    )


def _path(env: Mapping[str, str], name: str, default: Path) -> Path:
    return Path(env[name]).expanduser().absolute() if name in env else default


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) > 65_535:
        raise ConfigurationError(f"MODERATION_METRICS_PORT={text!r}: give a port, 0 to 65535")
    return int(text)
