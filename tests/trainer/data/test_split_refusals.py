"""Kills of the command, and data and directories that it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data.split_data import THIRDS, many, record, report, split, tree, write
from trainer.__main__ import main
from trainer.data.split import write as writing
from trainer.data.split.divide import SPLIT_NAME
from trainer.data.split.gather import gather


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1, 30, 119])
def test_a_killed_run_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "whole", data) == 0
    done = 0
    place = writing._place

    def dying(*args: Any, **settings: Any) -> None:
        nonlocal done
        if done == calls:
            raise KeyboardInterrupt
        done += 1
        place(*args, **settings)

    monkeypatch.setattr(writing, "_place", dying)
    assert split(tmp_path / "out", data) == 130
    assert not (tmp_path / "out" / SPLIT_NAME).exists()
    monkeypatch.undo()
    for folder in list((tmp_path / "out").rglob("pictures"))[:1]:  # the picture that was being written
        (folder / "s0-0").mkdir(exist_ok=True)
    assert split(tmp_path / "out", data) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_a_first_run_that_was_killed_may_be_made_with_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write(tmp_path / "wrong", *many(100, 112))
    right = write(tmp_path / "right", *many(0, 12))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.split.divide.freeze", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert split(tmp_path / "out", wrong) == 130
    assert split(tmp_path / "out", right) == 0
    assert split(tmp_path / "clean", right) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")  # no picture of the wrong data is left


def test_one_id_for_two_samples_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one", *many(0, 12))
    two = write(tmp_path / "two", record("s3-0", "p3", "D"))
    assert split(tmp_path / "out", one, two) == 2
    assert "different samples with the id 's3-0'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_that_is_gone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one", *many(0, 12))
    two = write(tmp_path / "two", *many(12, 20))
    assert split(tmp_path / "out", one) == 0
    before = tree(tmp_path / "out")
    assert split(tmp_path / "out", two) == 2
    assert "24 samples of earlier runs are missing from the data directories" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_other_settings_in_the_same_directory_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    for settings in ({"seed": 1}, {"shares": "2,1,1,0"}):
        assert split(tmp_path / "out", data, **settings) == 2  # type: ignore[arg-type]
        assert "other settings" in capsys.readouterr().err
    assert split(tmp_path / "out", data, shares="0.5,0.5,0.5,0") == 0  # the same shares, written in another way


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(data, data) == 2
    assert "holds other files" in capsys.readouterr().err
    assert split(tmp_path / "data" / "samples.jsonl", data) == 2


@pytest.mark.slow
def test_of_two_runs_into_one_directory_one_is_refused(tmp_path: Path) -> None:
    data, out = write(tmp_path / "data", *many(0, 12)), tmp_path / "out"
    assert split(out, data) == 0
    # This process keeps the directory until it ends.
    again = ["split", "--data", str(data), "--out", str(out), "--shares", THIRDS]
    done = subprocess.run([sys.executable, "-m", "trainer", *again], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another process is using" in done.stderr


def test_a_run_that_another_one_overtook_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = write(tmp_path / "slow", *many(0, 24)), write(tmp_path / "fast", *many(0, 12))
    before: dict[str, bytes] = {}

    def overtaken(directories: Sequence[Path]) -> Any:
        monkeypatch.undo()
        assert split(tmp_path / "out", fast) == 0
        before.update(tree(tmp_path / "out"))
        return gather(directories)

    monkeypatch.setattr("trainer.data.split.divide.gather", overtaken)
    assert split(tmp_path / "out", slow) == 2
    assert "another run has divided into" in capsys.readouterr().err
    assert before and tree(tmp_path / "out") == before
    assert split(tmp_path / "out", fast, slow) == 0, "the same command may be repeated"


def test_a_refusal_leaves_nothing_in_an_empty_directory(tmp_path: Path) -> None:
    data, out = write(tmp_path / "data", *many(0, 3)), tmp_path / "out"
    out.mkdir()
    assert main(["split", "--data", str(data), "--out", str(out)]) == 2
    assert not list(out.iterdir())
    assert split(out, data, shares="1,0,0,0") == 0


def test_a_damaged_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    (tmp_path / "out" / SPLIT_NAME).write_text('{"format": 1')
    assert split(tmp_path / "out", data) == 2
    assert "split.json is damaged" in capsys.readouterr().err


def test_too_little_data_for_a_test_set_is_refused_and_leaves_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", *many(0, 3))
    assert main(["split", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "none of 3 products fell into the test split, whose share is 0.37%" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert split(tmp_path / "out", data, shares="1,0,0,0") == 0  # no test set is wanted
    assert report(tmp_path / "out")["frozen"] is None
    assert split(tmp_path / "out", data, shares="1,0,0,0") == 0


def test_a_directory_that_holds_no_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert split(tmp_path / "out", tmp_path / "nowhere") == 2
    assert "nowhere a data directory?" in capsys.readouterr().err


@pytest.mark.parametrize("shares", ["1,2,3", "a,b,c,d", "0,0,0,0", "1,1,1,-1", "nan,1,1,1", "1/0,1,1,1"])
def test_shares_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], shares: str) -> None:
    with pytest.raises(SystemExit):
        split(tmp_path / "out", tmp_path, shares=shares)
    assert (
        "must be four numbers of at least 0, not all 0 (training, testing, pseudo-label, exploration)"
        in capsys.readouterr().err
    )
