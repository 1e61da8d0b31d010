"""`python -m trainer random-init RECIPE`: write a full-size checkpoint of a recipe with random weights.

Its answers are meaningless, but it loads, swaps and uses memory and time like a trained one. So a machine, a service or
a GPU can be tested before a model is downloaded or trained. Prompt, tokenizer and chat template come from another
checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.argument_types import not_negative, positive
from trainer.runs.arguments import RECIPE_HELP, add_directory

if TYPE_CHECKING:
    from screening.checkpoint.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    add_directory(parser, "--out", "new directory for the checkpoint; must not exist")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the random weights (default: 0)")
    parser.add_argument(
        "--like",
        type=Path,
        default=REPOSITORY / "models" / "tiny",
        metavar="DIR",
        help="checkpoint that provides tokenizer and prompt (default: models/tiny)",
    )
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="maximum tokens of an answer, which random weights always reach (default: the recipe's)",
    )


def run(args: argparse.Namespace) -> int:
    manifest = random_init(args.recipe, args.out, seed=args.seed, like=args.like, max_tokens=args.max_tokens)
    weights = sum(entry.size for name, entry in manifest.files.items() if name.endswith(".safetensors"))
    print(f"{args.out}: {weights / 2**30:.2f} GiB of random weights, {manifest.digest}")
    return 0


def random_init(recipe_name: str, out: Path, *, seed: int, like: Path, max_tokens: int | None = None) -> Manifest:
    """Write the checkpoint.

    Raises:
        CheckpointError: `like` is not a complete checkpoint.
        FileExistsError: `out` already exists.
        PlanError, RecipeError: the architecture of the recipe's model cannot be determined.
    """
    import torch
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    from screening.checkpoint.directory import verify
    from screening.checkpoint.manifest import Decoding, ImageContract
    from trainer.training.architecture import Architecture, build_processor
    from trainer.training.export import export
    from trainer.training.plan.architectures import find_model
    from trainer.training.plan.shapes import shapes_of
    from trainer.training.recipe.recipe import load_recipe

    if out.exists():
        raise FileExistsError(f"{out} exists; name a new directory")
    recipe, model_like = load_recipe(recipe_name), verify(like)
    config = find_model(recipe).config
    tokenizer = AutoProcessor.from_pretrained(like).tokenizer
    config.image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    text = config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = None, tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)

    shapes, patch = shapes_of(config), config.vision_config.patch_size[0]
    architecture = Architecture(image_size=shapes.image_size, patch_size=patch)
    processor = build_processor(architecture, tokenizer, recipe.tiles)
    out.parent.mkdir(parents=True, exist_ok=True)
    return export(
        out,
        model,
        processor,
        name=f"{recipe.name}-random-init",
        version=f"seed {seed}",
        prompt=model_like.prompt,
        dimensions=model_like.dimensions,
        image=ImageContract(
            size=shapes.image_size, tokens_per_picture=shapes.tokens_per_picture, max_patches=recipe.tiles
        ),
        decoding=Decoding(max_tokens_cot=max_tokens or recipe.max_tokens_cot),
        recipe=recipe.model_dump(mode="json"),
    )
