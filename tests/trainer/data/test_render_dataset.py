"""The command: directory, independence of workers, cut-outs, errors that say what to do."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from screening.answer import parse_findings
from trainer.__main__ import COMMANDS, main
from trainer.data.render import CutOutError, draw_generated, load_cutouts, make_product
from trainer.data.render.dataset import DatasetError, Order, sample_seed, statistics, write_dataset

SEVERITIES = (0.2, 0.4, 0.4)


def _files(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def _cutout(path, seed=0):
    product = make_product(np.random.default_rng(seed))
    canvas = Image.new("RGBA", (300, 300))
    sprite = product.flat(product.look, 240)
    canvas.paste(sprite, (20, 30))
    canvas.save(path)


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
    assert found["mean_answer_length"] == 1.5
    assert found["random_baseline"] == 0.3
    assert found["random_baseline_by_dimension"]["placement_layout"] == 0.2
    assert found["random_baseline_by_dimension"]["extension_rationality"] is None
    assert found["samples_by_dimension"]["physical_shadow"] == 2
    assert found["share_by_dimension"] == {"physical_shadow": 0.5, "placement_layout": 0.5}
    assert found["share_of_n"] == 0.5


def test_seeds_of_two_data_sets_do_not_meet():
    assert len({sample_seed(s, i) for s in range(20) for i in range(200)}) == 4000


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("keep me")
    with pytest.raises(DatasetError, match="not empty"):
        write_dataset(Order(1, 0, 64, SEVERITIES), tmp_path)
    assert (tmp_path / "note.txt").read_text() == "keep me"


def test_cut_outs_take_the_place_of_drawn_products(tmp_path):
    cutouts = tmp_path / "cutouts"
    cutouts.mkdir()
    for i in range(2):
        _cutout(cutouts / f"{i}.png", i)
    summary = write_dataset(Order(2, 1, 64, SEVERITIES, cutouts), tmp_path / "d", workers=1)
    assert summary["products"] <= 2
    records = [json.loads(line) for line in (tmp_path / "d" / "samples.jsonl").read_text().splitlines()]
    assert all(r["original"]["attributes"]["source"] in ("0.png", "1.png") for r in records)


def test_every_appearance_defect_changes_a_cut_out(tmp_path):
    _cutout(tmp_path / "a.png")
    (product,) = load_cutouts(tmp_path)
    flat = np.asarray(product.flat(product.look, 200), np.float32)
    for name in ("hue", "erase", "mirror", "top"):
        changes = [
            np.abs(np.asarray(product.flat(product.look.edited(name, s, 0.3), 200)) - flat).mean() for s in (1, 3)
        ]
        assert 0 < changes[0] < changes[1]


def test_a_wide_cut_out_stays_inside_the_frame(tmp_path):
    canvas = Image.new("RGBA", (600, 200))
    canvas.paste((200, 30, 30, 255), (10, 10, 590, 190))
    canvas.save(tmp_path / "wide.png")
    (product,) = load_cutouts(tmp_path)
    for seed in range(5):
        image = draw_generated(product, np.random.default_rng(seed), 96, setting="studio").image
        pixels = np.asarray(image, np.int16)
        red = (pixels[..., 0] - pixels[..., 1] > 80).any(0)
        assert red.any() and not red[0] and not red[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "holds no PNG"),
        (lambda d: Image.new("RGB", (40, 40)).save(d / "a.png"), "a.png has no alpha channel"),
        (lambda d: Image.new("RGBA", (40, 40), (1, 2, 3, 255)).save(d / "a.png"), "has no transparent pixels"),
        (lambda d: Image.new("RGBA", (40, 40), (1, 2, 3, 0)).save(d / "a.png"), "almost entirely transparent"),
        (lambda d: (d / "a.png").write_bytes(b"no picture"), "a.png cannot be read"),
        (lambda d: (_cutout(d / "a.png"), (d / "a.png").write_bytes((d / "a.png").read_bytes()[:900])), "a.png"),
    ],
)
def test_unusable_cut_outs_are_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(CutOutError, match=message):
        load_cutouts(tmp_path)


def test_a_missing_directory_of_cut_outs_is_an_error_before_any_work(tmp_path, capsys):
    out = tmp_path / "d"
    assert main(["render", "--count", "1", "--seed", "0", "--out", str(out), "--products", str(tmp_path / "no")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert not out.exists()


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


def test_shares_of_usable_pictures_can_be_chosen(tmp_path) -> None:
    command = ["render", "--count", "4", "--seed", "9", "--size", "64", "--out", str(tmp_path / "d")]
    assert main([*command, "--usable-counts", "0,0,0,0,1"]) == 0
    records = [json.loads(line) for line in (tmp_path / "d" / "samples.jsonl").read_text().splitlines()]
    assert [record["label"] for record in records] == ["ABCD"] * 4
    for wrong in ("1,2", "0,0,0,0,0", "a,b,c,d,e"):
        with pytest.raises(SystemExit):
            main([*command, "--usable-counts", wrong])
