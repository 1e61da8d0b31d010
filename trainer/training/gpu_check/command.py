"""`python -m trainer gpu-check`: measures time and memory of training steps on this machine's GPU.

Nothing is downloaded or trained: the model has the recipe's sizes and random weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.runtime.argument_types import above_zero, positive
from screening.runtime.atomic_write import write_atomically
from trainer.runs.arguments import RECIPE_HELP

if TYPE_CHECKING:
    import torch

    from trainer.training.gpu_check.order import Order

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "recipe", nargs="?", default="internvl3-2b", metavar="RECIPE", help=f"{RECIPE_HELP} (default: %(default)s)"
    )
    what.add_argument(
        "--order",
        type=Path,
        metavar="FILE",
        help="measure a specification that --write-order wrote on another machine, in place of a recipe",
    )
    parser.add_argument(
        "--write-order",
        type=Path,
        metavar="FILE",
        help="write a specification of the measurements and measure nothing, for --order on a machine on which only "
        "torch, transformers and accelerate are installed",
    )
    parser.add_argument(
        "--scale",
        choices=("true", "tiny"),
        default="true",
        help="size of the measured model: `true` is as large as the recipe's, `tiny` is small, to try the command "
        "(default: %(default)s)",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="device to measure (default: cuda)")
    parser.add_argument(
        "--gpu-memory",
        type=above_zero,
        metavar="GIB",
        help="memory in GiB that may be allocated, to find out what fits on a smaller card (default: all of the card)",
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="also measure a step in N processes that exchange gradients (default: 2 with two or more GPUs, else none)",
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="measurements of each time (default: %(default)s)"
    )
    parser.add_argument(
        "--time-budget",
        type=above_zero,
        default=600.0,
        metavar="SECONDS",
        help="time in seconds after which no further measurement starts (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for all numbers (default: none)")


def run(args: argparse.Namespace) -> int:
    until = time.monotonic() + args.time_budget
    order = _order(args)
    if args.write_order:
        write_atomically(args.write_order, order.as_json() + "\n")
        print(f"{args.write_order}: {len(order.tasks)} measurements of recipe {order.recipe}")
        return 0

    from trainer.training.gpu_check.report import as_json, as_text
    from trainer.training.gpu_check.runner import find_device, look_at, run_tasks

    device = find_device(args.device)
    machine = look_at(device, until=until)
    limit = round(args.gpu_memory * GIB) if args.gpu_memory else None
    results = list(run_tasks(order, device, repeats=args.repeats, until=until, limit=limit))
    pair = _in_processes(args, order, device, until)
    print(as_text(order, machine, results, pair))
    if args.out:
        write_atomically(args.out, json.dumps(as_json(order, machine, results, pair), indent=1) + "\n")
    return 0


def _order(args: argparse.Namespace) -> Order:
    if args.order:
        from trainer.training.gpu_check.order import read_order

        return read_order(args.order)
    from trainer.training.gpu_check.from_recipe import make_order

    return make_order(args.recipe, args.scale)


def _in_processes(args: argparse.Namespace, order: Order, device: torch.device, until: float) -> dict[str, Any]:
    """Measure in several processes; a note says why if there is nothing to measure."""
    import torch

    from trainer.training.gpu_check.processes import measure_in_processes
    from trainer.training.gpu_check.runner import say

    gpus = torch.cuda.device_count()
    processes = args.processes or (2 if device.type == "cuda" and gpus > 1 else 1)
    if processes == 1:
        return {"processes": 2, "note": "not measured: they need two GPUs, or --processes on a CPU"}
    if device.type == "cuda" and gpus < processes:
        return {"processes": processes, "note": f"not measured: this machine has {gpus} GPU(s)"}
    say(f"{processes} processes")
    return measure_in_processes(order, processes, on_gpu=device.type == "cuda", repeats=args.repeats, until=until)
