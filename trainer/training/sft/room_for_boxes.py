"""Checks that an answer with places fits into the model's positions, before a training teaches it."""

from __future__ import annotations

from pathlib import Path

from screening.checkpoint.manifest import Manifest
from trainer.training.export import able_to_locate
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.recipe.recipe import RecipeError


def check_room_for_boxes(checkpoint: Path, parent: Manifest) -> None:
    """Check that the question with places and its answer fit into the model's positions.

    Raises:
        RecipeError: they do not, so every service would refuse the trained checkpoint.
    """
    from transformers import AutoConfig

    contract = able_to_locate(parent.prompt, parent.decoding)
    question = count_tokens(parent.prompt, parent.image.most_tokens, load_tokenizer(checkpoint)).locating_prompt
    answer = contract["decoding"].max_tokens_locate
    positions = AutoConfig.from_pretrained(checkpoint, local_files_only=True).text_config.max_position_embeddings
    if question + answer > positions:
        raise RecipeError(
            f"locate: a question of {question} tokens and an answer with boxes of {answer} exceed the model's "
            f"{positions} positions. Set `locate: 0`, or start from a checkpoint with a smaller max_tokens_cot"
        )
