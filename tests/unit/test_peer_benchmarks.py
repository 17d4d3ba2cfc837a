"""The comparison with peers: its arithmetic, its command line, its drivers' shape."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import figures
from benchmarks.peers.catalogue import ENTRIES, ROOT
from benchmarks.peers.environments import own_package
from benchmarks.peers.report import rows

DRIVERS = ROOT / "benchmarks" / "peers" / "drivers"


def test_the_median_of_each_figure_stands_alone() -> None:
    runs = [{"a": 1.0, "b": 9.0}, {"a": 5.0, "b": 8.0}, {"a": 3.0, "b": 1.0}]
    assert figures.medians(runs) == {"a": 3.0, "b": 8.0}


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.5), (99, 99.01)])
def test_percentiles_lie_between_the_values_around_them(percent: int, expected: float) -> None:
    assert figures.percentile(range(1, 101), percent) == pytest.approx(expected)


def test_one_value_is_each_of_its_percentiles() -> None:
    assert figures.percentile([0.5], 99) == 0.5


@pytest.mark.parametrize(
    ("rate", "most", "expected"),
    [(50, 0, 1_000), (2_720, 0, 16_300), (1e6, 0, 400_000), (5_000, 10_000, 10_000)],
)
def test_a_drain_has_as_many_messages_as_its_seconds_take(
    rate: float, most: int, expected: int
) -> None:
    assert figures.messages(rate, 6, most) == expected


def test_a_peer_without_a_figure_is_not_the_best() -> None:
    assert figures.best({"a": 2.0, "b": 3.0}, ["a", "c"], high=True) == 2.0
    assert figures.best({"a": 2.0, "b": 3.0}, ["a", "b"], high=False) == 2.0
    assert figures.best({}, ["a"], high=True) is None
    assert figures.ratio(4.0, None) is None


def test_rows_are_ranked_and_compared_with_the_best_peer_and_with_raw() -> None:
    rates = {"omnidaemon": 30.0, "saq": 3.0, "arq": 2.0, "raw": 60.0, "raw_read": 90.0}
    runs = {"drain, 100 at once": {name: [{"per_second": r}] for name, r in rates.items()}}
    found = rows(runs, "drain, 100 at once")
    assert [row["peer"] for row in found] == ["raw_read", "raw", "omnidaemon", "saq", "arq"]
    ours = found[2]
    assert (ours["of_best_peer"], ours["of_raw"]) == (10.0, 0.5)


def test_a_drain_by_fewer_is_compared_with_the_one_raw_loop() -> None:
    runs = {
        "drain, 100 at once": {"raw": [{"per_second": 60.0}]},
        "drain, 1 at once": {"omnidaemon": [{"per_second": 6.0}]},
    }
    (row,) = rows(runs, "drain, 1 at once")
    assert (row["of_best_peer"], row["of_raw"]) == (None, 0.1)


def test_the_command_line_has_defaults_and_refuses_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = command.parser().parse_args([])
    assert (options.rounds, options.quick, options.only, options.measure) == (3, False, None, "")
    chosen = command.parser().parse_args(["--only", "saq", "--only", "raw"]).only
    assert [entry.name for entry in command.chosen(chosen)] == ["saq", "raw"]
    for wrong in (["--only", "nobody"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            command.parser().parse_args(wrong)
    assert "invalid choice: 'nobody'" in capsys.readouterr().err


def test_each_entry_takes_part_where_it_can() -> None:
    entries = {entry.name: entry for entry in ENTRIES}
    assert not entries["saq"].takes_part("enqueue batch")
    assert not entries["rq"].takes_part("naps", 100)
    assert entries["rq"].takes_part("drain", 1)
    assert not entries["raw_read"].takes_part("latency")
    assert own_package(entries["taskiq"]) == "taskiq"
    assert own_package(entries["omnidaemon"]) == "omnidaemon"


def test_each_entry_has_a_driver_and_each_driver_an_entry() -> None:
    drivers = {path.stem.removeprefix("on_") for path in DRIVERS.glob("on_*.py")}
    assert drivers == {entry.name for entry in ENTRIES}


@pytest.mark.parametrize("path", sorted(DRIVERS.glob("*.py")), ids=lambda path: path.stem)
def test_each_driver_compiles_and_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path))
    compile(tree, str(path), "exec")
    assert ast.get_docstring(tree)
    if path.stem.startswith("on_"):
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        assert "PEER" in {target.id for target in targets if isinstance(target, ast.Name)}
