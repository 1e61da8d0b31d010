"""`hcm-grpo --after RUN`: the same weights as training the shared epochs again, and refusal of runs that differ."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint.manifest import read_manifest
from screening.runtime.digests import file_sha256
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.reward import completion_text
from trainer.runs.run_directory import RunMismatch
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.hcm_grpo.warm_start import find_warm_start
from trainer.training.recipe.stages import HcmGrpoRecipe

pytestmark = pytest.mark.slow

SETTINGS = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8}
SETTINGS |= {"gradient_checkpointing": False, "schedule": "constant", "warmup_ratio": 0}

Train = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def train(runs: Path, small_data: Path, small_checkpoint: Path) -> Iterator[Train]:
    """`train("name", after="other", **changes of the settings)`; every third sample is hard, or those of `hard`."""

    def noise(completions: list[Any], **_: Any) -> list[float]:  # random weights earn no reward and would not learn
        return [zlib.crc32(completion_text(c).encode()) % 7 / 7 for c in completions]

    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    for start in range(3):
        (runs / f"hard-{start}").mkdir()
        write_hard_cases(runs / f"hard-{start}", Cases(names, names[start::3]), **digests)

    def run(name: str, after: str | None = None, hard: int = 0, **changes: Any) -> int:
        stage = {"learning_rate": 0.001, "captions": False}
        recipe = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": stage, "sft_answer": stage}
        path = runs / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**recipe, "hcm_grpo": SETTINGS | changes}))
        command = ["hcm-grpo", "--recipe", path, "--checkpoint", small_checkpoint, "--data", small_data]
        command += ["--hard-cases", runs / f"hard-{hard}", "--out", runs / name, "--tracking-uri", "none"]
        return main([*map(str, command), *(("--after", str(runs / after)) if after else ())])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.training.hcm_grpo.train.reward_functions", lambda *_: [noise])
        assert run("first", epochs=2, last_epochs=0) == 0
        yield run


def weights(run: Path) -> str:
    return file_sha256(run / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("parts", [["all", "hard"], ["easy"]])
def test_a_warm_start_gives_the_same_weights_as_training_the_first_epochs_again(
    parts: list[str], train: Train, runs: Path
) -> None:
    name = "-".join(parts)
    assert train(f"whole-{name}", epochs=2, last_epochs=1, last_parts=parts) == 0
    left = runs / f"after-{name}" / "trl" / ".warm-start.partial"  # left by a kill during the copy
    left.mkdir(parents=True)
    (left / "half").touch()
    shutil.copy(runs / f"whole-{name}" / "run.json", runs / f"after-{name}")  # the run was already claimed
    assert train(f"after-{name}", after="first", epochs=2, last_epochs=1, last_parts=parts, save_steps=1) == 0
    states = (runs / f"after-{name}" / "trl").glob("checkpoint-*")
    one, other = sorted(int(state.name.rpartition("-")[2]) for state in states)
    assert other - one == 1, "it saves as often as its own recipe says"
    assert weights(runs / f"after-{name}") == weights(runs / f"whole-{name}")
    assert weights(runs / f"after-{name}") != weights(runs / "first")


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (0, {"learning_rate": 0.02}, "learning_rate differ. Give this run the same"),
        (1, {"reward": "exact"}, "reward differ"),
        (2, {"seed": 1}, "seed differ"),
        (3, {"schedule": "cosine"}, "schedule: constant"),
        (4, {"warmup_ratio": 0.1}, "warmup_ratio: 0"),
        (
            5,
            {"epochs": 1, "last_epochs": 1, "last_parts": ["hard"]},
            "First train a run with this run's `epochs` and `last_epochs: 0`",
        ),
        (6, {"hard": 1}, "had other hard cases. Pass the --hard-cases of"),
    ],
)
def test_a_run_with_other_first_epochs_is_refused_before_anything_is_written(
    number: int, changes: dict[str, Any], said: str, train: Train, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"other-{number}", after="first", **({"epochs": 2, "last_epochs": 1} | changes)) == 2
    assert said in capsys.readouterr().err
    assert not (runs / f"other-{number}").exists()


@pytest.mark.parametrize(("there", "here"), [({"sharded": True}, {}), ({}, {"sharded": True})])
def test_a_run_of_a_divided_model_and_one_of_a_whole_model_do_not_start_from_each_other(
    there: dict[str, Any], here: dict[str, Any], tmp_path: Path
) -> None:
    settings = HcmGrpoRecipe(**SETTINGS)
    origin = {"stage": "hcm-grpo", "settings": settings.deciding, "data": "d", "parent": "p", "hard": 0, "processes": 2}
    (tmp_path / "run.json").write_text(json.dumps(origin | there))
    with pytest.raises(RunMismatch, match=r"because sharded differ\. Give"):
        find_warm_start(tmp_path, origin=origin | here, settings=settings, ids=[], cases=Cases((), ()))


def test_a_warm_start_needs_a_run_that_ended_with_a_complete_step(
    train: Train, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("uneven", epochs=1, last_epochs=0, batch_size=10) == 0
    more = {"epochs": 1, "last_epochs": 1}
    assert train("after-uneven", after="uneven", **more, batch_size=10) == 2
    assert "Choose another batch_size" in capsys.readouterr().err
    assert train("after-nothing", after="nowhere", **more) == 2
    said = capsys.readouterr().err
    assert "is not a run directory" in said
    assert "Give --after the --out of a finished run" in said


def test_a_warm_start_leaves_a_run_alone_that_is_still_training(
    train: Train, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "first", runs / "working")
    [state] = (runs / "working" / "trl").glob("checkpoint-*")
    half = state.with_name("checkpoint-99")
    half.mkdir()  # another process is writing it
    state.rename(state.with_name("checkpoint-1"))
    assert train("too-early", after="working", epochs=2, last_epochs=1) == 2
    assert "Let it end" in capsys.readouterr().err
    assert half.exists()
    shutil.rmtree(state.with_name("checkpoint-1"))
    assert train("too-early", after="working", epochs=2, last_epochs=1) == 2
    assert "no saved state" in capsys.readouterr().err
