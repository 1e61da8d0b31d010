"""The command `fleet`: its table, its files, and the arguments that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.commands import fleet

pytestmark = pytest.mark.slow

SHORT = ("--minutes", "6", "--rate", "5")


def test_a_run_prints_a_table_and_leaves_a_summary_and_a_plot(left, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["fleet", *SHORT, "--pattern", "spike", "--peak", "20", "--price", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "asked for" in shown and "answered" in shown and str(out) in shown
    assert {path.name for path in out.iterdir()} == {"summary.json", "fleet.png"}
    summary = left(out).summary
    assert summary["pod"]["slots"] == 16 and summary["limits"]["target"] == 12
    total = summary["total"]
    assert total["requests"] == total["answered"] + total["rejected"] + total["timed_out"]
    assert total["cost"] == pytest.approx(2 * total["pod_hours"]) == pytest.approx(0.4)
    assert total["cost_per_million"] == pytest.approx(1e6 * total["cost"] / total["answered"])
    offered = sum(period["offered"] for period in summary["periods"]) * 3
    assert offered == pytest.approx(total["requests"])


def test_recorded_requests_are_a_load(left, tmp_path: Path) -> None:
    recording = tmp_path / "requests.jsonl"
    recording.write_text("".join(json.dumps({"intended": number / 2}) + "\n" for number in range(100)))
    assert main(["fleet", "--recorded", str(recording), "--out", str(tmp_path / "run")]) == 0
    assert left(tmp_path / "run").summary["total"]["answered"] == 100


def test_the_two_figures_of_a_pod_are_those_of_its_model(parse) -> None:
    model = fleet.pod_model(parse("fleet", "--alone-seconds", "0.5", "--capacity", "8"))
    assert model.seconds(1) == pytest.approx(0.5)
    assert model.slots / model.seconds(model.slots) == pytest.approx(8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alone-seconds", "1", "--capacity", "100"], "--capacity"),
        (["--pattern", "ramp", "--rate", "9", "--peak", "3"], "--peak"),
        (["--manifest", "no-such-file"], "no-such-file"),
        (["--recorded", "no-such-file"], "no-such-file"),
    ],
)
def test_arguments_that_cannot_be_simulated_are_refused(arguments, message, capsys) -> None:
    assert main(["fleet", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_written_over_an_earlier_run(tmp_path: Path, capsys) -> None:
    (tmp_path / "summary.json").write_text("{}")
    assert main(["fleet", *SHORT, "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_the_simulation_has_its_own_files_in_the_help(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["fleet", "--help"])
    shown = capsys.readouterr().out
    assert "events.jsonl" not in shown and "--start-seconds" in shown
