"""Labelled data, and a shop whose production version is worse than a retrained one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from screening.checkpoint.registry import Registry
from tests.trainer.published import make_data
from tests.trainer.release.retrain.shop import SAMPLES, Shop


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("labels") / "data", SAMPLES)


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path, labels: Path) -> Path:
    """The folder of a shop before any retraining, with its registry."""
    folder = tmp_path_factory.mktemp("shop")
    Shop(folder, labels, Registry(f"sqlite:///{shutil.copy(empty_registry, folder)}")).put_into_production("old")
    return folder


@pytest.fixture
def shop(tmp_path: Path, registry_file: Path, labels: Path, before: Path) -> Shop:
    shutil.copy(before / registry_file.name, registry_file)
    made = Shop(tmp_path, labels, Registry(f"sqlite:///{registry_file}"))
    shutil.copytree(before / "store", tmp_path / "store", dirs_exist_ok=True)
    return made
