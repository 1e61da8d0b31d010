"""A model registry with published versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.checkpoint.registry import Registry
from tests.trainer.published import make_data
from tests.trainer.release.promote.shop import Shop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("promote") / "data")


@pytest.fixture
def shop(tmp_path: Path, registry_file: Path, data: Path) -> Shop:
    return Shop(tmp_path, Registry(f"sqlite:///{registry_file}"), data)
