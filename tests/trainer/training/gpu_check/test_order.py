"""The order of `gpu-check`: plan's estimates and the true sizes, and its file."""

from __future__ import annotations

import json

import pytest

from tests.trainer.training.plan.model_2b import PARAMETERS, SHAPES
from trainer.__main__ import main
from trainer.training.gpu_check.from_recipe import TINY_TOKENS, make_order
from trainer.training.gpu_check.order import read_order
from trainer.training.plan.architectures import PUBLISHED
from trainer.training.plan.memory import ALLOWANCE, sft_memory
from trainer.training.plan.parameters import build_on_meta, count_parameters
from trainer.training.recipe.recipe import load_recipe

pytestmark = pytest.mark.slow


def test_the_order_has_the_true_sizes_and_the_recipes_batches() -> None:
    order = make_order("internvl3-2b")
    assert count_parameters(build_on_meta(order.model_config())).total == PARAMETERS.total
    sft, grpo = order.tasks[:2]
    assert (sft.batch_size, sft.passes, sft.answer) == (8, 1, 512)
    assert (grpo.batch_size, grpo.group_size, grpo.questions, grpo.sampling) == (8, 4, 2, (1.0, 3, 0.8))
    assert sft.prompt > 5 * 256


def test_the_estimates_are_those_of_plan() -> None:
    sft, grpo, lora, *_ = make_order("internvl3-2b").tasks
    assert sft.estimates["weights"] == 4 * PARAMETERS.total
    assert grpo.estimates["reference model"] == 4 * PARAMETERS.total
    held = ("weights", "gradients", "optimizer (AdamW)", "step: activations, head, copies")
    assert sft.estimates["peak"] == sum(sft.estimates[use] for use in held)
    assert sft.estimates["CUDA and fragmentation"] == ALLOWANCE
    # gpu-check holds no pictures per completion.
    assert grpo.estimates["weights"] == 4 * PARAMETERS.total
    assert grpo.estimates["peak"] == sum(grpo.estimates[use] for use in (*held, "reference model"))
    assert lora.estimates["peak"] < sft.estimates["peak"] / 2


def test_places_are_measured_and_estimated_with_the_same_lengths(tmp_path) -> None:
    recipe = tmp_path / "places.yaml"
    recipe.write_text("extends: internvl3-2b\nsft_answer: {locate: 0.5}\n")
    (plain, _), (places, _) = (make_order(name).tasks[:2] for name in ("internvl3-2b", str(recipe)))
    assert places.answer == plain.answer + 256
    assert places.prompt > plain.prompt
    settings = load_recipe(str(recipe)).sft_answer
    memory = sft_memory(settings, PARAMETERS, SHAPES, prompt=places.prompt, answer=places.answer, gpus=1)
    step = memory.held["bfloat16 copies"] + sum(memory.training.values())
    assert places.estimates["step: activations, head, copies"] == step
    assert make_order(str(recipe), "tiny").tasks[0].answer == TINY_TOKENS


def test_a_base_with_tied_embeddings_is_measured_as_import_leaves_it(tmp_path) -> None:
    config = json.loads(json.dumps(PUBLISHED["OpenGVLab/InternVL3-1B-hf"]))
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = tmp_path / "tied.yaml"
    recipe.write_text(f"extends: internvl3-1b\nbase: {tmp_path}\n")
    order = make_order(str(recipe))
    parameters = count_parameters(build_on_meta(order.model_config()))
    assert not parameters.tied
    assert order.tasks[0].estimates["weights"] == 4 * parameters.total


def test_a_recipe_with_adapters_is_not_measured_in_full() -> None:
    titles = [task.title for task in make_order("internvl3-2b-lora").tasks]
    assert titles == ["SFT, LoRA", "stage 2, LoRA", "SFT, QLoRA", "stage 2, QLoRA"]


def test_an_order_survives_its_file(tmp_path, capsys) -> None:
    path = tmp_path / "order.json"
    assert main(["gpu-check", "internvl3-2b", "--write-order", str(path)]) == 0
    assert "6 measurements of recipe internvl3-2b" in capsys.readouterr().out
    assert read_order(path) == make_order("internvl3-2b")
