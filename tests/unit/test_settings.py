"""The settings: what the environment and `.env` may say, and what is never shown."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidaemon.errors import ConfigurationError, InvalidSettings, UnknownBackend
from omnidaemon.settings import EVENT_BUSES, STORAGES, Settings, load_settings, redact_url


def load(**environ: str) -> Settings:
    return load_settings(environ, dotenv=None)


def complaint(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**environ)
    return str(caught.value)


VARIABLES = [
    "EVENT_BUS_TYPE",
    "STORAGE_BACKEND",
    "REDIS_URL",
    "REDIS_KEY_PREFIX",
    "JSON_STORAGE_DIR",
    "LOG_LEVEL",
    "OMNIDAEMON_SQLITE",
    "OMNIDAEMON_WIRE",
    "OMNIDAEMON_API_ENABLED",
    "OMNIDAEMON_API_HOST",
    "OMNIDAEMON_API_PORT",
    "OMNIDAEMON_API_KEYS",
    "OMNIDAEMON_API_HOSTS",
    "OMNIDAEMON_WEBHOOK_SECRET",
    "OMNIDAEMON_WEBHOOK_ALLOW",
    "OMNIDAEMON_RESULT_TTL",
    "OMNIDAEMON_RETENTION",
    "OMNIDAEMON_MAX_BACKLOG",
    "OMNIDAEMON_MAX_MESSAGE",
    "OMNIDAEMON_GRACE",
]


class TestBackends:
    def test_with_nothing_set_events_and_results_are_in_the_embedded_sqlite_file(self):
        settings = load()
        assert settings == Settings()
        assert settings.transport_url == "sqlite:.omnidaemon_data/omnidaemon.db"
        assert settings.store_url == settings.transport_url
        assert settings.why == (
            "EVENT_BUS_TYPE is not set and REDIS_URL neither: the embedded SQLite file "
            ".omnidaemon_data/omnidaemon.db, results in it too"
        )

    def test_json_storage_dir_moves_the_folder_of_the_sqlite_file(self):
        assert load(JSON_STORAGE_DIR="/srv/data").transport_url == "sqlite:/srv/data/omnidaemon.db"

    def test_omnidaemon_sqlite_names_the_file(self):
        settings = load(OMNIDAEMON_SQLITE="/srv/events.db", JSON_STORAGE_DIR="/srv/data")
        assert settings.transport_url == settings.store_url == "sqlite:/srv/events.db"

    def test_the_fast_sqlite_is_chosen_by_the_bus_and_the_store_follows(self):
        settings = load(EVENT_BUS_TYPE="sqlite+fast")
        assert settings.transport_url == "sqlite+fast:.omnidaemon_data/omnidaemon.db"
        assert settings.store_url == settings.transport_url
        assert "a power cut may lose" in settings.why

    @pytest.mark.parametrize("bus", ["sqlite", "sqlite+fast"])
    def test_one_sqlite_file_has_one_durability(self, bus: str):
        settings = load(EVENT_BUS_TYPE=bus, STORAGE_BACKEND="sqlite")
        assert settings.store_url == settings.transport_url
        assert settings.why.endswith("results in it too (STORAGE_BACKEND=sqlite)")

    def test_a_redis_url_alone_chooses_redis_streams(self):
        settings = load(REDIS_URL="redis://cache:6380/2")
        assert settings.transport_url == settings.store_url == "redis://cache:6380/2"
        assert settings.why == (
            "EVENT_BUS_TYPE is not set and REDIS_URL is: Redis at redis://cache:6380/2, "
            "results in it too"
        )

    def test_redis_streams_without_a_url_are_on_this_machine(self):
        assert load(EVENT_BUS_TYPE="redis_stream").transport_url == "redis://localhost:6379"

    def test_the_bus_named_wins_over_a_redis_url(self):
        settings = load(EVENT_BUS_TYPE="memory", REDIS_URL="redis://cache")
        assert settings.transport_url == settings.store_url == "memory:"
        assert settings.why.startswith("EVENT_BUS_TYPE=memory: the memory of this process")

    def test_a_store_of_its_own_is_named_in_the_reason(self):
        settings = load(STORAGE_BACKEND="json", JSON_STORAGE_DIR="/srv/data")
        assert settings.store_url == "json:/srv/data"
        assert settings.why.endswith(
            "; STORAGE_BACKEND=json: results in the JSON files of /srv/data"
        )

    @pytest.mark.parametrize("bus", EVENT_BUSES)
    @pytest.mark.parametrize("storage", STORAGES)
    def test_every_pair_of_known_backends_has_urls_and_a_reason_on_one_line(
        self, bus: str, storage: str
    ):
        settings = load(EVENT_BUS_TYPE=bus, STORAGE_BACKEND=storage)
        assert settings.transport_url.startswith(bus.removesuffix("_stream") + ":")
        assert settings.store_url.startswith(storage)
        assert "\n" not in settings.why

    @pytest.mark.parametrize("name", ["EVENT_BUS_TYPE", "STORAGE_BACKEND"])
    def test_an_unknown_backend_is_an_error_that_names_the_known_ones(self, name: str):
        with pytest.raises(UnknownBackend) as caught:
            load(**{name: "sqlight"})
        known = EVENT_BUSES if name == "EVENT_BUS_TYPE" else STORAGES
        assert str(caught.value) == (f"{name}='sqlight' is unknown: give one of {', '.join(known)}")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("EVENT_BUS_TYPE", "kafka"),
            ("EVENT_BUS_TYPE", "rabbitmq"),
            ("EVENT_BUS_TYPE", "nats"),
            ("STORAGE_BACKEND", "postgresql"),
            ("STORAGE_BACKEND", "mongodb"),
        ],
    )
    def test_a_backend_to_come_is_said_to_be_not_supported_yet(self, name: str, value: str):
        with pytest.raises(UnknownBackend, match=f"{name}='{value}' is not supported yet: give"):
            load(**{name: value})

    def test_a_bus_is_no_storage_and_a_storage_is_no_bus(self):
        with pytest.raises(UnknownBackend):
            load(EVENT_BUS_TYPE="json")
        with pytest.raises(UnknownBackend):
            load(STORAGE_BACKEND="redis_stream")

    def test_names_are_read_in_either_case(self):
        assert load(EVENT_BUS_TYPE="Memory").event_bus == "memory"


class TestValues:
    @pytest.mark.parametrize(
        ("name", "text", "field", "value"),
        [
            ("REDIS_KEY_PREFIX", "shop", "redis_key_prefix", "shop"),
            ("OMNIDAEMON_WIRE", "MsgPack", "wire", "msgpack"),
            ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
            ("LOG_FORMAT", "JSON", "log_format", "json"),
            ("OMNIDAEMON_API_ENABLED", "true", "api_enabled", True),
            ("OMNIDAEMON_API_ENABLED", "ON", "api_enabled", True),
            ("OMNIDAEMON_API_ENABLED", "1", "api_enabled", True),
            ("OMNIDAEMON_API_ENABLED", "no", "api_enabled", False),
            ("OMNIDAEMON_API_HOST", "0.0.0.0", "api_host", "0.0.0.0"),
            ("OMNIDAEMON_API_HOST", "[::1]", "api_host", "::1"),
            ("OMNIDAEMON_API_HOST", "agents.internal", "api_host", "agents.internal"),
            ("OMNIDAEMON_API_PORT", "1", "api_port", 1),
            ("OMNIDAEMON_API_PORT", "65535", "api_port", 65_535),
            ("OMNIDAEMON_API_KEYS", "k1:admin, k2:read", "api_keys", ("k1:admin", "k2:read")),
            ("OMNIDAEMON_API_HOSTS", "ops.internal, [::2]", "api_hosts", ("ops.internal", "::2")),
            ("OMNIDAEMON_WEBHOOK_SECRET", "new,old,", "webhook_secrets", ("new", "old")),
            (
                "OMNIDAEMON_WEBHOOK_ALLOW",
                "localhost, 10.0.0.0/8, fd00::/8, ::1",
                "webhook_allow",
                ("localhost", "10.0.0.0/8", "fd00::/8", "::1"),
            ),
            ("OMNIDAEMON_RESULT_TTL", "3600", "result_ttl", 3600.0),
            ("OMNIDAEMON_RETENTION", "0", "retention", 0),
            ("OMNIDAEMON_MAX_BACKLOG", "1_000_000", "max_backlog", 1_000_000),
            ("OMNIDAEMON_MAX_MESSAGE", "2000000", "max_message", 2_000_000),
            ("OMNIDAEMON_GRACE", "0.5", "grace", 0.5),
            ("OMNIDAEMON_GRACE", " 12 ", "grace", 12.0),
        ],
    )
    def test_a_good_value_is_taken(self, name: str, text: str, field: str, value: object):
        assert getattr(load(**{name: text}), field) == value

    @pytest.mark.parametrize(
        ("name", "text", "accepted"),
        [
            ("OMNIDAEMON_WIRE", "xml", "json, msgpack"),
            ("LOG_LEVEL", "LOUD", "CRITICAL, ERROR, WARNING, INFO, DEBUG"),
            ("LOG_LEVEL", "10", "CRITICAL"),
            ("OMNIDAEMON_API_ENABLED", "maybe", "true or false"),
            ("OMNIDAEMON_API_ENABLED", "2", "true or false"),
            ("OMNIDAEMON_API_HOST", "http://localhost", "without scheme and port"),
            ("OMNIDAEMON_API_HOST", "localhost:8765", "without scheme and port"),
            ("OMNIDAEMON_API_HOST", "two words", "host name"),
            ("OMNIDAEMON_API_PORT", "0", "from 1 to 65535"),
            ("OMNIDAEMON_API_PORT", "65536", "from 1 to 65535"),
            ("OMNIDAEMON_API_PORT", "-1", "from 1 to 65535"),
            ("OMNIDAEMON_API_PORT", "tcp://10.0.0.1:8765", "from 1 to 65535"),
            ("OMNIDAEMON_API_PORT", "8765.0", "whole number"),
            ("OMNIDAEMON_API_PORT", "८७६५", "whole number"),
            ("OMNIDAEMON_RESULT_TTL", "0", "seconds from 1"),
            ("OMNIDAEMON_RESULT_TTL", "nan", "seconds from 1"),
            ("OMNIDAEMON_RESULT_TTL", "1e99", "seconds from 1"),
            ("OMNIDAEMON_RESULT_TTL", "1 day", "seconds from 1"),
            ("OMNIDAEMON_RETENTION", "-1", "whole number from 0"),
            ("OMNIDAEMON_RETENTION", "9" * 10_000, "whole number from 0"),
            ("OMNIDAEMON_RETENTION", "1__0", "whole number from 0"),
            ("OMNIDAEMON_RETENTION", "10_", "whole number from 0"),
            ("OMNIDAEMON_MAX_BACKLOG", "0", "whole number from 1"),
            ("OMNIDAEMON_MAX_BACKLOG", "none", "whole number from 1"),
            ("OMNIDAEMON_MAX_MESSAGE", "1 MB", "whole number from 1000"),
            ("OMNIDAEMON_MAX_MESSAGE", "999", "whole number from 1000"),
            ("OMNIDAEMON_GRACE", "-1", "seconds from 0"),
            ("OMNIDAEMON_GRACE", "inf", "seconds from 0"),
            ("OMNIDAEMON_WEBHOOK_ALLOW", "10.0.0.0/99", "networks"),
            ("OMNIDAEMON_WEBHOOK_ALLOW", "http://hooks", "networks"),
            ("OMNIDAEMON_SQLITE", ":memory:", "EVENT_BUS_TYPE=memory"),
            ("OMNIDAEMON_SQLITE", "sqlite:/srv/x.db", "a path"),
            ("OMNIDAEMON_SQLITE", "~nobody-of-that-name/x.db", "no such home"),
            ("JSON_STORAGE_DIR", "a\0b", "NUL"),
            ("REDIS_URL", "localhost:6379", "redis://…"),
            ("REDIS_URL", "redis:localhost", "redis://…"),
            ("REDIS_URL", "http://cache", "redis://…"),
            ("REDIS_URL", "redis://cache:port", "percent-encode"),
            ("REDIS_URL", "redis://[::1", "percent-encode"),
            ("REDIS_URL", "redis://${HOST}:6379", "write the URL out"),
            ("REDIS_KEY_PREFIX", "{omni}", "letters"),
            ("REDIS_KEY_PREFIX", "om ni", "letters"),
        ],
    )
    def test_a_bad_value_is_an_error_with_name_value_and_what_is_accepted(
        self, name: str, text: str, accepted: str
    ):
        with pytest.raises(InvalidSettings) as caught:
            load(**{name: text})
        message = str(caught.value)
        assert message.startswith(f"{name}=")
        assert accepted in message
        assert len(message) < 300
        if name != "REDIS_URL" and len(text) < 80:
            assert repr(text) in message

    @pytest.mark.parametrize(
        "url",
        [
            "rediss://cache",
            "redis://user:p%40ss@cache:6379/0",
            "redis://[::1]:6379",
            "redis+cluster://one:7000,two:7001",
            "redis+sentinel://one:26379,two:26379/primary",
        ],
    )
    def test_servers_clusters_and_sentinels_are_taken(self, url: str):
        assert load(REDIS_URL=url).transport_url == url

    def test_all_bad_values_are_reported_at_once(self):
        message = complaint(LOG_LEVEL="LOUD", OMNIDAEMON_API_PORT="x", OMNIDAEMON_GRACE="-1")
        assert message.startswith("several settings are wrong:\n")
        assert [line.strip().partition("=")[0] for line in message.splitlines()[1:]] == [
            "LOG_LEVEL",
            "OMNIDAEMON_API_PORT",
            "OMNIDAEMON_GRACE",
        ]

    def test_an_unknown_backend_among_other_faults_is_an_unknown_backend_that_names_them_all(self):
        with pytest.raises(UnknownBackend, match=r"(?s)EVENT_BUS_TYPE='nats'.*LOG_LEVEL='LOUD'"):
            load(EVENT_BUS_TYPE="nats", LOG_LEVEL="LOUD")

    @pytest.mark.parametrize("nothing", ["", "  "])
    def test_an_empty_value_is_no_value(self, nothing: str):
        names = ["EVENT_BUS_TYPE", "REDIS_URL", "LOG_LEVEL", "OMNIDAEMON_MAX_BACKLOG"]
        assert load(**dict.fromkeys(names, nothing)) == Settings()

    def test_a_home_directory_is_written_out(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HOME", "/home/agents")
        assert load(OMNIDAEMON_SQLITE="~/x.db").sqlite_file == "/home/agents/x.db"

    @given(st.dictionaries(st.sampled_from(VARIABLES), st.text() | st.floats().map(str)))
    def test_whatever_the_environment_holds_gives_settings_or_a_configuration_error(
        self, environ: dict[str, str]
    ):
        try:
            settings = load_settings(environ, dotenv=None)
        except ConfigurationError:
            return
        assert settings.transport_url
        assert settings.store_url
        assert settings.why
        assert 1 <= settings.api_port <= 65_535
        assert settings.retention >= 0


class TestSources:
    def test_by_default_the_environment_of_the_process_is_read(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("REDIS_KEY_PREFIX", "from_the_process")
        assert load_settings().redis_key_prefix == "from_the_process"

    def test_the_environment_wins_over_the_file(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text("REDIS_KEY_PREFIX=file\nLOG_LEVEL=ERROR\n")
        settings = load_settings({"REDIS_KEY_PREFIX": "real"}, file)
        assert (settings.redis_key_prefix, settings.log_level) == ("real", "ERROR")

    def test_an_empty_variable_switches_off_what_the_file_says(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text("EVENT_BUS_TYPE=memory\n")
        assert load_settings({"EVENT_BUS_TYPE": ""}, file).event_bus == "sqlite"

    def test_the_file_is_looked_for_in_the_current_folder_only(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        (tmp_path / ".env").write_text("EVENT_BUS_TYPE=memory\n")
        below = tmp_path / "below"
        below.mkdir()
        monkeypatch.chdir(below)
        assert load_settings({}).event_bus == "sqlite"
        monkeypatch.chdir(tmp_path)
        assert load_settings({}).event_bus == "memory"

    def test_reading_the_file_leaves_the_environment_as_it_was(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text("REDIS_KEY_PREFIX=file\n")
        before = dict(os.environ)
        load_settings(None, file)
        assert dict(os.environ) == before

    def test_comments_quotes_exports_and_a_byte_order_mark_are_understood(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text(
            "\ufeffLOG_LEVEL='debug'  # loud\n\n# REDIS_KEY_PREFIX=no\n"
            'export REDIS_KEY_PREFIX="shop"\nOMNIDAEMON_GRACE=1\nOMNIDAEMON_GRACE=2\n',
            encoding="utf-8",
        )
        settings = load_settings({}, file)
        assert settings.log_level == "DEBUG"
        assert settings.redis_key_prefix == "shop"
        assert settings.grace == 2

    def test_nothing_in_the_file_is_expanded(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text("OMNIDAEMON_WEBHOOK_SECRET=a${HOME}b\n")
        assert load_settings({}, file).webhook_secrets == ("a${HOME}b",)

    def test_a_malformed_line_is_named_by_number_and_not_shown(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_text("LOG_LEVEL=INFO\nOMNIDAEMON_WEBHOOK_SECRET='hunter2\n")
        with pytest.raises(InvalidSettings, match=r"\.env, line 2: not of the form") as caught:
            load_settings({}, file)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_a_file_that_is_no_text_is_an_error(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.write_bytes(b"LOG_LEVEL=\xff\xfe\n")
        with pytest.raises(InvalidSettings, match=r"\.env is not UTF-8 text"):
            load_settings({}, file)

    def test_a_file_that_cannot_be_read_is_an_error(self, tmp_path: Path):
        file = tmp_path / ".env"
        file.symlink_to(file)  # a circle: unreadable for every user, root included
        with pytest.raises(InvalidSettings, match=r"\.env cannot be read \(.+\): make it"):
            load_settings({}, file)

    def test_a_folder_of_that_name_is_a_virtual_environment_and_left_alone(self, tmp_path: Path):
        (tmp_path / ".env").mkdir()
        assert load_settings({}, tmp_path / ".env") == Settings()


SECRET = "S3CRET"
around = st.text(max_size=6)


class TestSecrets:
    def test_neither_repr_nor_str_shows_a_secret(self):
        settings = load(
            REDIS_URL=f"redis://user:{SECRET}@cache:6379/0?password={SECRET}",
            OMNIDAEMON_API_KEYS=f"{SECRET}:admin,other:{SECRET}",
            OMNIDAEMON_WEBHOOK_SECRET=SECRET,
        )
        for shown in (repr(settings), str(settings), settings.why, str(settings.public())):
            assert SECRET not in shown
        assert "redis://user:***@cache:6379/0?password=***" in repr(settings)
        assert "api_keys=('***', '***')" in repr(settings)
        assert SECRET in settings.transport_url

    def test_every_field_is_in_the_public_view(self):
        assert tuple(Settings().public()) == Settings.__struct_fields__

    def test_settings_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            Settings().retention = 5  # type: ignore[misc]

    @pytest.mark.parametrize("name", ["OMNIDAEMON_API_KEYS", "OMNIDAEMON_WEBHOOK_SECRET"])
    def test_a_bad_secret_is_not_shown(self, name: str):
        message = complaint(**{name: f"{SECRET}\0"})
        assert name in message
        assert SECRET not in message

    @pytest.mark.parametrize(
        "url",
        [
            f"http://:{SECRET}@cache",
            f"redis://:{SECRET}@cache:port",
            f"redis://:{SECRET}",
            f"redis://cache:{SECRET}",
            f"user:{SECRET}@cache:6379",
            f"redis:{SECRET}@cache",
            f"redis://:{SECRET}@[::1",
            f"redis://:pa/ss#{SECRET}?x@cache:port",
        ],
    )
    def test_a_bad_redis_url_is_shown_without_its_password(self, url: str):
        with pytest.raises(InvalidSettings) as caught:
            load(REDIS_URL=url)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @given(around, around, st.sampled_from(["redis://", "rediss://user", "redis+sentinel://", ""]))
    def test_no_password_however_written_outlives_redaction(
        self, before: str, after: str, start: str
    ):
        assert SECRET not in redact_url(f"{start}:{before}{SECRET}{after}@cache:6379/0")

    @given(st.text(alphabet="abc:,/?&=@#%[]0. "))
    def test_redaction_takes_any_text(self, text: str):
        redact_url(text)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://cache:6379/0",
            "redis://[::1]:6379",
            "redis://[fd00::1]",
            "redis+cluster://one:7000,two:7001",
            "sqlite:/home/a@b/omnidaemon.db",
            "sqlite:.omnidaemon_data/omnidaemon.db",
            "json:data",
            "memory:",
            "INFO",
        ],
    )
    def test_what_holds_no_secret_stays_as_it_is(self, url: str):
        assert redact_url(url) == url

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://me:pw@cache:6379/0", "redis://me:***@cache:6379/0"),
            ("redis://:pw@cache", "redis://:***@cache"),
            ("redis://pw@cache", "redis://***@cache"),
            ("redis://:p@w@cache", "redis://:***@cache"),
            ("redis://cache?db=1&Password=pw&x=y", "redis://cache?db=1&Password=***&x=y"),
            ("redis://me:1?pw@cache", "redis://***"),
        ],
    )
    def test_the_password_alone_is_hidden_where_it_can_be_told(self, url: str, shown: str):
        assert redact_url(url) == shown

    def test_the_settings_survive_a_copy_with_one_change(self):
        changed = msgspec.structs.replace(Settings(), event_bus="memory")
        assert changed.transport_url == "memory:"
