"""Pretraining: what the tiny model is shown is what its own processor would make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from screening.answer import Answer, Mode, parse
from screening.boxes import Box
from screening.prompt import COMPACT
from trainer.research.pretrain.batches import IGNORED, Batcher, PixelBatcher, draw_shifts
from trainer.research.pretrain.pool import Pool, PoolProduct, PoolShot
from trainer.research.pretrain.questions import BOXES
from trainer.research.pretrain.schedule import build_optimizers, learning_rate
from trainer.research.pretrain.stages import brackets, differing, inside_boxes, moved
from trainer.research.pretrain.tasks import Example, Tasks
from trainer.research.pretrain.tokenizer import TAGS, train_tokenizer
from trainer.research.pretrain.vocabulary import fixed_texts
from trainer.training.architecture import Architecture, build_model, build_processor
from trainer.training.export import save
from trainer.training.recipe.recipe import load_recipe

pytestmark = pytest.mark.slow

SMALL = Architecture(
    image_size=64, patch_size=16, vision_width=32, vision_layers=1, text_width=32, text_layers=1, text_mlp=64
)


def shot(row: int, dimension: str | None = None, **attributes: str) -> PoolShot:
    body = {"body": "red", "cap": "white", **attributes}
    if dimension is None:
        return PoolShot(row, f"a {body['body']} bottle", body, (), (), (), 0, {})
    return PoolShot(
        row, f"a {body['body']} bottle", body, (dimension,), ("something is wrong",), tuple(attributes), 2, {}
    )


def rows_of(example: Example) -> list[int]:
    return [s.row for s in example.shots]


@pytest.fixture(scope="module")
def pool() -> Pool:
    products = [
        PoolProduct(
            "a red bottle",
            shot(first),
            tuple(shot(first + i) for i in range(1, 5)),
            (
                *(shot(first + i, "appearance_deformation", cap="green") for i in range(5, 8)),
                shot(first + 8, "physical_shadow"),
            ),
        )
        for first in (0, 9)
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (18, 64, 64, 3), dtype=np.uint8)
    return Pool(pixels, products)


@pytest.fixture(scope="module")
def tokenizer(pool: Pool):
    return train_tokenizer([*pool.texts(), *fixed_texts(COMPACT)], 640)


def test_option_letters_and_digits_are_tokens_of_their_own(tokenizer) -> None:
    assert tokenizer.tokenize("<answer>ABD</answer>") == ["<answer>", "A", "B", "D", "</answer>"]
    assert tokenizer.tokenize("24") == ["2", "4"]


def test_tags_survive_a_decode_that_skips_special_tokens(tokenizer) -> None:
    text = "<think>I observed <A> normal, so I ultimately chose A.</think><answer>A</answer>"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert not set(TAGS) & set(tokenizer.all_special_tokens)


def test_any_text_makes_the_round_trip_through_the_tokenizer(tokenizer) -> None:
    text = "Größe 24 – été\t漢字 <A> {x}\n\n  two  spaces"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_equals_the_processors_output_for_the_same_pictures(pool: Pool, tokenizer) -> None:
    processor = build_processor(SMALL, tokenizer)
    example = Tasks(pool, tokenizer, COMPACT, usable_counts=(1, 1, 1, 1, 1)).screen(np.random.default_rng(3), Mode.COT)
    batch = Batcher(pool.pixels, tokenizer, SMALL.tokens_per_picture)([example])
    pictures = [Image.fromarray(pool.pixels[row]) for row in rows_of(example)]
    expected = processor(images=pictures, text=example.prompt, return_tensors="pt")
    prompt_length = expected["input_ids"].shape[1]
    assert batch["input_ids"][0, :prompt_length].tolist() == expected["input_ids"][0].tolist()
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    assert (batch["labels"][0, :prompt_length] == IGNORED).all()
    assert tokenizer.decode(batch["labels"][0, prompt_length:]) == example.target + "<|im_end|>"


def test_padding_after_a_sequence_does_not_change_its_loss(pool: Pool, tokenizer) -> None:
    torch.manual_seed(0)
    model = build_model(SMALL, tokenizer).eval()
    tasks = Tasks(pool, tokenizer, COMPACT, usable_counts=(1, 1, 1, 1, 1))
    rng = np.random.default_rng(0)
    short, long = tasks.screen(rng, Mode.DIRECT), tasks.screen(rng, Mode.COT)
    batcher = Batcher(pool.pixels, tokenizer, SMALL.tokens_per_picture)
    alone = batcher([short])
    both = batcher([short, long])
    length = alone["input_ids"].shape[1]
    logits_alone = model(input_ids=alone["input_ids"], pixel_values=alone["pixel_values"]).logits
    logits_both = model(input_ids=both["input_ids"], pixel_values=both["pixel_values"]).logits
    torch.testing.assert_close(logits_both[0, :length], logits_alone[0], atol=1e-4, rtol=1e-4)


def test_boxes_move_with_shifted_pictures() -> None:
    side, rng = 64, np.random.default_rng(2)
    picture = np.zeros((1, side, side, 3), dtype=np.uint8)
    picture[0, 20:30, 12:44] = 255
    box = torch.tensor([[12 / side, 20 / side, 44 / side, 30 / side, *[float("nan")] * 4]])
    for shift in (np.array([[3, 0]]), np.array([[0, -4]]), *(draw_shifts(rng, 1, 5) for _ in range(5))):
        bright = (PixelBatcher(picture)([0], shift)[0, 0] > 0).nonzero()
        (top, left), (bottom, right) = bright.amin(0).tolist(), (bright.amax(0) + 1).tolist()
        expected = [left / side, top / side, right / side, bottom / side]
        torch.testing.assert_close(moved(box, shift, side)[0, :4], torch.tensor(expected))
    assert moved(box, shift, side)[0, 4:].isnan().all(), "no defect, no place"
    past_the_edge = moved(box, np.array([[-60, 20]]), side)[0, :4]
    torch.testing.assert_close(past_the_edge, torch.tensor([0, 1, 24 / side, 1]))


def test_attributes_that_equal_the_originals_do_not_count_as_changed() -> None:
    targets = {"mark": torch.tensor([2, 2, 0, IGNORED, 2]), "ones": torch.tensor([IGNORED, 1, IGNORED, 3, IGNORED])}
    logits = {"mark": torch.zeros(4, 3), "tens": torch.zeros(4, 2), "ones": torch.zeros(4, 5), BOXES: torch.zeros(4, 4)}
    found, wanted = differing(logits, targets | {"tens": torch.tensor([1, 0, 1, 1, 0])})
    assert set(found) == set(wanted) == {"mark", "tens", "ones"}
    assert wanted["mark"].tolist() == [IGNORED, 0, IGNORED, IGNORED]
    assert wanted["tens"].tolist() == [0, IGNORED, IGNORED, 0]
    assert wanted["ones"].tolist() == [1, IGNORED, 3, IGNORED]


def test_screening_targets_parse_and_name_the_usable_pictures(pool: Pool, tokenizer) -> None:
    tasks = Tasks(pool, tokenizer, COMPACT, usable_counts=(1, 1, 1, 1, 1))
    defective = {s.row for p in pool.products for s in p.defective}
    for seed in range(30):
        example = tasks.screen(np.random.default_rng(seed), Mode.COT)
        answer = parse(example.target, Mode.COT)
        assert isinstance(answer, Answer)
        truth = {o for o, row in zip("ABCD", rows_of(example)[1:], strict=True) if row not in defective}
        assert answer.options == truth
        assert {f.option for f in answer.findings if not f.dimensions} == truth


def test_located_targets_have_a_box_for_every_fault(pool: Pool, tokenizer) -> None:
    place = Box(0.1, 0.2, 0.42, 0.5)
    product = pool.products[0]
    placed = tuple(replace(one, boxes=dict.fromkeys(one.dimensions, place)) for one in product.defective)
    unplaced = Pool(pool.pixels, [replace(product, defective=(*placed[:3], product.defective[3]))])
    tasks = Tasks(unplaced, tokenizer, COMPACT, usable_counts=(0, 1, 0, 0, 0))
    examples = [tasks.draw["screen_locate"](np.random.default_rng(seed)) for seed in range(20)]
    assert all(example.prompt == tasks.screen_prompt(Mode.COT, locate=True) for example in examples)
    assert "Point at each fault." in examples[0].prompt
    for example in examples:
        answer = parse(example.target, Mode.COT)
        assert isinstance(answer, Answer)
        assert product.defective[3].row not in rows_of(example), "nobody knows where its fault is"
        found = [region.box for finding in answer.findings for region in finding.regions]
        assert found == [place] * 3
        assert tasks.screen_prompt(Mode.COT) != example.prompt


def test_the_numbers_of_boxes_are_told_from_words(tokenizer) -> None:
    text = "<B> shadow: a cap <box>[[310, 80, 520, 190]]</box><box>[[0, 10, 20, 1000]]</box>, <C> normal: 24"
    labels = torch.tensor([[IGNORED, IGNORED, *tokenizer.encode(text)], [IGNORED, *tokenizer.encode(f"{text}.")]])
    for row, found in zip(labels, inside_boxes(labels, brackets(tokenizer)), strict=True):
        assert tokenizer.decode(row[found]) == "[[310, 80, 520, 190][[0, 10, 20, 1000]"
        assert not found[row == IGNORED].any()


def test_the_words_of_verdicts_are_single_tokens(tokenizer) -> None:
    for word in ("normal", "appearance", "shadow", "layout", "extension"):
        assert len(tokenizer.tokenize(f" {word}")) == 1, word


def test_the_checkpoint_loads_in_stock_transformers_with_the_same_weights(pool: Pool, tokenizer, tmp_path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    model = build_model(SMALL, tokenizer).eval()
    save(tmp_path, model, build_processor(SMALL, tokenizer))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert type(loaded).__name__ == "InternVLForConditionalGeneration"
    assert loaded.lm_head.weight.data_ptr() != loaded.get_input_embeddings().weight.data_ptr()
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32, "saving must not touch the model in training"
        assert torch.equal(weight.to(torch.bfloat16), loaded.state_dict()[name]), name
    picture = Image.fromarray(pool.pixels[0])
    inputs = AutoProcessor.from_pretrained(tmp_path)(images=[picture], text="<IMG_CONTEXT>\nA:", return_tensors="pt")
    torch.testing.assert_close(model(**inputs).logits, loaded.float()(**inputs).logits, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("stage", ["see", "read", "speak"])
def test_the_learning_rate_rises_then_falls_to_its_final_share(stage: str) -> None:
    pretrain = load_recipe("tiny").pretrain
    assert pretrain is not None
    course = getattr(pretrain, stage)
    rates = [learning_rate(step, course) for step in range(course.steps)]
    assert max(rates) == pytest.approx(course.learning_rate, rel=1e-3)
    assert rates.index(max(rates)) in (course.warmup_steps - 1, course.warmup_steps)
    assert rates[-1] == pytest.approx(course.final_rate * course.learning_rate, rel=0.01)


def test_weight_decay_spares_biases_norms_and_embeddings(tokenizer) -> None:
    pretrain = load_recipe("tiny").pretrain
    assert pretrain is not None
    settings = pretrain.speak
    model = build_model(SMALL, tokenizer)
    groups = [g for o in build_optimizers(model, settings, model.parameters()) for g in o.param_groups]
    names = {id(p): n for n, p in model.named_parameters()}
    placed = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(placed) == len(names)
    for name, group in placed.items():
        assert group["vision"] == ("vision_tower" in name)
        spared = name.endswith(("bias", "norm.weight")) or "embed_tokens" in name or "lm_head" in name
        assert not (spared and group["weight_decay"]), name
    assert placed["model.language_model.layers.0.mlp.up_proj.weight"]["weight_decay"] == settings.weight_decay
