"""The parts of the documentation that are made of code have all that is in the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from docs.generate import figures
from docs.generate.commands import command_page
from docs.generate.regions import excerpt, renewed
from docs.generate.routes import routes_page
from omnidaemon.admin.api import ENDPOINTS
from omnidaemon.cli import cli


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        yield own.command_path, command
        if isinstance(command, click.Group):
            yield from commands(command, own)


def test_the_reference_of_commands_has_every_command_and_option():
    page = command_page()
    for path, command in commands(cli, click.Context(cli, info_name="omnidaemon")):
        _, heading, section = page.partition(f"# {path}\n")
        assert heading, path
        section = section.partition("\n#")[0]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert any(f"`{name}" in section for name in option.opts), (path, option.name)
            elif isinstance(option, click.Option):
                assert not any(f"`{name}`" in section for name in option.opts), (path, option.name)


def test_every_row_of_the_reference_has_as_many_cells_as_its_table():
    for page in (command_page(), routes_page()):
        for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


def test_the_reference_of_http_has_every_route_and_no_dangling_link():
    page = routes_page()
    for endpoint in ENDPOINTS:
        assert f"### {endpoint.method} {endpoint.path} {{#{endpoint.function.__name__}}}\n" in page
    anchors = set(re.findall(r"\{#([\w-]+)\}", page))
    links = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert links
    assert links <= anchors


MEASURED: dict[str, Any] = {
    "machine": {
        "cores": 2,
        "processor": "a chip",
        "system": "Linux 6 x86_64",
        "python": "3.11.7",
        "redis": "7.0.15",
    },
    "date": "2026-01-31",
    "rounds": 3,
    "versions": {
        "omnidaemon": {"omnidaemon": "0.2.0", "redis": "8.1.0"},
        "saq": {"saq": "0.26.4"},
        "raw": {"msgspec": "0.22.0"},
    },
    "settings": {"saq": "concurrency"},
    "rows": [
        {
            "measure": "drain, 100 at once",
            "peer": peer,
            "per_second": rate,
            "cpu_us_per_message": 31.4,
            "messages": 1000.0,
            "of_best_peer": ratio,
            "of_raw": None,
        }
        for peer, rate, ratio in (
            ("omnidaemon", 24_349.2, 16.05),
            ("raw", 19_973.0, 13.16),
            ("saq", 1_517.0, 1.0),
        )
    ],
}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "benchmarks.json"
    file.write_text(json.dumps(MEASURED))
    found = figures.measured.__wrapped__(file)
    monkeypatch.setattr(figures, "measured", lambda: found)


@pytest.mark.usefixtures("measured")
def test_the_figures_of_the_readme_are_those_that_were_measured():
    table = figures.readme_table()
    assert "| run, 100 at once (/s) |" in table
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        ["| **omnidaemon 0.2.0**", "24,349"],
        ["| by hand (redis-py)", "19,973"],
        ["| saq 0.26.4", "1,517"],
    ]
    assert "Measured on 2026-01-31: 2 cores (a chip)" in table


@pytest.mark.usefixtures("measured")
def test_a_figure_that_was_not_measured_is_a_dash():
    assert "| – |" in figures.readme_table()
    assert figures.measure_tables().count("| – |") == 3


@pytest.mark.usefixtures("measured")
def test_the_page_of_benchmarks_names_versions_and_settings():
    assert "| saq | saq 0.26.4 | concurrency |" in figures.versions_table()


SOURCE = '''"""A file."""

import os

LIMIT = 3


# --8<-- [start:part]
def one() -> int:
    return 1


@staticmethod
def two() -> int:
    return 2


# --8<-- [end:part]
'''


def test_an_excerpt_is_the_file_some_names_of_it_or_a_section(tmp_path: Path):
    file = tmp_path / "a.py"
    file.write_text(SOURCE)
    assert "--8<--" not in excerpt(file, [])
    assert excerpt(file, ["two", "import"]) == (
        "import os\n\n\n@staticmethod\ndef two() -> int:\n    return 2\n"
    )
    assert excerpt(file, ["#part"]).startswith("def one()")
    with pytest.raises(KeyError, match="three"):
        excerpt(file, ["three"])
    with pytest.raises(KeyError, match="no section whole"):
        excerpt(file, ["#whole"])


def test_a_page_is_renewed_where_it_takes_something_and_nowhere_else():
    page = (
        '<!-- file: examples/quickstart.py app -->\n```python title="a.py"\nold\n```\nkept\n'
        "<!-- generated: it -->\nold\n<!-- end of generated -->\n"
    )
    new = renewed(page, {"it": lambda: "new\n"})
    assert '```python title="a.py"\napp = App("quickstart")\n```\nkept\n' in new
    assert new.endswith("-->\nnew\n<!-- end of generated -->\n")
    assert renewed(new, {"it": lambda: "new\n"}) == new
