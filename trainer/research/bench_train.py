"""`python -m trainer bench-train`: compares the speed of our stage-2 trainer with that of TRL's.

Three trainers with the same model, questions, group size, rewards and objective take turns, so that a noisy machine
affects all alike: ours; TRL's GRPOTrainer with our settings; and TRL's GRPOTrainer with our settings except gradient
checkpointing, which has TRL's default. Read the ratios; the seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.runtime.atomic_write import write_atomically
from trainer.runs.arguments import add_directory

PARTS = ("preprocessing", "rollout", "reference", "rewards", "policy")
"""Parts of a step, in order. `policy` is its forward pass, backward pass and optimizer step."""


@dataclass
class Stopwatch:
    """Measures seconds by part. Time in nested parts counts only for the inner part."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inside: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            passed, inner = time.perf_counter() - began, self._inside.pop()
            self.seconds[name] += passed - inner
            if self._inside:
                self._inside[-1] += passed

    def time(self, owner: Any, method: str, name: str | Callable[..., str]) -> None:
        """Count the time in a method for a part. `name` is the part, or a function from the call's arguments to it."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(*args)):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="tiny", help="recipe with a section hcm_grpo (default: tiny)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("models/tiny"),
        metavar="DIR",
        help="checkpoint of the policy (default: models/tiny)",
    )
    add_directory(parser, "--data", "data directory with questions (default: rendered samples)", required=False)
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="steps per trainer, at least 1 (default: 6)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the measurements (default: none)")


def run(args: argparse.Namespace) -> int:
    if args.steps < 1:
        raise UserError("--steps must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        figures = measure(args.recipe, args.checkpoint, args.data, args.steps, Path(scratch))
    print(table(figures))
    if args.out:
        write_atomically(args.out, json.dumps(figures, indent=1) + "\n")
    return 0


def measure(recipe_name: str, checkpoint: Path, data: Path | None, steps: int, scratch: Path) -> dict[str, Any]:
    """Measure completions per second, and seconds by part, of each trainer.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used, or the recipe has LoRA, flash attention or
            vLLM, with which the trainers would not train alike.
    """
    from tqdm import tqdm

    from screening.checkpoint.directory import verify
    from trainer.data_directory import DataError, read_samples
    from trainer.reward import reward_functions
    from trainer.training.enough_data import groups_problem, refuse
    from trainer.training.recipe.recipe import RecipeError, load_recipe
    from trainer.training.sft.rows import dataset, rollout_rows

    settings = load_recipe(recipe_name).hcm_grpo
    if settings is None:
        raise RecipeError(f"recipe {recipe_name!r} has no section `hcm_grpo`")
    refuse(_not_comparable(settings))
    refuse(groups_problem(settings))
    manifest = verify(checkpoint)
    per_step = settings.batch_size * settings.gradient_accumulation
    data = data or _rendered(scratch / "data", (steps + 1) * per_step // settings.group_size)
    samples = read_samples(data)
    if len(samples) < (wanted := (steps + 1) * per_step // settings.group_size):
        raise DataError(
            f"{data} has {len(samples)} samples, fewer than the {wanted} of {steps} steps and a warm-up step. "
            "Give more data, or lower --steps"
        )
    questions = dataset(rollout_rows(samples, manifest.prompt), data, manifest.image)
    rewards = reward_functions(settings.reward, {sample.id: sample for sample in samples})
    trainers = {name: _build(name, checkpoint, questions, rewards, settings, scratch) for name in NAMES}
    for trainer, _ in trainers.values():
        _take_step(trainer)  # warm-up: the first step of every trainer is slower
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    lengths: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in tqdm(range(steps), desc="steps of each", unit="step"):
        for name, (trainer, watch) in trainers.items():
            watch.seconds.clear()
            began = time.perf_counter()
            tokens = _take_step(trainer)
            taken[name].append({"step": time.perf_counter() - began, **watch.seconds})
            lengths[name].append(tokens / per_step)
    return {
        "recipe": recipe_name,
        "group_size": settings.group_size,
        "completions_per_step": per_step,
        "steps": steps,
        "trainers": {name: _figures(taken[name], lengths[name], per_step) for name in trainers},
    }


def _not_comparable(settings: Any) -> str | None:
    """Why the trainers would not train alike with a recipe; None if they would.

    TRL's trainer is built without adapters, with torch's own attention, and without our handling of vLLM.
    """
    from trainer.training.recipe.stages import FLASH

    excluded = {"lora": settings.lora, "attention": settings.attention == FLASH, "vllm": settings.vllm != "none"}
    if not (named := [f"hcm_grpo.{name}" for name, given in excluded.items() if given]):
        return None
    return f"bench-train cannot compare trainers with {' and '.join(named)}. Remove these settings from the recipe"


OURS, SAME, DEFAULT = "ours", "TRL, our settings", "TRL, its defaults"
NAMES = (OURS, SAME, DEFAULT)


def table(figures: dict[str, Any]) -> str:
    """The measurements as a text table, with the ratio of our speed to each."""
    trainers = figures["trainers"]
    lines = [
        f"{figures['completions_per_step']} completions per step in groups of {figures['group_size']}; "
        f"median of {figures['steps']} steps of each, taken in turns",
        f"{'':20}{'completions/s':>14}{'ours is':>9}{'step s':>8}"
        + "".join(f"{part:>15}" for part in PARTS)
        + f"{'tokens each':>13}",
    ]
    ours = trainers[OURS]["completions_per_second"]
    for name, found in trainers.items():
        rate = found["completions_per_second"]
        parts = "".join(f"{found['parts'].get(part, 0.0):>13.2f} s" for part in PARTS)
        lines.append(
            f"{name:20}{rate:>14.2f}{ours / rate:>8.2f}x{found['step_seconds']:>8.2f}{parts}"
            f"{found['tokens_per_completion']:>13.0f}"
        )
    return "\n".join(lines)


def _build(
    name: str, checkpoint: Path, questions: Any, rewards: Any, settings: Any, scratch: Path
) -> tuple[Any, Stopwatch]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOTrainer

    from trainer.training.hcm_grpo.train import arguments, build_trainer

    if name == OURS:
        trainer: Any = build_trainer(checkpoint, questions, rewards, settings, scratch / "ours")
    else:
        config = arguments(settings, scratch / name)
        if name == DEFAULT:
            defaults = {f.name: f.default for f in dataclasses.fields(config)}
            config.gradient_checkpointing = defaults["gradient_checkpointing"]
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32),
            processing_class=AutoProcessor.from_pretrained(checkpoint, padding_side="left"),
            reward_funcs=rewards,
            train_dataset=questions,
            args=config,
        )
    watch = Stopwatch()
    watch.time(trainer, "_generate_and_score_completions", "preprocessing")
    watch.time(trainer, "_generate_single_turn", "rollout")
    watch.time(trainer, "_calculate_rewards", "rewards")
    watch.time(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda model, *_: "reference" if model is trainer.ref_model else "policy",
    )
    _prepare(trainer)
    trainer.watch = watch
    return trainer, watch


def _prepare(trainer: Any) -> None:
    """Prepare a trainer for single steps, as its `train` method does."""
    trainer.batches = iter(trainer.get_train_dataloader())
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.model_wrapped = trainer._wrap_model(trainer.model)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model_wrapped, trainer.optimizer)
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()


def _take_step(trainer: Any) -> float:
    """Take one optimizer step; returns the number of tokens of its completions."""
    tokens = 0.0
    for _ in range(trainer.args.gradient_accumulation_steps):
        with trainer.watch.part("preprocessing"):
            batch = next(trainer.batches)
        with trainer.watch.part("policy"):
            trainer.training_step(trainer.model_wrapped, batch, None)
    with trainer.watch.part("policy"):
        trainer.accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    for part in trainer._buffered_inputs:
        tokens += float(part["completion_mask"].sum())
    return tokens


def _figures(steps: list[dict[str, float]], lengths: list[float], per_step: int) -> dict[str, Any]:
    seconds = statistics.median(step["step"] for step in steps)
    parts = {part: statistics.median(step.get(part, 0.0) for step in steps) for part in PARTS}
    return {
        "completions_per_second": per_step / seconds,
        "step_seconds": seconds,
        "parts": parts,
        "tokens_per_completion": statistics.mean(lengths),
    }


def _rendered(out: Path, count: int) -> Path:
    from trainer.data.render.dataset import Order, write_dataset
    from trainer.data.render.sample import USABLE_COUNTS

    write_dataset(Order(count, 20261124, 384, (0.2, 0.4, 0.4), USABLE_COUNTS), out, 1)
    return out
