"""`python -m trainer plan RECIPE`: parameters, tokens, memory and steps of a recipe, before it is trained.

Exit status 0 for a recipe that can work, 1 for one that cannot (with a sentence for each problem that says what to
change), 2 for input that is not understood. Nothing is downloaded and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from screening.prompt import PICTURES_PER_SAMPLE
from trainer.runs.argument_types import above_zero, not_negative, positive
from trainer.runs.arguments import RECIPE_HELP, add_directory
from trainer.training.plan.plan import EIGHTY_GB

if TYPE_CHECKING:
    from trainer.records import Sample
    from trainer.training.plan.plan import Case, DataSize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help="that train together (default: 1)")
    parser.add_argument(
        "--gpu-memory",
        type=above_zero,
        default=EIGHTY_GB,
        metavar="GIB",
        help="of each GPU, in GiB, as torch finds it (default: %(default)s, a card sold with 80 GB)",
    )
    amount = parser.add_mutually_exclusive_group()
    add_directory(amount, "--data", "training data, a directory with samples.jsonl", required=False)
    amount.add_argument(
        "--samples", type=positive, metavar="N", help="training samples (default: 1044, as in the paper)"
    )
    parser.add_argument(
        "--weak-samples",
        type=positive,
        metavar="N",
        help="samples of stage 1.1 (default: as many as of the other stages; 10724 if those are the paper's)",
    )
    parser.add_argument(
        "--hard-cases",
        type=not_negative,
        metavar="N",
        help="samples that the stage-1 model answers wrong (default: the paper's share, 434 of 1044)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, memory in bytes, problems included")


def run(args: argparse.Namespace) -> int:
    from trainer.training.plan.checks import find_notes, find_problems
    from trainer.training.plan.report import as_json, as_text

    case = read_case(args)
    problems, notes = find_problems(case), find_notes(case)
    print(json.dumps(as_json(case, problems, notes), indent=2) if args.json else as_text(case, notes))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def read_case(args: argparse.Namespace) -> Case:
    """Put together what the plan is computed from. Imports torch and transformers to build the model without values.

    Raises:
        DataError: the data directory cannot be used, or has fewer samples than hard cases.
        PlanError: the recipe's model is not known.
        RecipeError: the recipe cannot be used.
    """
    from trainer.data_directory import read_samples
    from trainer.training.plan.plan import Case, Hardware
    from trainer.training.plan.shapes import shapes_of
    from trainer.training.plan.tokens import count_tokens
    from trainer.training.recipe import load_recipe

    # What is cheap to read is read first: a mistyped path should not cost the import of torch.
    recipe = load_recipe(args.recipe)
    samples = read_samples(args.data) if args.data else []
    data = size_data(args, samples)

    from trainer.training.plan.architectures import find_model
    from trainer.training.plan.parameters import build_on_meta, count_parameters
    from trainer.training.plan.tokens import load_tokenizer

    model = find_model(recipe)
    shapes = shapes_of(model.config)
    tokenizer = load_tokenizer(model.directory)
    return Case(
        recipe=recipe,
        source=model.source,
        shapes=shapes,
        parameters=count_parameters(build_on_meta(model.config)),
        tokens=count_tokens(recipe.prompt_texts, shapes.tokens_per_picture, tokenizer, samples),
        hardware=Hardware(args.gpus, args.gpu_memory),
        data=data,
    )


def size_data(args: argparse.Namespace, samples: list[Sample]) -> DataSize:
    """How much there is to train on, from the options and the samples read, if any.

    Raises:
        DataError: there are more hard cases than samples.
    """
    from trainer.data_directory import DataError
    from trainer.training.plan.plan import PAPER_HARD_SHARE, PAPER_SAMPLES, PAPER_WEAK_SAMPLES, DataSize

    assumed = []
    number = len(samples) or args.samples
    if number is None:
        number = PAPER_SAMPLES
        assumed.append(f"{PAPER_SAMPLES:,} samples, the paper's training split; see --data and --samples")
    weak = args.weak_samples
    if weak is None:
        papers = not samples and args.samples is None
        weak = PAPER_WEAK_SAMPLES if papers else number
        assumed.append(f"{weak:,} samples of stage 1.1{', as in the paper' if papers else ''}; see --weak-samples")
    hard = args.hard_cases
    if hard is None:
        hard = round(number * PAPER_HARD_SHARE)
        assumed.append(f"{hard:,} hard cases, the paper's share; see --hard-cases")
    if hard > number:
        raise DataError(f"{hard} hard cases are more than the {number} samples")
    if samples and weak == number:
        captions = sum(bool(s.original.caption) + sum(bool(p.caption) for p in s.generated) for s in samples)
    else:
        captions = weak * PICTURES_PER_SAMPLE
        assumed.append("a caption for every picture of stage 1.1")
    return DataSize(number, weak, captions, hard, tuple(assumed))
