"""The real engine's out-of-domain score is that of the checkpoint's own vision tower, before and after a swap."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from screening.answer import Mode
from screening.checkpoint import Manifest, read_manifest, write_manifest
from screening.domain import Domain, DomainCalibration, FeatureStatistics
from screening.images import load_square
from screening.picture_features import pool
from screening.probes import probe_pictures
from service.engine import Question
from service.vllm_engine import VllmEngine

pytestmark = [pytest.mark.anyio, pytest.mark.vllm, pytest.mark.slow]


def features(checkpoint: Path, pictures: Sequence[Image.Image]) -> np.ndarray:
    """What transformers sees in them."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    pixels = processor(list(pictures), crop_to_patches=False, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found: np.ndarray = pool(pixels, model.model.vision_tower(pixel_values=pixels).last_hidden_state).numpy()
    return found


def give_domain(checkpoint: Path, pictures: Sequence[Image.Image]) -> Manifest:
    """Describe a few pictures; the manifest's other fields stay."""
    statistics = FeatureStatistics.of(features(checkpoint, pictures).astype(np.float64), 8)
    calibration = DomainCalibration(data=("sha256:0",), pictures=len(pictures), questions=1, target=0.5)
    domain = Domain(
        trained_on="examples", confidence_cap=0.3, statistics=statistics, threshold=10.0, calibration=calibration
    )
    fields = {name: getattr(read_manifest(checkpoint), name) for name in Manifest.model_fields}
    kept = {name: value for name, value in fields.items() if name not in ("files", "created", "domain")}
    return write_manifest(checkpoint, **kept, domain=domain)


def other_tower(checkpoint: Path) -> None:
    """Other weights in the last layer of the vision tower."""
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    (name, *_) = (name for name in weights if "vision" in name and "layer.3" in name and name.endswith("weight"))
    save_file(weights | {name: weights[name] * 0.5}, file, metadata={"format": "pt"})


@pytest.fixture
def checkpoints(tiny_checkpoint: Path, tmp_path: Path, examples: list[Image.Image]) -> tuple[Path, Path]:
    for name in ("one", "two"):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    other_tower(tmp_path / "two")
    for name in ("one", "two"):
        give_domain(tmp_path / name, examples)
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture(scope="session")
def examples(repository: Path) -> list[Image.Image]:
    files = sorted((repository / "clients" / "python" / "examples" / "products").rglob("*.jpg"))
    return [load_square(file.read_bytes(), 128) for file in files]


async def test_scores_are_those_of_the_weights_that_are_served(checkpoints, examples) -> None:
    engine = VllmEngine(max_concurrent=2)
    questions: list[Any] = [tuple(examples[:5]), tuple(probe_pictures(3, 128)), tuple(probe_pictures(0, 128))]
    await engine.start(checkpoints[0])
    try:
        for checkpoint in (*checkpoints, checkpoints[0]):
            manifest = read_manifest(checkpoint)
            assert manifest.domain is not None
            if engine.contract.digest != manifest.digest:
                await engine.reload(checkpoint, manifest)
            for number, pictures in enumerate(questions):
                expected = manifest.domain.scores(list(features(checkpoint, pictures)))
                # Asked before and after an answer about the same pictures, whose encoding is then cached.
                before = await engine.domain_scores(pictures)
                generated = await engine.generate(Question(f"q-{manifest.digest}-{number}", Mode.COT, pictures))
                for found in (before, generated.domain_scores, await engine.domain_scores(pictures)):
                    assert found == pytest.approx(expected, rel=0.1, abs=0.02)
    finally:
        await engine.stop()
