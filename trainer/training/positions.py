"""Checks that every question and its answer fit into the model's positions. A service refuses any other checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Decoding, Manifest
from screening.inference.generation import Tokenizer
from screening.prompt import Form, Prompt
from trainer.training.export import able_to_locate
from trainer.training.plan.tokens import Tokens, count_tokens, load_tokenizer
from trainer.training.recipe.recipe import Recipe, RecipeError


def positions_problem(
    prompt: Prompt, decoding: Decoding, per_picture: int, tokenizer: Tokenizer | None, positions: int
) -> str | None:
    """Find the question that, with its longest answer, exceeds the model's positions.

    Args:
        per_picture: maximum number of image tokens of one picture.
        tokenizer: the model's; None estimates the tokens from the characters.
        positions: maximum number of tokens of question and answer.

    Returns:
        The problem and its remedy, without a period at the end; None if every question fits.

    Raises:
        PlanError: the tokenizer's chat template does not write one placeholder per picture.
    """
    return forms_problem(prompt.forms, count_tokens(prompt, per_picture, tokenizer), decoding, positions)


def forms_problem(forms: Iterable[Form], tokens: Tokens, decoding: Decoding, positions: int) -> str | None:
    """As `positions_problem`, with the tokens of the questions counted before."""
    found: list[tuple[int, str]] = []
    for mode, locate in forms:
        question, answer = tokens.question(mode, locate), decoding.max_tokens(mode, locate)
        excess = question + answer - positions
        if excess <= 0:
            continue
        # Answers of Direct mode have a few tokens, and no setting of a recipe shortens them.
        room = decoding.max_tokens_cot - excess if mode is Mode.COT else 0
        remedy = f"Lower max_tokens_cot to {room}" if room > 0 else "Shorten the prompt"
        if room <= 0 and locate:
            remedy += ", or teach no boxes (`locate: 0`, and no `screen_locate`)"
        problem = (
            f"a question of {question} tokens{' that asks for boxes' if locate else ''} and an answer of "
            f"{_answer(decoding, mode, locate)} exceed the model's {positions} positions. {remedy}"
        )
        found.append((room, problem))
    return min(found)[1] if found else None  # of several remedies, the strongest


def check_recipe(recipe: Recipe, per_picture: int, tokenizer: Tokenizer, positions: int) -> None:
    """Check the questions of the checkpoints that a recipe makes.

    Raises:
        RecipeError: one does not fit; see `positions_problem`.
    """
    if problem := positions_problem(*asked_by(recipe), per_picture, tokenizer, positions):
        fewer = ", or take fewer tiles" if recipe.tiles > 1 else ""
        raise RecipeError(f"recipe {recipe.name!r}: {problem}{fewer}")


def check_places(section: str, checkpoint: Path, parent: Manifest) -> None:
    """Check the questions of a checkpoint that a stage teaches to say where the issues are.

    Args:
        section: the stage's section of the recipe.
        checkpoint: the checkpoint from which the stage starts.
        parent: its manifest.

    Raises:
        RecipeError: one does not fit, so every service would refuse the trained checkpoint.
    """
    from transformers import AutoConfig

    prompt, decoding = _with_places(parent.prompt, parent.decoding)
    positions = AutoConfig.from_pretrained(checkpoint, local_files_only=True).text_config.max_position_embeddings
    if problem := positions_problem(prompt, decoding, parent.image.most_tokens, load_tokenizer(checkpoint), positions):
        raise RecipeError(
            f"{section}.locate: {problem}. A training keeps the checkpoint's prompt and max_tokens_cot, so import the "
            "base model again with the change, or set `locate: 0`"
        )


def asked_by(recipe: Recipe) -> tuple[Prompt, Decoding]:
    """Prompt and decoding of the last checkpoint that a recipe makes."""
    prompt, decoding = recipe.prompt_texts, Decoding(max_tokens_cot=recipe.max_tokens_cot)
    return _with_places(prompt, decoding) if recipe.teaches_places else (prompt, decoding)


def _with_places(prompt: Prompt, decoding: Decoding) -> tuple[Prompt, Decoding]:
    contract = able_to_locate(prompt, decoding)
    return contract["prompt"], contract["decoding"]


def _answer(decoding: Decoding, mode: Mode, locate: bool) -> str:
    tokens = decoding.max_tokens(mode, locate)
    if mode is Mode.DIRECT:
        return f"{tokens} (Direct mode)"
    boxes = tokens - decoding.max_tokens_cot
    return f"{tokens} (max_tokens_cot{f' {decoding.max_tokens_cot}, and {boxes} for boxes' if locate else ''})"
