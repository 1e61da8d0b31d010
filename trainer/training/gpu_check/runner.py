"""Runs the tasks of an order one by one, and keeps going when one fails or runs out of memory or time."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from trainer.training.gpu_check.flops import stated_peak
from trainer.training.gpu_check.meter import make_meter, seconds
from trainer.training.gpu_check.order import Order, OrderError, Task
from trainer.training.gpu_check.steps import Bench, Measured, measure
from trainer.training.number_format import computed_in

PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes")
SQUARE = {"cuda": 8192, "cpu": 512}
"""Side of the matrices whose product is the practical ceiling."""
REMEDY = "out of memory. Halve batch_size and double gradient_accumulation"


@dataclass(frozen=True, slots=True)
class Machine:
    """The device, and the rates to compare with."""

    name: str
    memory: int | None
    """Bytes of the card; None on a CPU."""
    product: float
    """FLOP/s of a large matrix product in the number format of trainings."""
    peak: float | None
    """FLOP/s that the vendor states; None for an unknown card."""
    versions: dict[str, str]


def find_device(name: str | None) -> torch.device:
    """The device to measure.

    Raises:
        OrderError: there is no such device.
    """
    if name == "cpu" or (name is None and not torch.cuda.is_available()):
        if name is None:
            raise OrderError("torch sees no GPU. Give --device cpu --scale tiny to try the command on a CPU")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise OrderError("--device cuda: torch sees no GPU")
    return torch.device("cuda", 0)


def look_at(device: torch.device, *, until: float) -> Machine:
    """Name the machine and measure a matrix product on it."""
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    side, dtype, meter = SQUARE[device.type], computed_in(device), make_meter(device, None)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    taken = seconds(meter, lambda: left @ right, repeats=10, until=until)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if find_spec(name)}
    return Machine(
        name=card.name if card else platform.machine(),
        memory=card.total_memory if card else None,
        product=2 * side**3 / taken,
        peak=stated_peak(card.name) if card else None,
        versions={"python": platform.python_version(), **versions},
    )


def run_tasks(
    order: Order, device: torch.device, *, repeats: int, until: float, limit: int | None
) -> Iterator[tuple[Task, Measured]]:
    """Measure all tasks. An error of a task becomes its note, so that the results of the others are kept.

    Args:
        until: time (`time.monotonic`) after which no further measurement starts.
        limit: bytes that may be allocated; None for all of the card.
    """
    for number, task in enumerate(order.tasks, 1):
        measured = Measured(task.title)
        if reason := _reason_to_skip(task, until):
            measured.note = f"not measured: {reason}"
        else:
            say(f"[{number}/{len(order.tasks)}] {task.title}")
            try:
                measure(order, task, Bench(make_meter(device, limit), repeats, until), measured)
            except torch.OutOfMemoryError:
                measured.note = REMEDY + ("" if task.checkpointing else ", or set gradient_checkpointing: true")
            except Exception as error:  # noqa: BLE001 - a boundary: one task must not end the others
                traceback.print_exc()
                measured.note = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        # An error's traceback, and cycles inside models, hold memory until it is collected.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield task, measured


def say(progress: str) -> None:
    """Show progress, apart from the results."""
    print(progress, file=sys.stderr, flush=True)


def _reason_to_skip(task: Task, until: float) -> str | None:
    if time.monotonic() > until:
        return "the time budget was used up"
    if task.adapters and not find_spec("peft"):
        return "peft is not installed"
    if task.adapters and task.adapters.bits == 4 and not find_spec("bitsandbytes"):
        return "bitsandbytes is not installed"
    if task.batch_size % task.group_size:
        return (
            f"batch_size {task.batch_size} is not divisible by group_size {task.group_size}, and gpu-check scores "
            f"whole groups in a pass. Give a recipe with a multiple of {task.group_size}"
        )
    return None


def as_json(machine: Machine) -> dict[str, Any]:
    return {
        "device": machine.name,
        "memory_bytes": machine.memory,
        "product_flops": machine.product,
        "stated_peak_flops": machine.peak,
        "versions": machine.versions,
    }
