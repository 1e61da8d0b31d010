"""`python -m trainer plan RECIPE`: computes parameters, tokens, memory and steps of a recipe, before it is trained.

The exit status is 0 for a recipe without problems, 1 for one with problems (each is printed, with what to change), and
2 for wrong input. Nothing is downloaded and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from screening.prompt import PICTURES_PER_SAMPLE
from screening.runtime.argument_types import above_zero, not_negative, positive
from trainer.runs.arguments import RECIPE_HELP, add_directory
from trainer.training.plan.plan import EIGHTY_GB

if TYPE_CHECKING:
    from trainer.records import Sample
    from trainer.training.plan.plan import Case, DataSize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument(
        "--gpus", type=positive, default=1, metavar="N", help="number of GPUs that train together (default: 1)"
    )
    parser.add_argument(
        "--gpu-memory",
        type=above_zero,
        default=EIGHTY_GB,
        metavar="GIB",
        help="memory of each GPU in GiB, as torch reports it (default: %(default)s, a card sold as 80 GB)",
    )
    parser.add_argument(
        "--sharding",
        choices=("none", "fsdp2"),
        default="none",
        help="fsdp2: the GPUs divide weights, gradients and optimizer states; none: each holds all (default: none)",
    )
    amount = parser.add_mutually_exclusive_group()
    add_directory(amount, "--data", "data directory with the training samples (samples.jsonl)", required=False)
    amount.add_argument(
        "--samples", type=positive, metavar="N", help="number of training samples (default: 1044, as in the paper)"
    )
    parser.add_argument(
        "--weak-samples",
        type=not_negative,
        metavar="N",
        help="number of samples of stage 1.1; 0 leaves this stage out (default: that of the other stages; without "
        "--data and --samples 10724, as in the paper)",
    )
    parser.add_argument(
        "--hard-cases",
        type=not_negative,
        metavar="N",
        help="number of samples that the stage-1 model answers wrong (default: 434 of 1044, the paper's share)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, with memory in bytes and all problems (default: a page of text)",
    )


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
    """Collect the inputs of a plan. Imports torch and transformers, and builds the model on the meta device.

    Raises:
        DataError: the data directory cannot be used, or has fewer samples than hard cases.
        PlanError: the architecture of the recipe's model is unknown.
        RecipeError: the recipe cannot be used.
    """
    from trainer.data_directory import read_samples
    from trainer.training.plan.plan import Case, Hardware
    from trainer.training.plan.shapes import shapes_of
    from trainer.training.plan.tokens import count_tokens
    from trainer.training.recipe.recipe import load_recipe

    # Recipe and data are read first, so that a mistyped path fails before the slow import of torch.
    recipe = load_recipe(args.recipe)
    samples = read_samples(args.data) if args.data else []
    data = size_data(args, samples)

    from trainer.training.plan.architectures import find_model
    from trainer.training.plan.parameters import build_on_meta, count_parameters
    from trainer.training.plan.tokens import load_tokenizer

    model = find_model(recipe)
    shapes = shapes_of(model.config, recipe.most_tiles)
    tokenizer = load_tokenizer(model.directory)
    return Case(
        recipe=recipe,
        source=model.source,
        shapes=shapes,
        parameters=count_parameters(build_on_meta(model.config)),
        tokens=count_tokens(recipe.prompt_texts, shapes.most_tokens, tokenizer, samples),
        hardware=Hardware(args.gpus, args.gpu_memory, sharded=args.sharding == "fsdp2"),
        data=data,
    )


def size_data(args: argparse.Namespace, samples: list[Sample]) -> DataSize:
    """The amount of data, from the options and the samples, if --data was given.

    Raises:
        DataError: there are more hard cases than samples.
    """
    from trainer.data_directory import DataError
    from trainer.training.plan.plan import PAPER_HARD_SHARE, PAPER_SAMPLES, PAPER_WEAK_SAMPLES, DataSize

    assumed = []
    number = len(samples) or args.samples
    if number is None:
        number = PAPER_SAMPLES
        assumed.append(f"{PAPER_SAMPLES:,} samples, as in the paper's training split (see --data, --samples)")
    weak = args.weak_samples
    if weak is None:
        papers = not samples and args.samples is None
        weak = PAPER_WEAK_SAMPLES if papers else number
        assumed.append(f"{weak:,} samples of stage 1.1{', as in the paper' if papers else ''} (see --weak-samples)")
    hard = args.hard_cases
    if hard is None:
        hard = round(number * PAPER_HARD_SHARE)
        assumed.append(f"{hard:,} hard cases, the paper's share (see --hard-cases)")
    if hard > number:
        raise DataError(f"--hard-cases: {hard} are more than the {number} samples")
    if samples and weak == number:
        captions = sum(bool(s.original.caption) + sum(bool(p.caption) for p in s.generated) for s in samples)
    else:
        captions = weak * PICTURES_PER_SAMPLE
        assumed += ["a caption for every picture of stage 1.1"] if weak else []
    return DataSize(number, weak, captions, hard, tuple(assumed))
