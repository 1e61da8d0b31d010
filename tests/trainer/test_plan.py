"""The plan: counts against numbers worked out by hand, formulas against what torch, TRL and the processor really do."""

from __future__ import annotations

import json
import struct
from argparse import Namespace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from trainer.__main__ import main
from trainer.plan.architectures import PUBLISHED, PlanError, find_model
from trainer.plan.checks import find_notes, find_problems
from trainer.plan.command import size_data
from trainer.plan.memory import (
    ALLOWANCE,
    GIB,
    engine_memory,
    grpo_memory,
    head_bytes,
    kv_cache_bytes,
    projector_bytes,
    sft_memory,
    text_activations,
    vision_layer_bytes,
)
from trainer.plan.parameters import Parameters, Part, build_on_meta, count_parameters
from trainer.plan.plan import Case, DataSize, Hardware
from trainer.plan.report import as_json, as_text
from trainer.plan.schedule import grpo_schedule, sft_schedule
from trainer.plan.shapes import Layers, Shapes, shapes_of
from trainer.plan.tokens import Tokens, count_tokens, load_tokenizer
from trainer.recipe import HcmGrpoRecipe, Recipe, RecipeError, SftRecipe, load_recipe
from trainer.records import Sample

SIZES = {  # width, MLP, layers, key and value width of the language models
    "internvl3-1b": (896, 4864, 24, 128),
    "internvl3-2b": (1536, 8960, 28, 256),
}
VOCABULARY = 151674

# The 2B model without torch, for everything that is arithmetic.
VISION = Layers(24, 1024, 4096, 16, 16, 64)
SHAPES = Shapes(VISION, Layers(28, 1536, 8960, 12, 2, 128), 448, 32, 256, VOCABULARY, 32768)
PARAMETERS = Parameters(
    (
        Part("vit", 304_012_288, 302_592_000),
        Part("projector", 8_662_016, 8_650_752),
        Part("embeddings", 232_971_264, 232_971_264),
        Part("language_model", 1_310_340_608, 1_310_195_712),
        Part("head", 232_971_264, 232_971_264),
    ),
    tied=False,
)


def hand_count(width: int, mlp: int, layers: int, kv: int) -> dict[str, int]:
    """Parameters of an InternVL3 from its shapes, term by term."""
    v = 1024
    attention = 3 * (v * v + v) + (v * v + v)  # q, k, v and output, with biases
    vision_layer = attention + (v * 4096 + 4096) + (4096 * v + v) + 2 * 2 * v + 2 * v  # MLP, two norms, two scales
    vit = v + (32 * 32 + 1) * v + (3 * 14 * 14 * v + v) + 24 * vision_layer  # class token, positions, patches
    projector = 2 * 4 * v + (4 * v * width + width) + (width * width + width)
    text_layer = (width * width + width) + 2 * (width * kv + kv) + width * width + 3 * width * mlp + 2 * width
    return {
        "vit": vit,
        "projector": projector,
        "embeddings": VOCABULARY * width,
        "language_model": layers * text_layer + width,
        "head": VOCABULARY * width,
    }


@pytest.fixture(scope="module")
def on_meta() -> dict[str, Parameters]:
    """The shipped base models, built once."""
    return {name: count_parameters(build_on_meta(find_model(load_recipe(name)).config)) for name in SIZES}


@pytest.mark.parametrize(("name", "published"), [("internvl3-1b", 938.19e6), ("internvl3-2b", 2.09e9)])
def test_parameters_are_those_of_the_shapes_and_of_the_published_models(on_meta, name, published) -> None:
    counted = on_meta[name]
    assert {part.name: part.total for part in counted.parts} == hand_count(*SIZES[name])
    assert counted.total == pytest.approx(published, rel=1e-3)
    assert not counted.tied


def test_the_arithmetic_below_uses_the_real_numbers(on_meta) -> None:
    assert on_meta["internvl3-2b"] == PARAMETERS
    assert shapes_of(find_model(load_recipe("internvl3-2b")).config) == SHAPES


def test_what_is_trained_and_what_autocast_copies() -> None:
    counts = hand_count(*SIZES["internvl3-2b"])
    assert PARAMETERS.trained(vision=True) == sum(counts.values())
    assert PARAMETERS.trained(vision=False) == sum(counts.values()) - counts["vit"] - counts["projector"]
    layer = 1536 * 1536 * 2 + 2 * 1536 * 256 + 3 * 1536 * 8960  # without biases and norms
    assert PARAMETERS.copied(vision=False) == 28 * layer
    vision = 3 * 14 * 14 * 1024 + 24 * (4 * 1024 * 1024 + 2 * 1024 * 4096) + 4096 * 1536 + 1536 * 1536
    assert PARAMETERS.copied(vision=True) == 28 * layer + vision


def with_base(base: Path | str, **changes: Any) -> Recipe:
    return load_recipe("internvl3-2b").model_copy(update={"base": str(base), "prompt": "compact", **changes})


def test_the_shipped_checkpoint_has_as_many_parameters_as_its_file(tiny_checkpoint) -> None:
    with (tiny_checkpoint / "model.safetensors").open("rb") as handle:
        header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    counted = count_parameters(build_on_meta(find_model(with_base(tiny_checkpoint)).config))
    assert counted.total == sum(prod(shape) for shape in shapes.values())
    vision = sum(prod(shape) for name, shape in shapes.items() if "vision_tower" in name)
    assert {part.name: part.total for part in counted.parts}["vit"] == vision


def test_a_recipe_from_scratch_is_counted_from_its_architecture() -> None:
    recipe = load_recipe("tiny")
    a, vocabulary = recipe.architecture, recipe.pretrain.vocabulary
    rows = -(-vocabulary // 64) * 64  # the embedding is padded to whole blocks of 64
    v, t, side = a.vision_width, a.text_width, a.image_size // a.patch_size
    vision_layer = 4 * (v * v + v) + 2 * 4 * v * v + 5 * v + 6 * v
    expected = {
        "vit": v + (side * side + 1) * v + 3 * a.patch_size**2 * v + v + a.vision_layers * vision_layer,
        "projector": 2 * 4 * v + 4 * v * t + t + t * t + t,
        "embeddings": rows * t,
        "language_model": a.text_layers * (4 * t * t + 3 * t + 3 * t * a.text_mlp + 2 * t) + t,
        "head": rows * t,
    }
    model = find_model(recipe)
    counted = count_parameters(build_on_meta(model.config))
    assert {part.name: part.total for part in counted.parts} == expected
    assert shapes_of(model.config).tokens_per_picture == a.tokens_per_picture


def test_tied_embeddings_are_counted_once_and_noted(tmp_path) -> None:
    config = json.loads(json.dumps(PUBLISHED["OpenGVLab/InternVL3-1B-hf"]))
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    counted = count_parameters(build_on_meta(find_model(with_base(tmp_path)).config))
    counts = hand_count(*SIZES["internvl3-1b"])
    assert counted.tied
    assert counted.total == sum(counts.values()) - counts["head"]
    assert any("untied" in note for note in find_notes(case(parameters=counted)))


# How long a sample is.


def test_the_prompt_is_as_long_as_the_processor_makes_it(tiny_checkpoint) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    from screening.answer import Mode
    from screening.prompt import PROMPTS, messages

    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    config = find_model(with_base(tiny_checkpoint)).config
    per_picture = shapes_of(config).tokens_per_picture
    assert per_picture == config.image_seq_length
    for prompt in PROMPTS.values():
        text = processor.apply_chat_template(messages(prompt, Mode.COT), add_generation_prompt=True, tokenize=False)
        pictures = [Image.new("RGB", (128, 128)) for _ in range(5)]
        real = len(processor(text=[text], images=pictures)["input_ids"][0])
        counted = count_tokens(prompt, per_picture, load_tokenizer(tiny_checkpoint))
        assert counted.measured
        assert counted.prompt == real
        assert counted.pictures == 5 * per_picture


def test_an_estimate_without_a_tokenizer_errs_on_the_long_side(tiny_checkpoint) -> None:
    from screening.prompt import COMPACT

    measured = count_tokens(COMPACT, 16, load_tokenizer(tiny_checkpoint), [reasoned()])
    estimated = count_tokens(COMPACT, 16, None, [reasoned()])
    assert not estimated.measured
    assert measured.prompt <= estimated.prompt <= measured.prompt + 20
    assert measured.longest_answer <= estimated.longest_answer <= 1.5 * measured.longest_answer


def test_a_picture_of_internvl3_is_256_tokens() -> None:
    assert SHAPES.tokens_per_picture == (448 // 14 // 2) ** 2 == 256
    assert SHAPES.vision_length == 32 * 32 + 1
    assert SHAPES.folded_width == 4 * 1024


# Activations: the formulas against the tensors that autograd keeps.


def small_model(layers: int, vision_layers: int) -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        vision_config={
            "hidden_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "attention_bias": True,
            "image_size": [64, 64],
            "patch_size": [8, 8],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 128,
            "hidden_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 160,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        image_token_id=5,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config).train()
    model.set_attn_implementation("sdpa")
    return model


def kept_bytes(model: Any, forward: Any) -> int:
    """Bytes of all tensors kept for the backward pass, parameters and their bfloat16 copies left out."""
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    matrices = {tuple(parameter.shape) for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shape, storage = tuple(tensor.shape), tensor.untyped_storage().data_ptr()
        copied = tensor.dtype is torch.bfloat16 and (shape in matrices or shape[::-1] in matrices)
        if storage not in storages and not copied:
            kept[storage] = tensor  # held, so that no other tensor takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = forward()
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def language_model_bytes(layers: int, length: int, *, checkpointing: bool) -> int:
    model = small_model(layers, 1)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(6, 100, (3, length))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0  # one shorter sample, padded on the left: without padding no mask is kept
    inner = model.model.language_model
    return kept_bytes(model, lambda: inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)


@pytest.mark.parametrize("length", [40, 96])
def test_activations_of_the_language_model_are_what_autograd_keeps(length) -> None:
    shapes = shapes_of(small_model(1, 1).config)
    # The difference of two depths leaves out what is kept once: embeddings, rotations, the last norm.
    measured = language_model_bytes(5, length, checkpointing=False) - language_model_bytes(
        2, length, checkpointing=False
    )
    deep, shallow = (Shapes(**{**fields(shapes), "text": Layers(number, 64, 160, 8, 2, 8)}) for number in (5, 2))
    expected = text_activations(deep, 3, length, checkpointing=False) - text_activations(
        shallow, 3, length, checkpointing=False
    )
    assert measured == expected

    measured = language_model_bytes(5, length, checkpointing=True) - language_model_bytes(2, length, checkpointing=True)
    expected = text_activations(deep, 3, length, checkpointing=True) - text_activations(
        shallow, 3, length, checkpointing=True
    )
    assert measured == expected


def test_activations_of_the_vit_and_the_projector_are_what_autograd_keeps() -> None:
    shapes = shapes_of(small_model(1, 1).config)
    pixels = torch.randn(3, 3, 64, 64)
    tower = [
        kept_bytes(model, lambda m=model: m.model.vision_tower(pixel_values=pixels).last_hidden_state)
        for model in (small_model(1, 2), small_model(1, 5))
    ]
    assert tower[1] - tower[0] == 3 * 3 * shapes.vision_length * vision_layer_bytes(shapes)

    model = small_model(1, 1)
    folded = torch.randn(3, 16, shapes.folded_width, requires_grad=True)
    projector = kept_bytes(model, lambda: model.model.multi_modal_projector(folded))
    assert projector == 3 * 16 * projector_bytes(shapes)


def fields(shapes: Shapes) -> dict[str, Any]:
    return {name: getattr(shapes, name) for name in Shapes.__slots__}


# Memory by hand.


def test_states_of_sft_by_hand() -> None:
    sft = SftRecipe(learning_rate=1e-5, captions=False, gradient_checkpointing=True)
    held = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=1).held
    trained = 2_088_957_440 - 304_012_288 - 8_662_016
    assert held == {
        "weights": 4 * 2_088_957_440,
        "gradients": 4 * trained,
        "optimizer (AdamW)": 8 * trained,
        "bfloat16 copies": 2 * 1_310_195_712,
        "CUDA and fragmentation": ALLOWANCE,
    }
    several = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=2).held
    assert several["gradient buckets"] == 4 * trained


def test_checkpointing_of_sft_by_hand() -> None:
    tokens, length = 8 * 2212, 2212
    layer = 26 * 1536 + 8 * 1536 + 8 * 8960 + 4 * 12 + 8 + 2 * length
    last_norm = tokens * (8 * 1536 + 4)
    kept = text_activations(SHAPES, 8, length, checkpointing=True)
    assert kept == last_norm + tokens * (28 * 4 * 1536 + layer)
    assert text_activations(SHAPES, 8, length, checkpointing=False) == last_norm + tokens * 28 * layer


def test_kv_cache_and_head_by_hand() -> None:
    # Keys and values, 28 layers, 2 heads of 128, two bytes each.
    assert kv_cache_bytes(SHAPES, 8, 2212) == 8 * 2212 * (2 * 28 * 2 * 128 * 2)
    # 4,096 scored tokens fill a tile; gradients in float32.
    assert head_bytes(SHAPES, 4096) == 4096 * 32768 * 2 + 4 * 1536 * (4096 + VOCABULARY)
    assert head_bytes(SHAPES, 100) == 100 * 32768 * 2 + 4 * 1536 * (100 + VOCABULARY)


def test_stage_two_holds_a_reference_model_unless_beta_is_zero() -> None:
    def held(**settings: Any) -> Any:
        recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, **settings)
        return grpo_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpus=1, gpu_memory=80 * GIB)

    assert held().held["reference model"] == 4 * PARAMETERS.total
    assert "reference model" not in held(kl_beta=0).held
    assert held().rollouts == {"KV cache of the rollouts": kv_cache_bytes(SHAPES, 8, 2212)}
    engine = held(vllm="colocate", vllm_memory=0.25)
    assert engine.held["vLLM engine"] == 20 * GIB
    assert not engine.rollouts
    assert held().held["optimizer (AdamW)"] == 8 * PARAMETERS.total  # nothing is frozen


def test_rollouts_and_training_take_turns() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512)
    memory = grpo_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpus=1, gpu_memory=80 * GIB)
    turns = sum(memory.rollouts.values()), sum(memory.training.values())
    assert memory.peak == sum(memory.held.values()) + max(turns)


def test_a_colocated_engine_by_hand() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, vllm="colocate", vllm_memory=0.1)
    engine = engine_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpu_memory=80 * GIB)
    assert engine.weights == 2 * PARAMETERS.total
    assert engine.kv_cache == 8 * GIB - 2 * PARAMETERS.total - 3 * GIB // 2
    assert engine.at_once == engine.wanted == 8
    assert engine_memory(recipe.model_copy(update={"vllm": "none"}), PARAMETERS, SHAPES, prompt=1, gpu_memory=1) is None


# Steps.


def test_steps_of_sft_by_hand() -> None:
    sft = SftRecipe(learning_rate=1e-5, captions=True)
    schedule = sft_schedule(sft, samples=1044, captions=5220, gpus=1)
    assert (schedule.rows, schedule.rows_per_step) == (6264, 8)
    assert (schedule.steps_per_epoch, schedule.steps) == (783, 5 * 783)
    plain = sft_schedule(sft.model_copy(update={"captions": False}), samples=1044, captions=5220, gpus=2)
    assert (plain.rows, plain.rows_per_step, plain.steps_per_epoch) == (1044, 16, 66)  # 65.25, the last one smaller


def test_steps_of_the_paper_by_hand() -> None:
    schedule = grpo_schedule(HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512), 1044, 434, gpus=1)
    assert schedule.groups_per_step == 2
    assert [(e.groups, e.rollouts, e.steps) for e in schedule.epochs] == [
        (1044, 4176, 522),
        (1044, 4176, 522),
        (1044, 4176, 522),
        (1478, 5912, 739),
        (1478, 5912, 739),
    ]
    assert (schedule.groups, schedule.rollouts, schedule.steps, schedule.dropped) == (6088, 24352, 3044, 0)


@pytest.mark.parametrize(
    ("batch", "group", "accumulation", "gpus"), [(8, 4, 1, 8), (6, 4, 2, 1), (16, 8, 3, 1), (4, 4, 1, 1), (8, 2, 1, 3)]
)
def test_steps_are_those_of_trl(batch, group, accumulation, gpus) -> None:
    from trl.trainer.utils import RepeatSampler

    recipe = HcmGrpoRecipe(
        learning_rate=1e-6,
        max_completion_tokens=512,
        batch_size=batch,
        group_size=group,
        gradient_accumulation=accumulation,
    )
    schedule = grpo_schedule(recipe, 103, 41, gpus)
    course = 3 * 103 + 2 * 144
    completions = batch * accumulation * gpus
    sampler = RepeatSampler(
        range(course), mini_repeat_count=group, batch_size=completions // group, repeat_count=1, shuffle=False
    )
    seen = list(sampler)
    assert schedule.steps == len(seen) // completions
    assert schedule.rollouts == len(seen)
    assert schedule.dropped == course - len(set(seen))
    assert sum(epoch.steps for epoch in schedule.epochs) == schedule.steps


def test_variants_change_the_last_epochs_only() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, last_parts=["easy"])
    assert [epoch.groups for epoch in grpo_schedule(recipe, 1044, 434, 1).epochs] == [1044] * 3 + [610] * 2
    none = recipe.model_copy(update={"last_parts": ()})
    assert [epoch.groups for epoch in grpo_schedule(none, 1044, 434, 1).epochs] == [1044] * 3


# What cannot work.


def reasoned(length: int = 60) -> Sample:
    pictures = [
        {"file": f"{o}.jpg", "option": o, "usable": True, "dimensions": [], "severity": 0, "comment": "fine"}
        for o in "ABCD"
    ]
    words = "the product is unchanged and stands on the table, " * (length // 10)
    return Sample.model_validate(
        {
            "id": "s",
            "product": "p",
            "original": {"file": "o.jpg"},
            "generated": pictures,
            "label": "ABCD",
            "reasoning": words,
        }
    )


def case(
    recipe: Recipe | None = None,
    *,
    gpus: int = 1,
    gpu_memory: float = 80,
    text: int = 400,
    longest: int | None = None,
    measured: bool = True,
    shapes: Shapes = SHAPES,
    parameters: Parameters = PARAMETERS,
    hard: int = 434,
    samples: int = 1044,
) -> Case:
    return Case(
        recipe=recipe or load_recipe("internvl3-2b"),
        source="test",
        shapes=shapes,
        parameters=parameters,
        tokens=Tokens(256, 1280, text, measured=measured, longest_answer=longest),
        hardware=Hardware(gpus, gpu_memory),
        data=DataSize(samples, samples, 5 * samples, hard),
    )


def changed(section: str = "", **changes: Any) -> Recipe:
    recipe = load_recipe("internvl3-2b")
    if section:
        changes = {section: getattr(recipe, section).model_copy(update=changes)}
    return recipe.model_copy(update=changes)


def test_the_shipped_recipes_work_on_one_gpu_of_80_gib() -> None:
    assert find_problems(case()) == []
    assert find_problems(case(gpus=8)) == []


def test_a_batch_of_broken_groups_is_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", batch_size=6)))
    assert "the 6 completions of a step on a GPU" in problem
    assert "2 are left over; set hcm_grpo.batch_size to 8" in problem
    assert find_problems(case(changed("hcm_grpo", batch_size=8))) == []
    # Whole groups are asked for over the passes of a step, and on each GPU by itself.
    assert find_problems(case(changed("hcm_grpo", batch_size=6, gradient_accumulation=2))) == []
    assert len(find_problems(case(changed("hcm_grpo", batch_size=6), gpus=2))) == 1


def test_a_context_longer_than_the_model_is_refused_and_the_remedy_works() -> None:
    short = Shapes(**{**fields(SHAPES), "max_positions": 2048})
    problems = find_problems(case(shapes=short))
    assert len(problems) == 2
    assert "max_tokens_cot 512 are more than the model's 2048 positions; lower max_tokens_cot to 368" in problems[0]
    assert "lower hcm_grpo.max_completion_tokens to 368" in problems[1]
    shorter = changed("hcm_grpo", max_completion_tokens=368).model_copy(update={"max_tokens_cot": 368})
    assert find_problems(case(shorter, shapes=short)) == []
    assert find_problems(case(shapes=short, text=2048 - 1280 - 512)) == []  # exactly full


def test_a_prompt_longer_than_the_model_is_refused() -> None:
    (problem,) = find_problems(case(shapes=Shapes(**{**fields(SHAPES), "max_positions": 1024})))
    assert "leave nothing" in problem


def test_cut_rollouts_are_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", max_completion_tokens=256)))
    assert "cut at 256 tokens" in problem
    assert "raise hcm_grpo.max_completion_tokens to 512" in problem


def test_answers_of_the_data_that_do_not_fit_are_refused_when_counted_and_noted_when_estimated() -> None:
    problems = find_problems(case(longest=600))
    assert "raise max_tokens_cot to 600" in problems[0]
    assert "raise hcm_grpo.max_completion_tokens to 600" in problems[1]
    longer = changed("hcm_grpo", max_completion_tokens=600).model_copy(update={"max_tokens_cot": 600})
    assert find_problems(case(longer, longest=600)) == []
    assert find_problems(case(longest=600, measured=False)) == []
    assert any("about 600 tokens (estimated)" in note for note in find_notes(case(longest=600, measured=False)))


def test_what_does_not_fit_is_refused_with_the_first_change_that_helps() -> None:
    plain = changed("sft_answer", gradient_checkpointing=False)
    (problem,) = find_problems(case(plain))
    assert problem.startswith("sft_answer needs ")
    assert "set in sft_answer: gradient_checkpointing: true (then " in problem

    # On 66 GiB the engine's share must shrink or the passes: the plan names the change, and the change works.
    (problem,) = find_problems(case(changed("hcm_grpo", vllm_memory=0.3), gpu_memory=66))
    change = problem.partition("set in hcm_grpo: ")[2].partition(" (then")[0]
    helped = changed("hcm_grpo", **yaml.safe_load(f"{{{change}}}"))
    assert find_problems(case(helped, gpu_memory=66)) == []
    before, after = changed("hcm_grpo").hcm_grpo, helped.hcm_grpo
    assert (
        before.batch_size * before.gradient_accumulation == after.batch_size * after.gradient_accumulation
    )  # the same step


def test_a_gpu_that_is_too_small_for_anything_is_named() -> None:
    problems = find_problems(case(gpu_memory=16))
    assert len(problems) == 4  # both SFT stages, stage 2, and the engine in it
    assert all("use larger GPUs" in problem for problem in problems if problem.split()[0] in ("sft_weak", "hcm_grpo"))


def test_an_engine_without_room_is_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", vllm_memory=0.05)))
    share = float(problem.rpartition("raise hcm_grpo.vllm_memory to ")[2])
    tight = case(changed("hcm_grpo", vllm_memory=share))
    assert find_problems(tight) == []
    assert any("more at a time" in note for note in find_notes(tight))


@pytest.mark.parametrize(
    ("changes", "data", "expected"),
    [
        ({"last_parts": ("hard",)}, {"hard": 0}, "epoch 4 of stage 2 would be empty; add `all`"),
        ({"epochs": 0, "last_parts": ()}, {}, "no epochs"),
        ({"gradient_accumulation": 400}, {"samples": 100, "hard": 40}, "fewer than the 800 of one step"),
    ],
)
def test_a_stage_two_without_steps_is_refused(changes, data, expected) -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", **changes), **data))
    assert expected in problem


def test_an_odd_number_of_patches_is_refused() -> None:
    (problem,) = find_problems(case(shapes=Shapes(**{**fields(SHAPES), "patches_per_side": 31})))
    assert "31 patches per side" in problem


def test_a_recipe_without_stage_two_is_planned_without_it() -> None:
    short = case(changed(hcm_grpo=None))
    assert find_problems(short) == []
    assert [stage.name for stage in short.stages()] == ["sft_weak", "sft_answer"]
    assert "HCM-GRPO" not in as_text(short, [])


# The command.


def options(**given: Any) -> Namespace:
    return Namespace(**{"samples": None, "weak_samples": None, "hard_cases": None, "data": None, **given})


def test_sizes_not_given_are_the_papers_and_said_to_be_assumed() -> None:
    paper = size_data(options(), [])
    assert (paper.samples, paper.weak_samples, paper.weak_captions, paper.hard_cases) == (1044, 10724, 53620, 434)
    assert len(paper.assumed) == 4
    own = size_data(options(samples=2088), [])
    assert (own.samples, own.weak_samples, own.hard_cases) == (2088, 2088, 868)
    told = size_data(options(samples=10, weak_samples=20, hard_cases=3), [])
    assert (told.weak_samples, told.weak_captions, told.hard_cases) == (20, 100, 3)
    assert told.assumed == ("a caption for every picture of stage 1.1",)
    assert size_data(options(), [reasoned()]).weak_captions == 0  # the data has none


def test_the_command_plans_the_shipped_checkpoint_with_its_data(tiny_checkpoint, tmp_path, capsys) -> None:
    recipe = yaml.safe_load((Path(__file__).parents[2] / "trainer/recipes/internvl3-2b.yaml").read_text())
    recipe.update(base=str(tiny_checkpoint), prompt="compact", max_tokens_cot=128)
    recipe["hcm_grpo"]["max_completion_tokens"] = 128
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(recipe))
    data = tmp_path / "data"
    data.mkdir()
    samples = [reasoned(), reasoned().model_copy(update={"id": "t"})]
    (data / "samples.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    for name in ("o", "A", "B", "C", "D"):
        (data / f"{name}.jpg").touch()

    assert main(["plan", str(path), "--data", str(data), "--hard-cases", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tokens"]["measured"]
    assert plan["tokens"]["longest_answer"] > 20
    assert plan["data"]["samples"] == 2
    assert [epoch["groups"] for epoch in plan["stages"]["hcm_grpo"]["schedule"]["epochs"]] == [2, 2, 2, 3, 3]
    assert plan["stages"]["sft_weak"]["frozen"] == sum(plan["parameters"]["parts"][p] for p in ("vit", "projector"))
    memory = plan["stages"]["hcm_grpo"]["memory"]
    assert memory["held"]["weights"] == 4 * plan["parameters"]["total"]
    assert plan["problems"] == []

    recipe["hcm_grpo"]["batch_size"] = 7
    recipe["max_tokens_cot"] = 20
    path.write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(path), "--data", str(data), "--json"]) == 1
    printed = capsys.readouterr()
    assert "error: the longest answer of the data has" in printed.err
    assert "error: the 7 completions of a step" in printed.err
    assert len(json.loads(printed.out)["problems"]) == 2


def test_the_command_prints_a_page(capsys) -> None:
    assert main(["plan", "internvl3-1b", "--gpus", "8"]) == 0
    page = capsys.readouterr().out
    for expected in ("938,193,024", "1,280", "reference model", "6,080", "assumed: 434 hard cases"):
        assert expected in page
    assert main(["plan", "internvl3-1b", "--gpu-memory", "8"]) == 1
    assert "error: sft_weak needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no-such-recipe"], "there is no recipe"),
        (["internvl3-1b", "--data", "/nowhere"], "is /nowhere a data directory"),
        (["internvl3-1b", "--samples", "3", "--hard-cases", "4"], "more than the 3 samples"),
    ],
)
def test_bad_input_ends_with_status_2(arguments, expected, capsys) -> None:
    assert main(["plan", *arguments]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--gpus", "0"], ["--gpu-memory", "nan"], ["--hard-cases", "-1"]])
def test_impossible_options_are_refused(wrong, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "internvl3-1b", *wrong])
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "model of type None"),
        ('{"model_type": "internvl_chat"}', "not 'internvl'"),
        ('{"model_type": "internvl", "text_config": {"model_type": "llama"}}', "not 'qwen2'"),
        ('{"model_type": "internvl", "text_config": {"hidden_size": "wide"}}', "not a configuration"),
    ],
)
def test_a_base_that_is_no_such_model_is_refused(config, expected, tmp_path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(PlanError, match=expected):
        find_model(with_base(tmp_path))


def test_an_unknown_hub_name_is_refused_with_what_is_known() -> None:
    with pytest.raises(PlanError, match="download the model"):
        find_model(with_base("OpenGVLab/InternVL3-8B-hf"))


def test_a_damaged_tokenizer_is_refused(tmp_path) -> None:
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PlanError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


# The recipes.


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
    recipe = yaml.safe_load((Path(__file__).parents[2] / "trainer/recipes/internvl3-2b.yaml").read_text())
    for wrong in ({"beta": 0.1}, {"last_parts": ["hardest"]}, {"group_size": 1}, {"reward": "f1"}):
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml.safe_dump({**recipe, "hcm_grpo": {**recipe["hcm_grpo"], **wrong}}))
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            load_recipe(str(path))


def test_json_and_page_tell_the_same_peak() -> None:
    plan = as_json(case(), [], [])
    page = as_text(case(), [])
    for stage in plan["stages"].values():
        assert f"{stage['memory']['peak'] / GIB:.2f}" in page
