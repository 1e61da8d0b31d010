"""Labelled data, and a shop whose production version is worse than a retrained one."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.checkpoint.registry import Registry
from tests.trainer.published import make_data
from tests.trainer.release.retrain.shop import SAMPLES, Shop


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("labels") / "data", SAMPLES)


@pytest.fixture
def shop(tmp_path: Path, registry_file: Path, labels: Path) -> Shop:
    made = Shop(tmp_path, labels, Registry(f"sqlite:///{registry_file}"))
    made.put_into_production("old")
    return made
