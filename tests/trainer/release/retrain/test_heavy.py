"""The real GPU stages on a small model: trainings on the CPU, and an engine that always gives one answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest, verify
from screening.checkpoint.probes import Probe, Probes
from screening.checkpoint.registry import PRODUCTION
from screening.checkpoint.seal import sealed
from tests.trainer.coloured import thought
from tests.trainer.published import make_prober
from tests.trainer.release.retrain.shop import Shop, called
from tests.trainer.scripted_engine import LETTERS
from trainer.evaluation.calibrate.evidence import CalibrationError
from trainer.evaluation.domain.errors import DomainFitError
from trainer.evaluation.evaluate.by_checkpoint import evaluate
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply
from trainer.release.promote.moves import move
from trainer.release.publish.probing import Prober
from trainer.release.publish.register import register
from trainer.release.retrain.heavy import HEAVY
from trainer.training.hard_cases.find import find_hard_cases


@contextmanager
def one_answer(_checkpoint: Path, _manifest: Manifest, _mode: Mode) -> Iterator[OfflineEngine]:
    def ask(questions: Sequence[Pictures]) -> list[Reply]:
        return [Reply(thought("N"), "stop", (), prompt_tokens=100, completion_tokens=10) for _ in questions]

    yield OfflineEngine(ask, LETTERS)


@contextmanager
def prober(_checkpoint: Path, _manifest: Manifest, **_: Any) -> Iterator[Prober]:
    yield make_prober()


def in_this_process(stage: str, arguments: Mapping[str, Any], *_: Any) -> dict[str, Any]:
    return HEAVY[stage](**arguments)


@pytest.mark.slow
def test_every_gpu_stage_uses_the_result_of_the_previous_one(
    shop: Shop, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    for stage in (evaluate, find_hard_cases):
        monkeypatch.setitem(stage.__kwdefaults__, "open_engine", one_answer)
    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)
    serve(shop, small_checkpoint)
    sft = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 1, "captions": False}
    stage_2 = {"learning_rate": 0.01, "batch_size": 8, "epochs": 0, "last_epochs": 1, "group_size": 2}
    stage_2 |= {"max_completion_tokens": 6, "gradient_checkpointing": False, "weight_decay": 0.9}
    recipe = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": sft, "sft_answer": sft}
    (shop.folder / "small.yaml").write_text(yaml.safe_dump(recipe | {"hcm_grpo": stage_2}))
    shop.config["training"]["recipe"] = str(shop.folder / "small.yaml")

    assert called(shop.file(), in_this_process) == 0  # type: ignore[arg-type]
    run = shop.state.run
    assert run is not None
    assert run.outcome == "refused" and "score, floor" in run.message, (
        "one answer to everything is no better than chance"
    )
    found = run.stages["hard-cases"].result
    assert 0 < len(found["hard"]) < found["questions"]
    version = shop.registry.version(3)
    assert version is not None
    manifest = verify(version.directory)
    assert list(manifest.data)[-2:] == ["sft-answer-driven", "hcm-grpo"] and manifest.probes is not None
    assert manifest.scores["cot"]["data"]["digest"] == run.stages["split"].result["parts"]["test"]["digest"]
    assert manifest.digest != read_manifest(small_checkpoint).digest


def serve(shop: Shop, checkpoint: Path) -> None:
    """Put a checkpoint into production."""
    directory = shop.folder / "store" / "small"
    shutil.copytree(checkpoint, directory)
    probe = Probe(seed=0, mode=Mode.COT, answer="x", logprobs=(-1.0,))
    probes = Probes(questions=(probe,), tolerance=0.1)
    manifest = sealed(read_manifest(directory).model_copy(update={"probes": probes}))
    store_manifest(manifest, directory)
    version = register(shop.registry, directory, manifest)
    move(shop.registry, shop.registry.named(PRODUCTION), version, "promote", by="ann", reason=None)


def test_what_the_validation_data_do_not_allow_is_left_out_and_noted(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Path] = []

    def fit(_checkpoint: Path, evaluations: Sequence[Path]) -> str:
        if any("direct" in directory.name for directory in evaluations):
            raise CalibrationError("direct: 40 right and 18 wrong answers are too few")
        fitted.extend(evaluations)
        return ""

    def describe(*_: Any) -> str:
        raise DomainFitError("30 products are too few to describe a domain")

    monkeypatch.setattr("trainer.evaluation.evaluate.by_checkpoint.evaluate", lambda *_, **__: None)
    monkeypatch.setattr("trainer.evaluation.calibrate.command.calibrate", fit)
    monkeypatch.setattr("trainer.evaluation.domain.command.describe", describe)
    done = HEAVY["calibrate"](
        checkpoint=str(small_checkpoint),
        data=str(tmp_path / "validation"),
        out=str(tmp_path / "out"),
        modes=["cot", "direct"],
        batch=8,
        domain="toys",
    )
    assert [path.name for path in fitted] == ["validation-cot"]
    assert verify(Path(done["checkpoint"])).digest == done["digest"]
    assert "mode direct is not calibrated: direct: 40 right and 18 wrong" in done["note"]
    assert "no domain: 30 products are too few" in done["note"]
