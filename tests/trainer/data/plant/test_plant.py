"""`render --products`: what it writes, what it depends on, how it continues, and that every stage reads it."""

from __future__ import annotations

import json
import os
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from screening.answer import parse_findings
from screening.images import accept
from screening.runtime import atomic_write
from tests.trainer.data.compose.photos import (
    HERE,
    LOADED,
    cutout,
    files,
    make_products,
    make_references,
    photographed,
)
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples

pytestmark = pytest.mark.slow

SIZE = 96


@pytest.fixture
def products(tmp_path: Path) -> Path:
    directory = make_products(tmp_path / "products", 2)
    photographed(cutout(7)).save(directory / "photo.jpg", quality=92)
    return directory


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return make_references(tmp_path / "references")


def _render(products: Path, out: Path, *options: object) -> int:
    given = ["--products", products, "--out", out, "--seed", 5, "--size", SIZE, *options]
    return main(["render", *map(str, given)])


def test_photos_become_labelled_samples(products: Path, references: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _render(products, out, "--references", references, "--count", 2) == 0
    samples = read_samples(out)
    assert sorted(sample.product for sample in samples) == [
        name for name in ("photo", "product 0", "product 1") for _ in range(2)
    ]
    assert data_digest(out, samples).startswith("sha256:")
    for sample in samples:
        assert sample.dimensions_known
        assert sample.setting in ("reference scene0", "reference scene1")
        assert [f.comment for f in parse_findings(sample.reasoning)] == [one.comment for one in sample.generated]
        assert all((out / file).read_bytes().startswith(b"\xff\xd8") for file in sample.files)
        pictures = [Image.open(BytesIO((out / file).read_bytes())) for file in sample.files]
        assert [picture.size for picture in pictures[1:]] == [(SIZE, SIZE)] * 4
        assert all(one.tobytes() != other.tobytes() for one, other in combinations(pictures[1:], 2))
    summary = json.loads((out / "render.json").read_text())
    assert (summary["samples"], summary["products"], summary["left_out"]) == (6, 3, {})


def test_the_original_is_the_photo(products: Path, tmp_path: Path) -> None:
    _render(products, tmp_path / "out")
    (sample,) = (one for one in read_samples(tmp_path / "out") if one.product == "photo")
    with Image.open(products / "photo.jpg") as photo, Image.open(tmp_path / "out" / sample.original.file) as shown:
        photo.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
        assert photo.size == shown.size
        assert np.abs(np.asarray(photo, float) - np.asarray(shown, float)).mean() < 3
    assert sample.original.attributes["source"] == "photo.jpg"


def test_the_original_of_a_long_photo_keeps_enough_pixels(tmp_path: Path) -> None:
    """Every later stage refuses a picture whose shorter side has fewer than 32."""
    (tmp_path / "products").mkdir()
    long = Image.new("RGBA", (1400, 200))
    long.paste(cutout(1), (600, 10))
    long.save(tmp_path / "products" / "long.png")
    assert _render(tmp_path / "products", tmp_path / "out", "--size", 192) == 0
    (sample,) = read_samples(tmp_path / "out")
    for file in sample.files:
        accept((tmp_path / "out" / file).read_bytes())
    with Image.open(tmp_path / "out" / sample.original.file) as original:
        assert original.size == (224, 32)


def test_each_picture_depends_only_on_its_own_photo(products: Path, references: Path, tmp_path: Path) -> None:
    _render(products, tmp_path / "one", "--references", references)
    one = files(tmp_path / "one")
    cutout(9).save(products / "a new one.png")
    (products / "product 1.png").unlink()
    _render(products, tmp_path / "two", "--references", references, "--count", 2, "--workers", 2)
    two = files(tmp_path / "two")
    kept = [name for name in one if name.startswith(("pictures/product-0", "pictures/photo"))]
    assert len(kept) == 10
    assert all(one[name] == two[name] for name in kept)


def test_more_photos_and_samples_continue_a_directory(products: Path, tmp_path: Path) -> None:
    _render(products, tmp_path / "out")
    before = files(tmp_path / "out")
    cutout(9).save(products / "another.png")
    assert _render(products, tmp_path / "out", "--count", 2) == 0
    after = files(tmp_path / "out")
    assert len(read_samples(tmp_path / "out")) == 8
    assert all(after[name] == content for name, content in before.items() if name.startswith(("pictures/", "done/")))


@pytest.mark.parametrize("damaged", ["pictures/*/b.jpg", "done/*.json"])
def test_a_damaged_file_is_made_again(damaged: str, products: Path, tmp_path: Path) -> None:
    _render(products, tmp_path / "out")
    before = files(tmp_path / "out")
    next((tmp_path / "out").glob(damaged)).write_bytes(b"{")
    assert _render(products, tmp_path / "out") == 0
    assert files(tmp_path / "out") == before


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", [0, 1, 4, 6, 7, 13, 16])
def test_a_killed_run_continues_to_the_same_bytes(
    writes: int, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (products / "product 1.png").unlink()
    _render(products, tmp_path / "whole")
    flush, left = os.fsync, writes

    def dying(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        flush(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(atomic_write.os, "fsync", dying)
        with pytest.raises(Killed):
            _render(products, tmp_path / "out")
    assert _render(products, tmp_path / "out") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_killed_worker_ends_the_run_and_the_same_command_continues(
    products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (products, tmp_path / "out", "--segmenter", f"{HERE}:deadly")
    assert _render(*command, "--workers", 2) == 2
    assert "a worker process died, probably for lack of memory; use fewer --workers" in capsys.readouterr().err
    assert _render(*command) == 0
    assert len(read_samples(tmp_path / "out")) == 3


def test_each_worker_loads_the_model_of_the_segmenter_once(
    products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOADED, str(tmp_path / "loaded"))
    assert _render(products, tmp_path / "out", "--segmenter", f"{HERE}:loading", "--workers", 2) == 0
    processes = (tmp_path / "loaded").read_text().split()
    assert processes
    assert len(processes) == len(set(processes))


def test_a_photo_that_cannot_be_used_is_named_and_the_rest_is_made(
    products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (products / "broken.png").write_bytes(b"no picture")
    Image.new("RGBA", (50, 50)).save(products / "empty.png")
    Image.effect_noise((120, 120), 90).convert("RGB").save(products / "busy.png")
    flat = Image.new("RGBA", (400, 60))
    flat.paste((200, 0, 0, 255), (10, 10, 390, 30))
    flat.save(products / "flat.png")
    assert _render(products, tmp_path / "out") == 1
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {one["file"]: one["reason"] for one in failures} == {
        "broken.png": "unreadable",
        "empty.png": "empty",
        "busy.png": "busy-background",
        "flat.png": "too-small",
    }
    assert len(read_samples(tmp_path / "out")) == 3
    assert "1 x unreadable" in capsys.readouterr().out
    for name in ("broken", "empty", "busy", "flat"):
        (products / f"{name}.png").unlink()
    assert _render(products, tmp_path / "out") == 0
    assert (tmp_path / "out" / "failures.jsonl").read_text() == ""


def test_file_names_that_are_not_utf_8_are_written_with_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "products" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    cutout(1).save(folder / os.fsdecode(b"fa\xe7ade.png"))
    (folder / os.fsdecode(b"broken\xff.png")).write_bytes(b"no picture")
    references = make_references(tmp_path / "references")
    for number, reference in enumerate(sorted(references.iterdir())):
        reference.rename(references / os.fsdecode(b"sc\xe8ne%d.png" % number))
    out = tmp_path / "out"
    assert _render(tmp_path / "products", out, "--references", references) == 1
    (sample,) = read_samples(out)
    assert (sample.product, sample.original.attributes["source"]) == (r"caf\udce9", r"fa\udce7ade.png")
    assert str(sample.setting).startswith(r"reference sc\udce8ne")
    failure = json.loads((out / "failures.jsonl").read_text())
    assert (failure["product"], failure["file"]) == (r"caf\udce9", r"broken\udcff.png")


def test_the_record_names_defects_that_a_photo_does_not_allow(tmp_path: Path) -> None:
    (tmp_path / "products").mkdir()
    plain = Image.new("RGBA", (140, 180))
    plain.paste((160, 60, 60, 255), (10, 10, 130, 170))
    plain.save(tmp_path / "products" / "plain.png")
    _render(tmp_path / "products", tmp_path / "out", "--count", 3, "--usable-counts", "1,0,0,0,0")
    for sample in read_samples(tmp_path / "out"):
        assert "details_blurred" in sample.original.attributes["unsuitable"]
        planted = {defect.kind for one in sample.generated for defect in one.defects}
        assert planted
        assert not planted & set(sample.original.attributes["unsuitable"])


@pytest.mark.parametrize("options", [["--seed", "6"], ["--severities", "1,0,0"], ["--segmenter", "alpha"]])
def test_other_settings_are_refused(
    options: list[str], products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _render(products, tmp_path / "out")
    before = files(tmp_path / "out")
    assert _render(products, tmp_path / "out", *options) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "1", "--references", "scenes"], "--references needs --products"),
        (["--count", "1", "--segmenter", "alpha"], "--segmenter needs --products"),
        ([], "--count is missing"),
        (["--products", "nowhere"], "nowhere is not a directory"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "--seed", "1", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_learns_from_the_training_part_of_a_split(
    products: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    _render(products, tmp_path / "data", "--count", 2)
    split = tmp_path / "split"
    assert main(["split", "--data", str(tmp_path / "data"), "--out", str(split), "--shares", "0.6,0.4,0,0"]) == 0
    parts = [{sample.product for sample in read_samples(split / part)} for part in ("training", "testing")]
    assert set.union(*parts) == {"photo", "product 0", "product 1"}
    assert not set.intersection(*parts)
    recipe = tmp_path / "one-step.yaml"
    stage = "{epochs: 1, batch_size: 2, learning_rate: 0.001, captions: false}"
    recipe.write_text(f"name: one\nprompt: compact\nmax_tokens_cot: 256\nsft_weak: {stage}\nsft_answer: {stage}\n")
    command = ["sft", "--stage", "answer-driven", "--recipe", str(recipe), "--checkpoint", str(small_checkpoint)]
    command += ["--tracking-uri", "none"]
    assert main([*command, "--data", str(split / "training"), "--out", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run").rglob("screening.json"))
