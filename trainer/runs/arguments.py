"""Options that several commands share, each declared once."""

from __future__ import annotations

import argparse
from pathlib import Path

from screening.answer import Mode
from screening.runtime.argument_types import positive

RECIPE_HELP = "name of a shipped recipe (a file of trainer/recipes) or path of a YAML file"
VALIDATION_HELP = (
    "labelled data of other products, on which the model is scored while it trains; needs the section `validation` of "
    "the stage in the recipe (default: none, the last weights are published)"
)

Container = argparse._ActionsContainer
"""A parser or a group of its options."""


def add_recipe(parser: Container, default: str = "tiny") -> None:
    """`--recipe`."""
    parser.add_argument("--recipe", default=default, help=f"{RECIPE_HELP} (default: {default})")


def add_directory(parser: Container, option: str, meaning: str, *, required: bool = True) -> None:
    """An option that names a directory."""
    parser.add_argument(option, type=Path, required=required, metavar="DIR", help=meaning)


def add_run_directory(parser: Container) -> None:
    """`--out` of a training."""
    add_directory(parser, "--out", "new run directory, or that of a stopped run to continue")


def add_limit(parser: Container) -> None:
    """`--limit`."""
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N samples (default: all)")


def add_batch(parser: Container) -> None:
    """`--batch`, for commands that start the engine."""
    parser.add_argument(
        "--batch",
        type=positive,
        default=64,
        metavar="N",
        help="number of samples handed to the engine at once (default: %(default)s)",
    )


def add_mode(parser: Container, default: Mode = Mode.COT) -> None:
    """`--mode`."""
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=default.value,
        help="`cot`: reason first, then answer; `direct`: answer only (default: %(default)s)",
    )
