"""`python -m trainer ablation`: train and score the models of the paper's tables 4 to 7, and write the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from screening.errors import UserError
from screening.runtime.argument_types import positive
from trainer.research.ablation.variants import VARIANTS
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.training.recipe.recipe import Recipe

TABLES = (4, 5, 6, 7)
STAGES = ("sft_weak", "sft_answer", "hcm_grpo")
"""Sections of the recipe that decide the training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        default="tiny-ablation",
        help="recipe with the settings of all stages, with `schedule: constant` (default: tiny-ablation)",
    )
    add_directory(parser, "--base", "checkpoint before the cold start")
    add_directory(parser, "--training", "data directory with training samples (paper: 1,044)")
    add_directory(
        parser,
        "--questions",
        "data directory with the questions of stage 2 (default: the training data, as in the paper)",
        required=False,
    )
    add_directory(parser, "--pseudo-label", "data directory with weakly annotated samples (paper: 10,724)")
    add_directory(parser, "--test", "data directory with test samples; 2,000 give narrow intervals")
    add_directory(parser, "--out", "output directory for runs, scores and tables.md")
    parser.add_argument(
        "--tables", type=_numbers, default=TABLES, help="tables to make, a list of 4,5,6,7 (default: all)"
    )
    parser.add_argument(
        "--variants",
        type=lambda text: tuple(text.split(",")),
        default=tuple(VARIANTS),
        metavar="NAMES",
        help=f"variants of tables 6 and 7 to train, a list of {','.join(VARIANTS)} (default: all)",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=(0, 1),
        help="seeds of tables 5 to 7; table 4 and the start of stage 2 have the first (default: 0,1)",
    )
    parser.add_argument(
        "--start",
        choices=("weak", "captions-weak", "answer-driven", "all"),
        default="all",
        help="cold start before stage 2 (default: all, as in the paper)",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="number of tasks at once (default: 1)")
    parser.add_argument(
        "--tables-only", action="store_true", help="do not train; write the tables from existing results"
    )


def run(args: argparse.Namespace) -> int:
    from screening.checkpoint.manifest import read_manifest
    from screening.runtime.atomic_write import write_atomically
    from trainer.data_directory import data_digest, read_samples
    from trainer.research.ablation.runner import run as run_tasks
    from trainer.research.ablation.tables import tables
    from trainer.research.ablation.tasks import Ablation
    from trainer.runs.run_directory import claim, occupy
    from trainer.training.recipe.recipe import RecipeError, load_recipe

    if not set(args.tables) <= set(TABLES):
        raise UserError(f"--tables: choose from {', '.join(map(str, TABLES))}")
    if unknown := set(args.variants) - VARIANTS.keys():
        raise UserError(f"--variants: {', '.join(sorted(unknown))} does not exist. Choose from {', '.join(VARIANTS)}")
    recipe = load_recipe(args.recipe)
    if recipe.hcm_grpo is None or recipe.hcm_grpo.schedule != "constant" or recipe.hcm_grpo.warmup_ratio:
        raise RecipeError(
            f"recipe {recipe.name!r} needs a section hcm_grpo with `schedule: constant` and `warmup_ratio: 0`: its "
            "variants share their first epochs"
        )
    if scored := [name for name in STAGES if getattr(recipe, name).validation]:
        raise RecipeError(
            f"recipe {recipe.name!r}: an ablation trains each variant for the same number of steps, without validation "
            f"data. Remove `validation` from {', '.join(scored)}"
        )
    base = read_manifest(args.base)
    recipe.refuse_other_prompt(base.prompt)
    recipe.refuse_other_tiles(base.image)
    recipe.refuse_other_length(base.decoding)
    data = {name: getattr(args, name) for name in ("training", "pseudo_label", "test")}
    if args.questions is not None:
        data["questions"] = args.questions
    samples = {name: read_samples(directory) for name, directory in data.items()}
    if not args.tables_only:
        _refuse_too_little(recipe, args, {name: len(found) for name, found in samples.items()})
    origin = {
        "stage": "ablation",
        "settings": {name: getattr(recipe, name).deciding for name in STAGES},
        "base": base.digest,
        "first_seed": args.seeds[0],  # its runs have no number in their names
        **{name: data_digest(directory, samples[name]) for name, directory in data.items()},
    }
    claim(args.out, origin)
    occupy(args.out)
    ablation = Ablation(
        args.out,
        args.recipe,
        args.base,
        **data,
        start=args.start,
        seeds=args.seeds,
        tables=args.tables,
        variants=args.variants,
    )
    failures = [] if args.tables_only else run_tasks(ablation.tasks(), args.out / "logs", args.jobs)
    text = tables(ablation)
    write_atomically(args.out / "tables.md", text)
    print(text)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _refuse_too_little(recipe: Recipe, args: argparse.Namespace, samples: Mapping[str, int]) -> None:
    """Check that the data are enough for one step of every training, which would otherwise fail after hours.

    Args:
        samples: number of samples by kind of data.

    Raises:
        RecipeError: a training has too little data.
    """
    from trainer.training.enough_data import grpo_problem, refuse, sft_problem

    assert recipe.hcm_grpo is not None
    starts = {args.start} if {6, 7} & set(args.tables) else set()
    if 5 in args.tables or starts - {"answer-driven"}:
        refuse(sft_problem("sft_weak", recipe.sft_weak, samples["pseudo_label"], 1))
    if {4, 5} & set(args.tables) or starts & {"answer-driven", "all"}:
        refuse(sft_problem("sft_answer", recipe.sft_answer, samples["training"], 1))
    if {4, 6, 7} & set(args.tables):
        asked = samples.get("questions", samples["training"])
        # The number of hard cases is not known yet; the stage itself reports if there are none.
        refuse(grpo_problem(recipe.hcm_grpo, asked, max(1, asked // 2), 1))


def _seeds(text: str) -> tuple[int, ...]:
    if min(seeds := _numbers(text)) < 0:
        raise argparse.ArgumentTypeError("seeds must be whole numbers of at least 0")
    return seeds


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be a list of numbers such as 0,1") from error
