"""Trainings on a checkpoint with tiles. test_rollout_vllm.py compares the questions of all paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from screening.checkpoint.manifest import read_manifest, verify
from screening.prompt import COMPACT
from trainer.__main__ import main
from trainer.data_directory import read_samples
from trainer.reward import reward_functions
from trainer.training.hcm_grpo.grpo_trainer import GroupGRPOTrainer
from trainer.training.hcm_grpo.train import build_trainer
from trainer.training.number_format import computed_in
from trainer.training.recipe.recipe import RecipeError, load_recipe
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows

pytestmark = pytest.mark.slow

TILES = 5 + 5 + 4 + 1 + 3
"""Tiles of a question of `tiled_data`, thumbnails included."""
SETTINGS = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8}


def write_recipe(path: Path, **settings: object) -> str:
    stage = {"epochs": 1, "batch_size": 2, "learning_rate": 0.001, "captions": False}
    content = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": stage, "sft_answer": stage}
    path.write_text(yaml.safe_dump({**content, **settings}))
    return str(path)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, tiled_data: Path, tiled_checkpoint: Path) -> GroupGRPOTrainer:
    samples = read_samples(tiled_data)
    rows = dataset(rollout_rows(samples, COMPACT), tiled_data, read_manifest(tiled_checkpoint).image)
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    settings = HcmGrpoRecipe.model_validate({**SETTINGS, "gradient_checkpointing": False})
    return build_trainer(tiled_checkpoint, rows, rewards, settings, tmp_path_factory.mktemp("trl"))


@pytest.mark.parametrize("wrong", [0, 5, "many", True])
def test_a_recipe_has_one_to_four_tiles(wrong: object, tmp_path: Path) -> None:
    assert load_recipe(write_recipe(tmp_path / "r.yaml", tiles=4)).tiles == 4
    with pytest.raises(RecipeError, match=r"r\.yaml, tiles: "):
        load_recipe(write_recipe(tmp_path / "r.yaml", tiles=wrong))


def test_a_recipe_without_tiles_keeps_its_record() -> None:
    assert "tiles" not in load_recipe("tiny").model_dump(mode="json")


@pytest.mark.parametrize("command", ["sft", "hcm-grpo"])
def test_a_training_with_other_tiles_than_the_checkpoint_is_refused(
    command: str, tiled_data: Path, tiled_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "small.yaml", tiles=2, hcm_grpo=SETTINGS)
    given = ["--recipe", recipe, "--checkpoint", str(tiled_checkpoint), "--data", str(tiled_data)]
    more = ["--stage", "weak"] if command == "sft" else ["--hard-cases", str(tmp_path)]
    assert main([command, *given, *more, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "has `tiles: 2`, but the checkpoint's pictures have at most 4" in told
    assert "Write `tiles: 4`" in told


def test_sft_trains_on_tiles_and_keeps_the_contract(tiled_data: Path, tiled_checkpoint: Path, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "small.yaml", tiles=4), tmp_path / "run"
    given = ["--recipe", recipe, "--checkpoint", str(tiled_checkpoint), "--data", str(tiled_data), "--limit", "4"]
    assert main(["sft", "--stage", "answer-driven", *given, "--out", str(out)]) == 0
    before, after = read_manifest(tiled_checkpoint), verify(out / "checkpoint")
    assert after.image == before.image
    assert after.recipe["tiles"] == 4
    assert after.files["processor_config.json"] == before.files["processor_config.json"]


def test_rollouts_read_the_tiles_of_each_question_once(trainer: GroupGRPOTrainer) -> None:
    shown: list[torch.Tensor] = []
    model = trainer.model
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda _m, _a, given: shown.append(given["pixel_values"]), with_kwargs=True
    )
    try:
        model.train()
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    finally:
        hook.remove()
    length = model.config.image_seq_length
    assert ((inputs["prompt_ids"] == model.config.image_token_id).sum(1) == TILES * length).all()
    assert inputs["num_tiles"] == [TILES] * 4
    assert inputs["pixel_values"].shape == (4 * TILES, 3, 64, 64)
    assert shown[0].shape == (2 * TILES, 3, 64, 64), "pictures of two questions, not of four completions"


def test_groups_with_tiles_score_as_trl_scores_completions(trainer: GroupGRPOTrainer) -> None:
    trainer.model.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    wanted = inputs["completion_mask"].bool()
    given = {name: inputs[name] for name in ("pixel_values", "num_images", "num_tiles")}
    arguments = (trainer.model, ids, mask, wanted.shape[1], 2)
    with torch.no_grad():
        ours = trainer._get_per_token_logps_and_entropies(*arguments, **given)[0]
        theirs = super(GroupGRPOTrainer, trainer)._get_per_token_logps_and_entropies(*arguments, **given)[0]
    tolerance = 0.05 if computed_in() is torch.bfloat16 else 1e-4
    assert torch.allclose(ours[wanted].float(), theirs[wanted].float(), atol=tolerance)
