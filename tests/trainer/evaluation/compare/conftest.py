"""Data, and two evaluations of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.evaluation.compare.evaluations import WRONG, make_data, make_evaluation, think


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def before(tmp_path: Path, data: Path) -> Path:
    """Right on s0, s1 and s3."""
    texts = [think("A"), think("N"), think(WRONG["B"]), think("ABCD"), "no answer"]
    return make_evaluation(tmp_path / "before", data, texts, name="old")


@pytest.fixture
def after(tmp_path: Path, data: Path) -> Path:
    """Right on s0, s2, s3 and s4."""
    texts = [think("AC"), think(WRONG["N"]), think("B"), think("D"), think("D")]
    return make_evaluation(tmp_path / "after", data, texts, name="new")
