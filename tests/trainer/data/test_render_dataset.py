"""The command: directory, independence of workers, errors that say what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from screening.answer import parse_findings
from trainer.__main__ import COMMANDS, main
from trainer.data.render.dataset import DatasetError, Order, sample_seed, statistics, write_dataset

SEVERITIES = (0.2, 0.4, 0.4)


def _files(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_data_set_is_the_same_for_any_number_of_workers(tmp_path):
    order = Order(3, 3, 64, SEVERITIES)
    write_dataset(order, tmp_path / "one", workers=1)
    write_dataset(order, tmp_path / "two", workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_records_agree_with_the_pictures_on_disk(tmp_path):
    summary = write_dataset(Order(3, 4, 64, SEVERITIES), tmp_path / "d")
    records = [json.loads(line) for line in (tmp_path / "d" / "samples.jsonl").read_text().splitlines()]
    assert len(records) == len({r["id"] for r in records}) == 3
    for record in records:
        usable = "".join(g["option"] for g in record["generated"] if g["usable"])
        assert record["label"] == (usable or "N")
        assert [f.comment for f in parse_findings(record["reasoning"])] == [g["comment"] for g in record["generated"]]
        for file in [record["original"]["file"], *(g["file"] for g in record["generated"])]:
            with Image.open(tmp_path / "d" / file) as image:
                assert (image.format, image.size) == ("JPEG", (64, 64))
        for g in record["generated"]:
            assert g["severity"] == max((d["severity"] for d in g["defects"]), default=0)
            assert {d["dimension"] for d in g["defects"]} == set(g["dimensions"])
    assert json.loads((tmp_path / "d" / "render.json").read_text()) == summary
    with Image.open(tmp_path / "d" / "contact-sheet.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 3 * 256


def test_statistics_equal_those_calculated_by_hand():
    def record(label, dimensions):
        pictures = [
            {
                "dimensions": d,
                "usable": not d,
                "defects": [{"dimension": n, "kind": "k", "severity": 2} for n in d],
            }
            for d in dimensions
        ]
        return {"label": label, "generated": pictures, "product": label, "setting": "s"}

    shadow, layout = ["physical_shadow"], ["placement_layout"]
    found = statistics([record("AB", [[], [], shadow, shadow]), record("N", [layout, layout, layout, shadow])])
    assert found["mean_label_length"] == 1.5
    assert found["random_baseline"] == 30
    assert found["random_baseline_by_dimension"]["placement_layout"] == 20
    assert found["random_baseline_by_dimension"]["extension_rationality"] is None
    assert found["samples_by_dimension"]["physical_shadow"] == 2
    assert found["share_by_dimension"] == {"physical_shadow": 0.5, "placement_layout": 0.5}
    assert found["share_of_n"] == 0.5


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_a_run_that_was_killed_while_it_moved_its_files_does_not_block_the_next_one(tmp_path, moved):
    names = ("pictures", "contact-sheet.png", "samples.jsonl", "render.json")
    order, out = Order(1, 5, 64, SEVERITIES), tmp_path / "d"
    write_dataset(Order(1, 6, 64, SEVERITIES), out)
    (out / ".partial").mkdir()
    for name in names[moved:]:
        (out / name).rename(out / ".partial" / name)
    write_dataset(order, out)
    write_dataset(order, tmp_path / "fresh")
    assert _files(out) == _files(tmp_path / "fresh")


def test_pictures_of_another_origin_are_not_taken_for_those_of_a_killed_run(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / ".partial").mkdir()  # of a run that was killed while it drew
    with pytest.raises(DatasetError, match="not empty"):
        write_dataset(Order(1, 5, 64, SEVERITIES), tmp_path)
    assert (tmp_path / "pictures").exists()


def test_seeds_of_two_data_sets_do_not_meet():
    assert len({sample_seed(s, i) for s in range(20) for i in range(200)}) == 4000


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("keep me")
    with pytest.raises(DatasetError, match="not empty"):
        write_dataset(Order(1, 0, 64, SEVERITIES), tmp_path)
    assert (tmp_path / "note.txt").read_text() == "keep me"


WRITTEN = {"pictures", "samples.jsonl", "contact-sheet.png", "render.json", ".lock"}


def test_an_empty_directory_may_be_a_link_or_the_working_directory(tmp_path, monkeypatch):
    order = Order(1, 3, 64, SEVERITIES)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("one")
    write_dataset(order, tmp_path / "link")
    monkeypatch.chdir(tmp_path / "two")
    write_dataset(order, Path())
    assert {path.name for path in (tmp_path / "one").iterdir()} == WRITTEN
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "one", "two"]


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = tmp_path / "d" / ".partial" / "pictures" / "of another seed"
    left.mkdir(parents=True)
    write_dataset(Order(1, 3, 64, SEVERITIES), tmp_path / "d")
    assert {path.name for path in (tmp_path / "d").iterdir()} == WRITTEN
    assert len(list((tmp_path / "d" / "pictures").iterdir())) == 1


@pytest.mark.parametrize(
    "wrong",
    [["--count", "0"], ["--seed", "-1"], ["--size", "10"], ["--severities", "1,2"], ["--severities", "0,0,0"]],
)
def test_wrong_arguments_are_refused(tmp_path, wrong, capsys):
    arguments = {"--count": "1", "--seed": "0", "--out": str(tmp_path / "d")} | dict([wrong])
    with pytest.raises(SystemExit) as exit_:
        main(["render", *(part for pair in arguments.items() for part in pair)])
    assert exit_.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_help_lists_every_command_without_importing_any(capsys):
    code = "import sys, trainer.__main__ as m; m.main(['--help']); assert 'numpy' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in COMMANDS:
        assert f"\n  {name} " in shown
    assert main(["rendre"]) == 2
    assert ", ".join(COMMANDS) in capsys.readouterr().err


@pytest.mark.slow
def test_shares_of_usable_pictures_can_be_chosen(tmp_path) -> None:
    command = ["render", "--count", "4", "--seed", "9", "--size", "64", "--out", str(tmp_path / "d")]
    assert main([*command, "--usable-counts", "0,0,0,0,1"]) == 0
    records = [json.loads(line) for line in (tmp_path / "d" / "samples.jsonl").read_text().splitlines()]
    assert [record["label"] for record in records] == ["ABCD"] * 4
    for wrong in ("1,2", "0,0,0,0,0", "a,b,c,d,e"):
        with pytest.raises(SystemExit):
            main([*command, "--usable-counts", wrong])
