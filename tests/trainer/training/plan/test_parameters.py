"""Parameter counts, compared with shapes, published models and a checkpoint's file."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from math import prod

import pytest

from tests.trainer.training.plan.model_2b import PARAMETERS, SHAPES, VOCABULARY, case, with_base
from trainer.training.plan.architectures import PUBLISHED, find_model
from trainer.training.plan.checks import find_notes
from trainer.training.plan.parameters import Parameters, build_on_meta, count_parameters
from trainer.training.plan.shapes import shapes_of
from trainer.training.recipe.recipe import load_recipe

SIZES = {  # width, MLP, layers, key and value width of the language models
    "internvl3-1b": (896, 4864, 24, 128),
    "internvl3-2b": (1536, 8960, 28, 256),
}


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
    counted = on_meta["internvl3-2b"]
    assert [sum(part.tensors) for part in counted.parts] == [part.total for part in counted.parts]
    parts = tuple(replace(part, tensors=()) for part in counted.parts)
    assert replace(counted, parts=parts, layers=()) == PARAMETERS
    assert shapes_of(find_model(load_recipe("internvl3-2b")).config) == SHAPES


def test_trained_parameters_and_those_that_autocast_copies_are_counted() -> None:
    counts = hand_count(*SIZES["internvl3-2b"])
    assert PARAMETERS.trained(vision=True) == sum(counts.values())
    assert PARAMETERS.trained(vision=False) == sum(counts.values()) - counts["vit"] - counts["projector"]
    layer = 1536 * 1536 * 2 + 2 * 1536 * 256 + 3 * 1536 * 8960  # without biases and norms
    assert PARAMETERS.copied(vision=False) == 28 * layer
    vision = 3 * 14 * 14 * 1024 + 24 * (4 * 1024 * 1024 + 2 * 1024 * 4096) + 4096 * 1536 + 1536 * 1536
    assert PARAMETERS.copied(vision=True) == 28 * layer + vision


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


@pytest.mark.slow
def test_a_tied_head_is_counted_as_the_one_that_import_adds_and_noted(tmp_path) -> None:
    config = json.loads(json.dumps(PUBLISHED["OpenGVLab/InternVL3-1B-hf"]))
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    counted = count_parameters(build_on_meta(find_model(with_base(tmp_path)).config))
    assert counted.tied
    assert {part.name: part.total for part in counted.parts} == hand_count(*SIZES["internvl3-1b"])
    untied = count_parameters(build_on_meta(find_model(load_recipe("internvl3-1b")).config))
    assert counted == replace(untied, tied=True)
    assert any("unties" in note for note in find_notes(case(parameters=counted)))
