"""Measures the first task in several processes, each with a GPU and the whole model, as `accelerate launch` trains.

`measure_in_processes` starts torch's launcher, which runs this module once per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.runs.library_messages import hide_needless_messages
from trainer.training.distributed import on_one_machine
from trainer.training.gpu_check.order import Order, Use, read_order

if TYPE_CHECKING:
    from trainer.training.gpu_check.meter import Meter


def measure_in_processes(order: Order, processes: int, *, on_gpu: bool, repeats: int, until: float) -> dict[str, Any]:
    """Measure a step of the first task in several processes.

    Args:
        until: time (`time.monotonic`) at which the processes are ended.

    Returns:
        `processes`, `seconds` per step and `buckets`, the bytes for exchanging gradients; or `processes` and a `note`
        that says why there is no result.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        ordered, result = Path(scratch) / "order.json", Path(scratch) / "result.json"
        ordered.write_text(order.as_json(), encoding="utf-8")
        launcher = [sys.executable, "-m", "torch.distributed.run", *on_one_machine(processes), "-m", __name__]
        status = run_until(until, [*launcher, str(ordered), str(result), "cuda" if on_gpu else "cpu", str(repeats)])
        if status is None:
            return {"processes": processes, "note": "not measured: the time budget was used up"}
        if status:
            return {"processes": processes, "note": f"failed with exit status {status}; its output is above"}
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def run_until(until: float, command: list[str]) -> int | None:
    """Run the launcher; returns its exit status, or None if it was ended at `until` (`time.monotonic`)."""
    launcher = subprocess.Popen(command)  # noqa: S603 - our own module
    try:
        return launcher.wait(max(until - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        launcher.terminate()  # not kill: it must end the processes that it started
        launcher.wait()


def _measure(ordered: Path, result: Path, device_kind: str, repeats: int) -> None:
    import torch
    from accelerate import Accelerator

    from trainer.training.gpu_check.meter import make_meter
    from trainer.training.gpu_check.model import Scorer, build_model
    from trainer.training.gpu_check.steps import Bench, make_optimizer, sft_pass, take_step

    accelerator = Accelerator(cpu=device_kind == "cpu")
    device, order = accelerator.device, read_order(ordered)
    task, meter = order.tasks[0], make_meter(device, None)
    bench = Bench(meter, repeats, until=time.monotonic() + 3600)
    torch.manual_seed(0)
    with meter.counting():
        model = build_model(order, task, device)
        before = meter.allocated()
        scorer = accelerator.prepare_model(Scorer(model))
        accelerator.wait_for_everyone()
        buckets = _settled(meter) - before
    optimizer, work = make_optimizer(model, device), sft_pass(model, scorer, task, bench)
    for _ in range(2):
        take_step(model, optimizer, work, task.passes)
    taken = bench.time(lambda: take_step(model, optimizer, work, task.passes))
    if accelerator.is_main_process:
        found = {
            "processes": accelerator.num_processes,
            "title": task.title,
            "seconds": taken,
            "buckets": buckets,
            "estimated_buckets": task.estimates[Use.GRADIENTS],  # as `plan` counts them for several GPUs
        }
        result.write_text(json.dumps(found), encoding="utf-8")
    accelerator.wait_for_everyone()
    # On a CPU the process group's end can hang: its destructor holds the interpreter lock and waits for gloo's thread,
    # which needs that lock to drop its last exchange of gradients.
    os._exit(0)


def _settled(meter: Meter) -> int:
    """Allocated bytes, once they have not changed for a second, or after half a minute.

    gloo's thread drops its copy of the weights a little after the broadcast.
    """
    found, since = meter.allocated(), time.monotonic()
    limit = since + 30
    while time.monotonic() < min(since + 1, limit):
        time.sleep(0.05)
        if (now := meter.allocated()) != found:
            found, since = now, time.monotonic()
    return found


if __name__ == "__main__":
    hide_needless_messages()
    _measure(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
