"""Shows the measurements as text for people and as JSON values for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trainer.runs.plain_table import aligned
from trainer.training.gpu_check.order import Order, Task, Use
from trainer.training.gpu_check.runner import Machine
from trainer.training.gpu_check.runner import as_json as machine_json
from trainer.training.gpu_check.steps import Measured

MIB = 2**20
Results = Sequence[tuple[Task, Measured]]


def as_json(order: Order, machine: Machine, results: Results, pair: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers: bytes, seconds and FLOPs."""
    return {
        "recipe": order.recipe,
        "scale": order.scale,
        "architecture": order.source,
        "machine": machine_json(machine),
        "tasks": [
            {
                **asdict(measured),
                "batch_size": task.batch_size,
                "passes": task.passes,
                "prompt": task.prompt,
                "answer": task.answer,
                "estimated": dict(task.estimates),
                "ratios": ratios(task, measured),
            }
            for task, measured in results
        ],
        "processes": dict(pair),
    }


def ratios(task: Task, measured: Measured) -> dict[str, float]:
    """Measured over estimated bytes, by use."""
    return {use: size / task.estimates[use] for use, size in measured.memory.items() if task.estimates.get(use)}


def as_text(order: Order, machine: Machine, results: Results, pair: Mapping[str, Any]) -> str:
    """The measurements as a page of text."""
    blocks = [_head(order, machine), _time(machine, results), _memory(results), [_pair(pair, results)]]
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(order: Order, machine: Machine) -> list[str]:
    memory = f", {machine.memory / 2**30:.1f} GiB" if machine.memory else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    peak = f"{machine.peak / 1e12:,.0f} TFLOP/s" if machine.peak else "not known"
    lines = [
        f"Recipe {order.recipe} at {order.scale} scale, {order.source}, random weights",
        f"{machine.name}{memory}; {versions}",
        f"Matrix product (matmul), measured: {machine.product / 1e12:.3g} TFLOP/s; peak that the vendor states: {peak}",
    ]
    if not machine.memory:
        lines.append("On a CPU all is computed in float32; the estimates are those for a GPU")
    return lines


def _time(machine: Machine, results: Results) -> list[str]:
    rows = [("seconds per optimizer step", "seconds", "TFLOP", "TFLOP/s", "of matmul", "of peak")]
    for task, measured in results:
        each = f"{task.batch_size} x {task.passes} sequences of {task.prompt} + {task.answer} tokens"
        rows.append((f"{task.title} ({each})", "", "", "", "", ""))
        for part, taken in measured.seconds.items():
            work = measured.flops[part]
            rate = work / taken
            shares = (_share(rate, machine.product), _share(rate, machine.peak)) if work else ("", "")
            numbers = (f"{work / 1e12:.3g}", f"{rate / 1e12:.3g}") if work else ("", "")
            rows.append((f"  {part}", f"{taken:.3g}", *numbers, *shares))
        if measured.note:
            rows.append((f"  {measured.note}", "", "", "", "", ""))
    return aligned(rows)


def _memory(results: Results) -> list[str]:
    rows = [("memory, MiB", "measured", "estimated", "ratio")]
    for task, measured in results:
        rows.append((task.title, "", "", ""))
        found = ratios(task, measured)
        for use in Use:
            size, estimate = measured.memory.get(use), task.estimates.get(use)
            if size is None and estimate is None:
                continue
            shown = f"{found[use]:.2f}" if use in found else ""
            rows.append((f"  {use}", _mib(size), _mib(estimate), shown))
    return aligned(rows)


def _pair(pair: Mapping[str, Any], results: Results) -> str:
    if note := pair.get("note"):
        return f"{pair['processes']} processes: {note}"
    text = f"{pair['processes']} processes, {pair['title']}: {pair['seconds']:.3g} s per step"
    if alone := results[0][1].seconds.get("step"):
        text += f", {pair['seconds'] / alone:.2f} times that of one process with the same batch"
    return f"{text}; {_mib(pair['buckets'])} MiB for exchanging gradients (estimated {_mib(pair['estimated_buckets'])})"


def _share(rate: float, ceiling: float | None) -> str:
    return f"{rate / ceiling:.1%}" if ceiling else ""


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / MIB:,.1f}"
