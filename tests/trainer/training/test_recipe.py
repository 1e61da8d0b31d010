"""Recipes: refused content, and how `extends` merges two files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainer.training.recipe.recipe import RECIPES, RecipeError, load_recipe


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("name: x\nprompt: compact\nlerning_rate: 1\n")
    with pytest.raises(RecipeError, match="lerning_rate"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="tiny"):
        load_recipe("no-such-recipe")


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("dap", r"hcm_grpo.reward: there is no reward 'dap'. Use one of dpa, exact, or package.module:name"),
        ("no_such_module:f", "hcm_grpo.reward: the reward 'no_such_module:f' cannot be loaded: No module named"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_refused_before_anything_is_trained(
    tmp_path: Path, reward: str, words: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: tiny\nhcm_grpo: {{reward: '{reward}'}}\n")
    with pytest.raises(RecipeError, match=words):
        load_recipe(str(path))


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_is_complete_and_named_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_base_of_an_ablation_is_not_trained_to_screen() -> None:
    pretrain = load_recipe("tiny-base").pretrain
    assert pretrain is not None and not any(share for task, share in pretrain.speak.shares.items() if "screen" in task)


def test_a_recipe_says_only_what_is_different_from_the_one_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny\nname: mine\nhcm_grpo: {reward: exact}\npretrain: null\n")
    tiny, mine = load_recipe("tiny"), load_recipe(str(path))
    assert mine.hcm_grpo == tiny.hcm_grpo.model_copy(update={"reward": "exact"})
    assert mine.model_copy(update={"name": "tiny", "hcm_grpo": tiny.hcm_grpo, "pretrain": tiny.pretrain}) == tiny

    further = tmp_path / "further.yaml"
    further.write_text("extends: mine.yaml\nname: further\nsft_weak: {epochs: 9}\n")
    found = load_recipe(str(further))
    assert (found.sft_weak.epochs, found.hcm_grpo.reward, found.pretrain) == (9, "exact", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: tiny\nlerning_rate: 1\n", "lerning_rate"),
        ("extends: tiny\nhcm_grpo: {rewards: dpa}\n", "hcm_grpo.rewards"),
        ("extends: tiny\npretrain: {pool: {kind_weights: {bows: 2}}}\n", "bows: no kind of defect"),
        ("extends: tiny\npretrain: {pool: {kind_weights: {bow: 0}}}\n", "greater than 0"),
        ("extends: nothing-like-this\n", "nothing-like-this"),
        ("extends: wrong.yaml\n", "extends itself"),
        ("extends: [tiny]\n", "must be the name or the path of a recipe"),
        ("- a list\n", "wrong.yaml"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_and_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize("size", ["1b", "2b"])
def test_the_shipped_recipes_are_table_2(size) -> None:
    recipe = load_recipe(f"internvl3-{size}")
    assert recipe.base == f"OpenGVLab/InternVL3-{size.upper()}-hf"
    for stage in (recipe.sft_weak, recipe.sft_answer):
        assert (stage.epochs, stage.batch_size, stage.gradient_accumulation) == (5, 8, 1)
    assert recipe.sft_weak.captions
    assert not recipe.sft_answer.captions
    grpo = recipe.hcm_grpo
    assert grpo is not None
    assert (grpo.group_size, grpo.kl_beta, grpo.batch_size, grpo.gradient_accumulation) == (4, 0.04, 8, 1)
    assert (grpo.temperature, grpo.top_k, grpo.top_p) == (1.0, 3, 0.8)
    assert (grpo.epochs, grpo.last_epochs, grpo.last_parts, grpo.reward) == (3, 2, ("all", "hard"), "dpa")


def test_unknown_settings_of_stage_two_are_refused(tmp_path) -> None:
    recipe = yaml.safe_load((RECIPES / "internvl3-2b.yaml").read_text())
    for wrong in ({"beta": 0.1}, {"last_parts": ["hardest"]}, {"group_size": 1}, {"reward": "f1"}):
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml.safe_dump({**recipe, "hcm_grpo": {**recipe["hcm_grpo"], **wrong}}))
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            load_recipe(str(path))
