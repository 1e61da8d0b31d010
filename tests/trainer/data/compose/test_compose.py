"""The command: what it writes, what it depends on, and how it continues."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from screening.runtime import atomic_write
from screening.task import OPTIONS
from screening_client.batch_lines import Defaults, Source
from tests.trainer import chat_server
from tests.trainer.chat_server import Asked, ChatServer, FakeClock, Say
from tests.trainer.coloured import LAYOUT, thought
from tests.trainer.data.compose.photos import (
    HERE,
    SIDE,
    compose,
    cutout,
    files,
    make_products,
    make_references,
    photographed,
)
from trainer.data.annotate.by_teacher import Order, annotate_by_teacher
from trainer.data_directory import data_digest, read_any_samples, read_samples
from trainer.endpoint.client import Asking
from trainer.records import licences_of

pytestmark = pytest.mark.slow


def _understood(body: dict[str, Any], headers: dict[str, str]) -> Asked:
    """What the teacher is asked, by the number of pictures; these have no colours that name their sample."""
    (message,) = body["messages"]
    pictures = sum(part["type"] == "image_url" for part in message["content"])
    return Asked(0, "reason" if pictures == 5 else "describe", "", body, headers)


def _says_a(asked: Asked) -> Say:
    return Say(thought("A", dict.fromkeys("BCD", LAYOUT)) if asked.task == "reason" else "A product on a table.")


STAND_IN = b"stand-in without a generative model"


@pytest.fixture
def products(tmp_path: Path) -> Path:
    return make_products(tmp_path / "products")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return make_references(tmp_path / "references")


def test_transparent_files_and_photos_of_a_plain_backdrop_become_a_data_directory(
    products: Path, references: Path, tmp_path: Path
) -> None:
    photographed(cutout(7)).save(products / "photo.jpg", quality=92)
    assert compose(products, references, tmp_path / "out") == 0
    samples = read_any_samples(tmp_path / "out")
    assert sorted(sample.product for sample in samples) == ["photo", "product 0", "product 1", "product 2"]
    assert data_digest(tmp_path / "out", samples).startswith("sha256:")
    for sample in samples:
        pictures = [Image.open(tmp_path / "out" / file).convert("RGB") for file in sample.files]
        assert [picture.size for picture in pictures[1:]] == [(SIDE, SIDE)] * 4
        assert max(pictures[0].size) == SIDE
        assert all(one.tobytes() != other.tobytes() for one, other in combinations(pictures[1:], 2))


def test_every_file_says_that_no_generative_model_painted_it(products: Path, references: Path, tmp_path: Path) -> None:
    (products / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert compose(products, references, tmp_path / "out") == 1
    for name, content in files(tmp_path / "out").items():
        if name not in ("run.json", "contact-sheet.png"):  # the sheet says it in its picture
            assert STAND_IN in content, name


def test_each_picture_depends_only_on_its_own_product(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "all")
    whole = files(tmp_path / "all")
    (products / "product 1.png").rename(products / "folder-is-later.png")
    cutout(9).save(products / "a new one.png")
    (products / "product 2.png").unlink()
    compose(products, references, tmp_path / "other")
    other = files(tmp_path / "other")
    same = [name for name in whole if name.startswith("pictures/product-0")]
    assert len(same) == 5
    assert all(whole[name] == other[name] for name in same)
    # A new name changes the name of the sample and no pixel.
    before = {Path(name).name: content for name, content in whole.items() if name.startswith("pictures/product-1")}
    after = {Path(name).name: content for name, content in other.items() if name.startswith("pictures/folder")}
    assert before == after


def test_the_same_run_in_the_same_directory_takes_more_products(
    products: Path, references: Path, tmp_path: Path
) -> None:
    compose(products, references, tmp_path / "out")
    before = files(tmp_path / "out")
    cutout(9).save(products / "another.png")
    assert compose(products, references, tmp_path / "out") == 0
    after = files(tmp_path / "out")
    assert len(read_any_samples(tmp_path / "out")) == 4
    assert all(after[name] == content for name, content in before.items() if name.startswith("pictures/"))


def test_the_output_may_lie_beside_the_photos(products: Path, references: Path) -> None:
    """A second run does not take the contact sheet of the first one for a product."""
    assert compose(products, references, products / "out") == 0
    before = files(products / "out")
    assert compose(products, references, products / "out") == 0
    assert files(products / "out") == before


@pytest.mark.parametrize("option", OPTIONS)
def test_a_picture_made_alone_equals_the_one_from_the_set(
    option: str, products: Path, references: Path, tmp_path: Path
) -> None:
    compose(products, references, tmp_path / "out")
    before = files(tmp_path / "out")
    for picture in (tmp_path / "out" / "pictures").glob(f"*/{option.lower()}.png"):
        picture.unlink()
    compose(products, references, tmp_path / "out")
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("damaged", ["pictures/*/b.png", "pictures/*/original.png", "steps/*/mask.png"])
def test_a_damaged_file_is_made_again(damaged: str, products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "out")
    before = files(tmp_path / "out")
    victim = next((tmp_path / "out").glob(damaged))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 255
    victim.write_bytes(content)
    assert compose(products, references, tmp_path / "out") == 0
    assert files(tmp_path / "out") == before


def test_a_damaged_state_is_made_again(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "out")
    before = files(tmp_path / "out")
    next((tmp_path / "out").glob("steps/*/composed.json")).write_text('{"key"')
    assert compose(products, references, tmp_path / "out") == 0
    assert files(tmp_path / "out") == before


class Killed(BaseException):
    """The process ends here."""


def test_a_run_that_is_killed_at_any_write_continues_to_the_same_bytes(
    products: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("product 1.png", "product 2.png"):
        (products / extra).unlink()
    (products / "broken.png").write_bytes(b"no picture")
    compose(products, references, tmp_path / "whole")
    whole, flush, killed = files(tmp_path / "whole"), os.fsync, 0
    while True:
        out, left = tmp_path / f"killed-{killed}", killed

        def dying(descriptor: int) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            flush(descriptor)

        monkeypatch.setattr(atomic_write.os, "fsync", dying)
        try:
            compose(products, references, out)
        except Killed:
            killed += 1
        else:
            break
        monkeypatch.setattr(atomic_write.os, "fsync", flush)
        assert compose(products, references, out) == 1
        assert files(out) == whole
    assert killed > 15  # the run's claim, five steps, four pictures with their states, seven files about the run


def test_a_run_that_is_killed_by_the_system_continues(products: Path, references: Path, tmp_path: Path) -> None:
    arguments = ["--products", products, "--references", references, "--seed", "5", "--size", str(SIDE)]
    program = [sys.executable, "-m", "trainer", "compose", *map(str, arguments), "--out", str(tmp_path / "out")]
    killed = subprocess.run([*program, "--inpainter", f"{HERE}:Killed"], check=False, capture_output=True)
    assert killed.returncode == -9
    assert len(list((tmp_path / "out").glob("pictures/*/?.png"))) == 3
    assert compose(products, references, tmp_path / "out") == 0
    compose(products, references, tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        ["--layout", "left-right"],
        ["--paste", "on"],
        ["--segmenter", "alpha"],
        ["--inpainter", f"{HERE}:Mover"],
    ],
)
def test_other_settings_are_refused(
    options: list[str], products: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compose(products, references, tmp_path / "out")
    before = files(tmp_path / "out")
    assert compose(products, references, tmp_path / "out", *options) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    assert files(tmp_path / "out") == before


def test_another_seed_or_other_references_are_refused(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "out")
    assert compose(products, references, tmp_path / "out", seed=6) == 2
    shutil.copy(products / "product 0.png", references / "more.png")
    assert compose(products, references, tmp_path / "out") == 2


def test_another_seed_paints_other_pictures(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "one", seed=1)
    compose(products, references, tmp_path / "two", seed=2)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    generated = [name for name in one if name.startswith("pictures/") and not name.endswith("original.png")]
    assert len(generated) == 12
    assert not [name for name in generated if one[name] == two[name]]


def test_a_teacher_labels_what_was_composed(
    products: Path,
    references: Path,
    tmp_path: Path,
    endpoint: ChatServer,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restricted = ["--inpainter", f"{HERE}:Restricted", "--accept-licence", "no-shops"]
    compose(products, references, tmp_path / "out", *restricted)
    order = Order(
        method="progressive",
        data=tmp_path / "out",
        out=tmp_path / "labelled",
        base_url=endpoint.url,
        asking=Asking(model="teacher", reply_tokens=200),
        concurrency=1,
        tries=2,
        timeout=30,
    )
    monkeypatch.setattr(chat_server, "understood", _understood)
    endpoint.speak = _says_a
    annotate_by_teacher(order, clock)
    labelled = read_samples(tmp_path / "labelled")
    assert [(sample.label, sample.licence) for sample in labelled] == [("A", "no-shops")] * 3
    assert licences_of(labelled) == {"licences": ["no-shops"]}


def test_the_client_screens_what_was_composed(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "out")
    source = Source(str(tmp_path / "out" / "questions.jsonl"))
    lines = list(source.lines(Defaults()))
    source.close()
    assert [line.name for line in lines if isinstance(line.request, Exception)] == []
    assert len(lines) == 3
    for line in lines:
        assert Path(line.request.original).is_file()  # type: ignore[union-attr, arg-type]


def test_the_summary_counts_and_measures(products: Path, references: Path, tmp_path: Path) -> None:
    compose(products, references, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "compose.json").read_text())
    assert summary["samples"] == 3
    assert summary["failed"] == {}
    assert summary["stand_in"] is True
    assert summary["licence"] == "Apache-2.0"
    assert summary["measures"]["change_inside"] == 0
    assert summary["measures"]["least_difference"] > 1
    page = (tmp_path / "out" / "compose.html").read_text()
    assert page.count("<img") == 3 * 8
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.height > 3 * 224
