"""The training loop of all stages: steps, log, saved states, and continuation after a kill.

The data of a step depend only on seed, stage and step number, and the state is written atomically. So a killed run
continues with the same result.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from screening.runtime.atomic_write import replacing, write_atomically
from trainer.research.pretrain.schedule import build_optimizers, learning_rate
from trainer.research.pretrain.stages import Stage
from trainer.training.number_format import pretraining_computes_in, rounded_products


def run_stage(stage: Stage, number: int, out: Path, save_every: int) -> None:
    """Train a stage to its last step, from its saved state if there is one. The scaffold then holds the result.

    Args:
        number: position among the stages, which also decides the data of each step.
        out: run directory; the state is in `OUT/NAME.pt`.
    """
    course, scaffold, log = stage.course, stage.shop.scaffold, Log(out / "log.jsonl", stage.name)
    trained = list(stage.trained())
    scaffold.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizers = build_optimizers(scaffold, course, trained)
    state_file = out / f"{stage.name}.pt"
    step = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=stage.shop.device, weights_only=True)
        scaffold.load_state_dict(state["scaffold"])
        step = state["step"]
        if step < course.steps:
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            print(f"{stage.name}: continuing at step {step}")
        log.forget_after(step)
    started = time.monotonic()
    with (
        rounded_products(stage.shop.device),
        tqdm(total=course.steps, initial=step, desc=stage.name, unit="step") as bar,
    ):
        while step < course.steps:
            rng = np.random.default_rng([stage.shop.seed, number, step])
            with mixed_precision(stage.shop.device):
                loss = stage.loss(rng)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            rate = learning_rate(step, course)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * (course.vision_rate if group["vision"] else 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            bar.update()
            if step % 10 == 0:
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
                log.write(step=step, loss=loss.item(), gradient_norm=norm.item(), seconds=time.monotonic() - started)
            if step % save_every == 0 or step == course.steps:
                scaffold.eval()
                with torch.no_grad(), mixed_precision(stage.shop.device):
                    measured = stage.measure()
                scaffold.train()
                log.write(step=step, measured=measured)
                bar.write(f"{stage.name} {step}: {_line(measured)}")
                state = {"step": step, "scaffold": scaffold.state_dict()}
                store(state | {"optimizers": [o.state_dict() for o in optimizers]}, state_file)


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute in the number format of pretraining."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pretraining_computes_in(device) is torch.bfloat16)


class Log:
    """A log of JSON lines, one file for all stages."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def write(self, **record: Any) -> None:
        with self._path.open("a") as handle:
            handle.write(json.dumps({"stage": self._stage, **record}) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove lines after the last saved state of a killed run, because those steps are repeated."""
        written = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        lines = [line for line in written if line.endswith("\n")]  # a kill may have cut the last one
        records = [json.loads(line) for line in lines]
        kept = [
            line
            for line, record in zip(lines, records, strict=True)
            if record["stage"] != self._stage or record["step"] <= step
        ]
        write_atomically(self._path, "".join(kept))


def store(state: dict[str, Any], path: Path) -> None:
    """Save the state atomically, so that a killed run finds the last complete one."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _line(measured: dict[str, Any]) -> str:
    """One line such as `judged: appearance 40/90, shadow 70/95; score: all 60`, in percent."""

    def text(value: float | list[float]) -> str:
        values = value if isinstance(value, list) else [value]
        return "/".join(f"{100 * v:.0f}" for v in values)

    return "; ".join(
        f"{part}: " + ", ".join(f"{name} {text(value)}" for name, value in found.items())
        for part, found in measured.items()
    )
