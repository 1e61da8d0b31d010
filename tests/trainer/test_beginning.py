"""`hcm-grpo --after RUN`: the same weights as training the shared epochs again, and no run that is not a beginning."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint import file_sha256, read_manifest
from trainer.__main__ import main
from trainer.hard_cases.cases import Cases
from trainer.hard_cases.record import write_hard_cases
from trainer.records import data_digest, read_samples
from trainer.reward import completion_text

SETTINGS = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8}
SETTINGS |= {"gradient_checkpointing": False, "schedule": "constant", "warmup_ratio": 0}

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, small_data: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`train("name", after="other", **changes of the settings)`; every third sample is hard."""

    def noise(completions: list[Any], **_: Any) -> list[float]:  # random weights earn nothing and learn nothing from it
        return [zlib.crc32(completion_text(c).encode()) % 7 / 7 for c in completions]

    monkeypatch.setattr("trainer.hcm_grpo.train.reward_functions", lambda _kind: [noise])
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    (tmp_path / "hard").mkdir()
    write_hard_cases(tmp_path / "hard", Cases(names, names[::3]), **digests)

    def run(name: str, after: str | None = None, **changes: Any) -> int:
        stage = {"learning_rate": 0.001, "captions": False}
        recipe = {"name": "small", "prompt": "compact", "max_tokens_cot": 160, "sft_weak": stage, "sft_answer": stage}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**recipe, "hcm_grpo": SETTINGS | changes}))
        command = ["hcm-grpo", "--recipe", path, "--checkpoint", small_checkpoint, "--data", small_data]
        command += ["--hard-cases", tmp_path / "hard", "--out", tmp_path / name, "--tracking-uri", "none"]
        return main([*map(str, command), *(("--after", str(tmp_path / after)) if after else ())])

    return run


def weights(run: Path) -> str:
    return file_sha256(run / "checkpoint" / "model.safetensors")


def test_a_shared_beginning_gives_the_weights_of_training_each_variant_from_its_start(
    train: Train, tmp_path: Path
) -> None:
    assert train("beginning", epochs=2, last_epochs=0) == 0
    for parts in (["all", "hard"], ["easy"]):
        name = "-".join(parts)
        assert train(f"whole-{name}", epochs=2, last_epochs=1, last_parts=parts) == 0
        assert train(f"after-{name}", after="beginning", epochs=2, last_epochs=1, last_parts=parts) == 0
        assert weights(tmp_path / f"after-{name}") == weights(tmp_path / f"whole-{name}")
        assert weights(tmp_path / f"after-{name}") != weights(tmp_path / "beginning")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.02}, "learning_rate differ"),
        ({"reward": "exact"}, "reward differ"),
        ({"seed": 1}, "seed differ"),
        ({"schedule": "cosine"}, "schedule: constant"),
        ({"warmup_ratio": 0.1}, "warmup_ratio: 0"),
        ({"epochs": 1, "last_epochs": 1, "last_parts": ["hard"]}, "not how this one begins"),
    ],
)
def test_what_is_not_a_beginning_is_refused(
    changes: dict[str, Any], said: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("beginning", epochs=2, last_epochs=0) == 0
    assert train("other", after="beginning", **({"epochs": 2, "last_epochs": 1} | changes)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "other" / "checkpoint").exists()


def test_a_beginning_must_have_ended_with_a_whole_step(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("beginning", epochs=1, last_epochs=0, batch_size=10) == 0
    assert train("other", after="beginning", epochs=1, last_epochs=1, batch_size=10) == 2
    assert "choose a batch" in capsys.readouterr().err
    assert train("third", after="nowhere", epochs=1, last_epochs=1) == 2
    assert "holds no run" in capsys.readouterr().err
