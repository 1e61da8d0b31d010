"""What cannot be composed gets a named reason, and the run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.trainer.data.compose.photos import HERE, compose, cutout, files, make_references, photographed, two_halves
from trainer.data_directory import read_any_samples


@pytest.fixture
def products(tmp_path: Path) -> Path:
    (tmp_path / "products").mkdir()
    cutout(1).save(tmp_path / "products" / "good.png")
    return tmp_path / "products"


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return make_references(tmp_path / "references")


def _on_canvas(*boxes: tuple[int, int, int, int]) -> Image.Image:
    canvas = Image.new("RGBA", (200, 200))
    for box in boxes:
        ImageDraw.Draw(canvas).rectangle(box, fill=(180, 60, 60, 255))
    return canvas


def _busy() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    return Image.fromarray(noise).resize((240, 240), Image.Resampling.NEAREST)


def _sparse() -> Image.Image:
    """Single pixels, of which nothing remains when the picture is made smaller."""
    canvas = Image.new("RGBA", (800, 800))
    for x in range(100, 700, 12):
        for y in range(100, 700, 12):
            canvas.putpixel((x, y), (200, 20, 20, 255))
    return canvas


def _white_on_white() -> Image.Image:
    """A product with a black label, whose body has nearly the colour of the paper."""
    photo = Image.new("RGB", (240, 240), (244, 244, 244))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((60, 40, 180, 210), fill=(232, 232, 232))
    draw.rectangle((90, 90, 150, 160), fill=(20, 20, 20))
    soft = (30, 100, 85, 150)  # here the outline is out of focus
    photo.paste(photo.crop(soft).filter(ImageFilter.GaussianBlur(12)), soft)
    return photo


FAULTS = {
    "empty": (Image.new("RGBA", (200, 200), (200, 30, 30, 0)), "empty"),
    "only-paper": (Image.new("RGB", (200, 200), (240, 240, 240)), "empty"),
    "full": (Image.new("RGBA", (200, 200), (200, 30, 30, 254)), "full-frame"),
    "tiny": (_on_canvas((90, 90, 98, 130)), "too-small"),
    "sparse": (_sparse(), "too-small"),
    "busy": (_busy(), "busy-background"),
    "white": (_white_on_white(), "part-missing"),
}


def _left(out: Path) -> dict[str, str]:
    lines = (out / "failures.jsonl").read_text().splitlines()
    return {record["product"]: record["reason"] for record in map(json.loads, lines)}


@pytest.mark.slow
def test_every_fault_has_its_reason_and_the_good_product_is_composed(
    products: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (picture, _) in FAULTS.items():
        picture.save(products / f"{name}.png")
    (products / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (products / "locked.png").symlink_to(tmp_path / "nowhere.png")
    assert compose(products, references, tmp_path / "out") == 1
    expected = {name: reason for name, (_, reason) in FAULTS.items()}
    assert _left(tmp_path / "out") == expected | {"broken": "unreadable", "locked": "unreadable"}
    assert [sample.product for sample in read_any_samples(tmp_path / "out")] == ["good"]
    said = capsys.readouterr().out
    assert "left out: 9 (1 x busy-background, 2 x empty" in said
    assert "The same command tries them again" in said


def test_file_names_that_are_not_utf_8_are_written_with_escapes(
    products: Path, references: Path, tmp_path: Path
) -> None:
    (products / "good.png").rename(products / os.fsdecode(b"caf\xe9.png"))
    (products / os.fsdecode(b"broken\xff.png")).write_bytes(b"no picture")
    (products / os.fsdecode(b"locked\xff.png")).symlink_to(tmp_path / "nowhere.png")
    for number, reference in enumerate(sorted(references.iterdir())):
        reference.rename(references / os.fsdecode(b"sc\xe8ne%d.png" % number))
    assert compose(products, references, tmp_path / "out") == 1
    assert _left(tmp_path / "out") == {r"broken\udcff": "unreadable", r"locked\udcff": "unreadable"}
    (sample,) = read_any_samples(tmp_path / "out")
    assert (sample.product, sample.original.attributes["source"]) == (r"caf\udce9", r"caf\udce9.png")
    assert sample.setting.startswith(r"reference sc\udce8ne")


def test_a_mended_file_is_composed_by_the_same_command(products: Path, references: Path, tmp_path: Path) -> None:
    (products / "mug.png").write_bytes(b"not yet a picture")
    assert compose(products, references, tmp_path / "out") == 1
    cutout(4).save(products / "mug.png")
    assert compose(products, references, tmp_path / "out") == 0
    assert [sample.product for sample in read_any_samples(tmp_path / "out")] == ["good", "mug"]
    assert _left(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("boxes", "hole", "note"),
    [
        ([(20, 40, 80, 180), (120, 40, 180, 180)], None, "several-pieces"),
        ([(20, 40, 180, 180)], (70, 80, 120, 130), "holes"),
        ([(0, 0, 100, 199)], None, "touches-edge"),
    ],
)
def test_a_doubtful_cut_out_is_composed_and_named(
    boxes: list[tuple[int, int, int, int]],
    hole: tuple[int, int, int, int] | None,
    note: str,
    products: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = _on_canvas(*boxes)
    if hole:
        picture.paste((0, 0, 0, 0), hole)
    picture.save(products / "odd.png")
    assert compose(products, references, tmp_path / "out") == 0
    assert f"1 x {note}" in capsys.readouterr().out
    notes = json.loads((tmp_path / "out" / "compose.json").read_text())["notes"]
    assert notes[note] == 1
    (state,) = (tmp_path / "out" / "steps").glob("odd-*/composed.json")
    assert note in json.loads(state.read_text())["notes"]


def test_a_clean_cut_out_has_no_notes(products: Path, references: Path, tmp_path: Path) -> None:
    photographed(two_halves((101, 161))).save(products / "clean.png")
    compose(products, references, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compose.json").read_text())["notes"] == {}


def test_a_picture_that_does_not_fit_into_memory_ends_only_its_product(
    products: Path, references: Path, tmp_path: Path
) -> None:
    Image.new("RGBA", (120, 160), (8, 8, 8, 255)).crop((-20, -20, 140, 180)).save(products / "dark.png")
    assert compose(products, references, tmp_path / "out", "--inpainter", f"{HERE}:Hungry") == 1
    assert _left(tmp_path / "out") == {"dark": "out-of-memory"}
    assert [sample.product for sample in read_any_samples(tmp_path / "out")] == ["good"]


@pytest.mark.parametrize(
    ("inpainter", "reason"), [("OneColour", "blank"), ("Forgetful", "repeated"), ("Shrinking", "wrong-size")]
)
def test_a_failed_generation_is_left_out(
    inpainter: str, reason: str, products: Path, references: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # also when the pictures are on disk already
        assert compose(products, references, tmp_path / "out", "--inpainter", f"{HERE}:{inpainter}") == 1
        assert _left(tmp_path / "out") == {"good": reason}
        assert (tmp_path / "out" / "samples.jsonl").read_text() == ""


def test_only_transparent_files_pass_the_segmenter_alpha(products: Path, references: Path, tmp_path: Path) -> None:
    photographed(cutout(3)).save(products / "photo.png")
    assert compose(products, references, tmp_path / "out", "--segmenter", "alpha") == 1
    assert _left(tmp_path / "out") == {"photo": "no-alpha"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--segmenter", "sam"], "there is no segmenter 'sam'"),
        (["--segmenter", "onnx"], "write onnx:FILE"),
        (["--inpainter", "dalle"], "there is no inpainter 'dalle'"),
        (["--size", "16"], "it paints 64 to 2048"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(
    options: list[str],
    message: str,
    products: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compose(products, references, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unreadable_reference_is_refused(
    products: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (references / "broken.png").write_bytes(b"nothing")
    assert compose(products, references, tmp_path / "out") == 2
    assert "broken.png" in capsys.readouterr().err


def test_a_licence_that_restricts_use_must_be_accepted_and_is_recorded(
    products: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restricted = ["--inpainter", f"{HERE}:Restricted"]
    assert compose(products, references, tmp_path / "out", *restricted) == 2
    assert "--accept-licence no-shops" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert compose(products, references, tmp_path / "out", *restricted, "--accept-licence", "no-shops") == 0
    assert "licence of the pictures: no-shops. Not for shops." in capsys.readouterr().out
    (sample,) = read_any_samples(tmp_path / "out")
    assert sample.licence == "no-shops"
    assert json.loads((tmp_path / "out" / "compose.json").read_text())["terms"] == "Not for shops."


@pytest.mark.parametrize("paste", ["on", "off"])
def test_pasting_undoes_what_the_model_did_to_the_product(
    paste: str, products: Path, references: Path, tmp_path: Path
) -> None:
    assert compose(products, references, tmp_path / "out", "--inpainter", f"{HERE}:Mover", "--paste", paste) == 0
    (sample,) = read_any_samples(tmp_path / "out")
    steps = tmp_path / "out" / "steps" / sample.id
    measures = json.loads((steps / "composed.json").read_text())["measures"]
    placeholder = np.asarray(Image.open(steps / "placeholder.png").convert("RGB"))
    kept = np.asarray(Image.open(steps / "mask.png"))[:, placeholder.shape[1] :] == 0
    interior = kept & np.roll(kept, 3, 0) & np.roll(kept, -3, 0) & np.roll(kept, 3, 1) & np.roll(kept, -3, 1)
    assert interior.sum() > 500
    for file, option in zip(sample.files[1:], "ABCD", strict=True):
        picture = np.asarray(Image.open(tmp_path / "out" / file).convert("RGB"))
        unchanged = np.array_equal(picture[interior], placeholder[interior])
        assert unchanged == (paste == "on")
        assert (measures[option]["change_inside"] == 0) == (paste == "on")
        assert (measures[option]["largest_change_inside"] > 30) == (paste == "off")
    assert len(files(tmp_path / "out")) == 17
