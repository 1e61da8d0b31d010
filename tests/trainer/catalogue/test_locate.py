"""`screen-dataset --locate`: an answer says where the issues are, as an answer of the service does."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from screening.prompt import COMPACT, locating
from tests.trainer.catalogue.conftest import Catalogue
from tests.trainer.catalogue.scripted import make_checkpoint, question, write_questions


@pytest.fixture
def able(tmp_path: Path) -> Catalogue:
    """The command with a checkpoint that can point at issues."""
    return Catalogue(make_checkpoint(tmp_path / "able", prompt=locating(COMPACT)), tmp_path / "out")


def low_picture() -> bytes:
    """A picture that is twice as wide as it is high, so the model sees it between two bars of padding."""
    target = BytesIO()
    Image.new("RGB", (80, 40), (9, 9, 9)).save(target, "PNG")
    return target.getvalue()


def test_regions_are_fractions_of_the_picture_and_not_of_what_the_model_sees(able, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(1, c=low_picture())])
    assert able.run(data, "--locate") == 0
    a, b, c, d = able.answers[0]["options"]
    assert a["regions"] == d["regions"] == [{"issue": "physical_shadow", "box": [0.25, 0.4, 0.5, 0.6]}]
    assert b["regions"] == [], "it is normal"
    assert c["regions"] == [{"issue": "physical_shadow", "box": [0.25, 0.3, 0.5, 0.7]}]
    assert "box" not in able.answers[0]["reasoning"] and c["comment"] == "shadow: too dark"


def test_without_the_option_there_are_no_regions_and_the_run_is_another_one(able, tmp_path, capsys):
    data = write_questions(tmp_path / "data.parquet", [question(1)])
    assert able.run(data) == 0
    assert [one["regions"] for one in able.answers[0]["options"]] == [None] * 4
    assert able.run(data, "--locate") == 2
    assert "other settings" in capsys.readouterr().err


def test_an_order_that_cannot_be_met_is_refused_before_anything_is_written(catalogue, able, tmp_path, capsys):
    data = write_questions(tmp_path / "data.parquet", [question(1)])
    assert catalogue.run(data, "--locate") == 2
    assert "cannot say where issues are" in capsys.readouterr().err
    assert able.run(data, "--locate", "--mode", "direct") == 2
    assert "--locate needs --mode cot" in capsys.readouterr().err
    assert not able.out.exists()


def test_a_line_that_asks_for_places_by_itself_is_rejected(catalogue, tmp_path):
    low = tmp_path / "low.png"
    low.write_bytes(low_picture())
    line = {"id": "p", "original": "low.png", "generated": ["low.png"] * 4}
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({**line, **more}) + "\n" for more in ({}, {"id": "q", "locate": True})))
    assert catalogue.run(lines) == 1
    assert catalogue.answered == {"p": 1}
    assert catalogue.reasons == {"q": "bad-line"}
    assert "locate cannot be given for a single line" in catalogue.rejects[0]["detail"]
