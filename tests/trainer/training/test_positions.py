"""Every question of a checkpoint, with its longest answer, must fit into the model's positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.answer import Mode
from screening.checkpoint.manifest import Decoding
from screening.prompt import COMPACT, Prompt, locating
from tests.trainer.training.plan.model_2b import changed
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.positions import asked_by, positions_problem
from trainer.training.recipe.recipe import RecipeError, load_recipe

COT = Decoding(max_tokens_cot=100)
PLACES = Decoding(max_tokens_cot=100, max_tokens_locate=356)
LONG_DIRECT = Prompt(version="own", cot="Think.", direct="Answer only. " * 100)


def question(prompt: Prompt, mode: Mode, locate: bool = False) -> int:
    return count_tokens(prompt, 16, None).question(mode, locate)


def problem(prompt: Prompt, decoding: Decoding, positions: int) -> str | None:
    return positions_problem(prompt, decoding, 16, None, positions)


def test_a_question_that_just_fits_is_no_problem_and_one_token_less_names_the_remedy() -> None:
    exact = question(COMPACT, Mode.COT) + 100
    assert problem(COMPACT, COT, exact) is None
    said = problem(COMPACT, COT, exact - 1)
    assert said is not None and said.endswith(f"exceed the model's {exact - 1} positions. Lower max_tokens_cot to 99")
    assert problem(COMPACT, Decoding(max_tokens_cot=99), exact - 1) is None


def test_a_question_without_room_for_any_answer_needs_a_shorter_prompt() -> None:
    said = problem(COMPACT, COT, question(COMPACT, Mode.COT))
    assert said is not None and said.endswith("Shorten the prompt")


def test_direct_mode_is_checked_too() -> None:
    exact = question(LONG_DIRECT, Mode.DIRECT) + COT.max_tokens_direct
    assert exact > question(LONG_DIRECT, Mode.COT) + 100
    assert problem(LONG_DIRECT, COT, exact) is None
    said = problem(LONG_DIRECT, COT, exact - 1)
    assert said is not None and "an answer of 8 (Direct mode) exceed" in said
    assert said.endswith("Shorten the prompt"), "no setting makes an answer in Direct mode shorter"


def test_the_question_that_asks_for_places_is_longer_and_has_room_for_boxes() -> None:
    prompt = locating(COMPACT)
    exact = question(prompt, Mode.COT, locate=True) + 356
    assert exact > question(prompt, Mode.COT) + 356
    assert problem(prompt, PLACES, exact) is None
    said = problem(prompt, PLACES, exact - 1)
    assert said is not None and "that asks for boxes and an answer of 356 (max_tokens_cot 100, and 256 for" in said
    assert said.endswith("Lower max_tokens_cot to 99")
    without = problem(prompt, PLACES, exact - 100)
    assert without is not None and "or teach no boxes (`locate: 0`" in without


@pytest.mark.slow
def test_direct_mode_is_counted_as_the_tokenizer_makes_it(tiny_checkpoint: Path) -> None:
    from screening.inference.generation import prompt_text

    tokenizer = load_tokenizer(tiny_checkpoint)
    assert tokenizer is not None
    counted = {mode: count_tokens(COMPACT, 16, tokenizer).question(mode) for mode in Mode}
    written = {mode: len(tokenizer.encode(prompt_text(tokenizer, COMPACT, mode))) for mode in Mode}
    assert counted[Mode.COT] - counted[Mode.DIRECT] == written[Mode.COT] - written[Mode.DIRECT] != 0


@pytest.mark.parametrize("section", ["sft_weak", "sft_answer"])
def test_a_recipe_that_teaches_places_is_checked_with_them(section: str) -> None:
    plain, taught = changed(section), changed(section, locate=0.1)
    assert (asked_by(plain)[0].locate, asked_by(plain)[1].max_tokens_locate) == (None, None)
    assert asked_by(taught)[0].locate is not None
    assert asked_by(taught)[1].max_tokens_locate == taught.max_tokens_cot + 256
    assert load_recipe("tiny").teaches_places and not load_recipe("tiny-base").teaches_places


def test_a_length_that_no_checkpoint_can_have_is_refused_with_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("extends: tiny\nmax_tokens_cot: 32769\n")
    with pytest.raises(RecipeError, match="max_tokens_cot: Input should be less than or equal to 32768"):
        load_recipe(str(path))
