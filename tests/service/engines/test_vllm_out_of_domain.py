"""The real engine's out-of-domain score is that of the checkpoint's own vision tower, before and after a swap."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from screening.answer import Mode
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.domain import Domain, DomainCalibration, FeatureStatistics
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.probes import probe_pictures
from screening.inference.picture_features import pool
from service.engines.protocol import Question
from service.engines.vllm_engine import VllmEngine
from tests.squares import load_square

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def features(checkpoint: Path, pictures: Sequence[Image.Image]) -> np.ndarray:
    """The features that transformers computes from them."""
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


def checkpoints(folder: Path, repository: Path, pictures: Sequence[Image.Image]) -> tuple[Path, Path]:
    for name in ("one", "two"):
        shutil.copytree(repository / "models" / "tiny", folder / name)
    other_tower(folder / "two")
    for name in ("one", "two"):
        give_domain(folder / name, pictures)
    return folder / "one", folder / "two"


@pytest.mark.exhaustive  # publishing and each swap compare the scores of the probes
def test_scores_are_those_of_the_weights_that_are_served(repository: Path, tmp_path: Path) -> None:
    # In a subprocess: an engine ends all children of its process, the services of other tests included.
    command = [sys.executable, "-m", "tests.service.engines.test_vllm_out_of_domain", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "compared 27"


async def compare(folder: Path, repository: Path) -> int:
    """Load, swap and swap back; the number of scores that were compared."""
    files = sorted((repository / "clients" / "python" / "examples" / "products").rglob("*.jpg"))
    examples = [load_square(file.read_bytes(), 128) for file in files]
    one, two = checkpoints(folder, repository, examples)
    engine, compared = VllmEngine(max_concurrent=2), 0
    questions: list[Any] = [tuple(examples[:5]), tuple(probe_pictures(3, 128)), tuple(probe_pictures(0, 128))]
    await engine.start(one)
    try:
        for checkpoint in (one, two, one):
            manifest = read_manifest(checkpoint)
            assert manifest.domain is not None
            if engine.checkpoint.digest != manifest.digest:
                await engine.reload(checkpoint, manifest)
            for number, pictures in enumerate(questions):
                expected = manifest.domain.scores(list(features(checkpoint, pictures)))
                # Asked before and after an answer about the same pictures, whose encoding is then cached.
                before = await engine.domain_scores(pictures)
                generated = await engine.generate(Question(f"q-{manifest.digest}-{number}", Mode.COT, pictures))
                for found in (before, generated.domain_scores, await engine.domain_scores(pictures)):
                    assert found == pytest.approx(expected, rel=0.1, abs=0.02)
                    compared += 1
    finally:
        await engine.stop()
    return compared


if __name__ == "__main__":
    print(f"compared {asyncio.run(compare(Path(sys.argv[1]), Path.cwd()))}")
