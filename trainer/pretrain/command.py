"""`python -m trainer pretrain`: a small vision-language model from random weights.

Everything is trained. Every step's data follows from the seed and the step number, and the state is written
atomically, so a killed run goes on where it was with the same result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from trainer.recipe import Phase, Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe or path of a YAML file (default: tiny)"
    )
    parser.add_argument("--out", type=Path, required=True, help="run directory; a killed run in it is continued")
    parser.add_argument("--pool", type=Path, help="where the rendered pictures lie (default: OUT/pool)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that render (default: all cores)"
    )
    parser.add_argument(
        "--save-every", type=int, default=200, metavar="STEPS", help="steps between saved states (default: 200)"
    )


def run(args: argparse.Namespace) -> int:
    from trainer.recipe import RecipeError, load_recipe
    from trainer.run_directory import RunMismatch, claim

    try:
        recipe = load_recipe(args.recipe)
        if recipe.pretrain is None or recipe.architecture is None:
            raise RecipeError(f"recipe {recipe.name!r} starts from {recipe.base}; it has no pretraining")
        deciding = {"name", "prompt", "architecture", "pretrain", "max_tokens_cot"}
        claim(args.out, {"stage": "pretrain", "recipe": recipe.model_dump(mode="json", include=deciding)})
        Pretraining(recipe, args.out, args.pool or args.out / "pool", args.workers).run(args.save_every)
    except (RecipeError, RunMismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class Pretraining:
    """One run, read top to bottom: pool, tokenizer, model, steps, export."""

    def __init__(self, recipe: Recipe, out: Path, pool_dir: Path, workers: int) -> None:
        import torch

        from trainer.pretrain.batches import Batcher
        from trainer.pretrain.model import build_model, build_processor
        from trainer.pretrain.pool import Pool, PoolSpec, load_or_render
        from trainer.pretrain.schedule import build_optimizer
        from trainer.pretrain.tasks import Tasks

        assert recipe.pretrain is not None and recipe.architecture is not None
        self.recipe, self.settings, self.architecture, self.out = recipe, recipe.pretrain, recipe.architecture, out
        pool_settings = self.settings.pool.model_dump()
        held_out = pool_settings.pop("held_out")
        pool = load_or_render(pool_dir, PoolSpec(**pool_settings, size=self.architecture.image_size), workers)
        training, held_out_pool = (
            Pool(pool.pixels, pool.products[held_out:]),
            Pool(pool.pixels, pool.products[:held_out]),
        )

        self.tokenizer = self._tokenizer(training)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.settings.seed)
        self.model = build_model(self.architecture, self.tokenizer).to(self.device)
        # On CPU the fused attention kernel's backward pass is slower than plain matrix products at these lengths.
        self.model.set_attn_implementation("sdpa" if self.device.type == "cuda" else "eager")
        self.processor = build_processor(self.architecture, self.tokenizer)
        self.optimizer = build_optimizer(self.model, self.settings, self.model.parameters())
        self.batcher = Batcher(pool.pixels, self.tokenizer, self.architecture.tokens_per_picture)
        counts = self.settings.usable_counts
        self.tasks = Tasks(training, self.tokenizer, recipe.prompt_texts, usable_counts=counts)
        self.held_out_tasks = Tasks(held_out_pool, self.tokenizer, recipe.prompt_texts, usable_counts=counts)
        self.step = 0

    def run(self, save_every: int) -> None:
        """Train to the last step and export."""
        import torch
        from tqdm import tqdm

        from trainer.pretrain.schedule import learning_rate, phase_at

        self._learn_to_see(save_every)
        self._load_state()
        total = self.settings.steps
        started = time.monotonic()
        with tqdm(total=total, initial=self.step, desc="pretrain", unit="step") as bar:
            while self.step < total:
                phase = phase_at(self.step, self.settings)
                self.model.model.vision_tower.requires_grad_(phase.vision_rate > 0)
                task, batch = self._batch(self.step, phase)
                with torch.autocast(self.device.type, dtype=torch.bfloat16):
                    loss = self.model(**batch, use_cache=False).loss
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                rate = learning_rate(self.step, self.settings)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * (phase.vision_rate if group["vision"] else 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.step += 1
                bar.update()
                if self.step % 10 == 0:
                    bar.set_postfix_str(f"{task} loss {loss.item():.3f}")
                    self._log(
                        step=self.step,
                        task=task,
                        loss=loss.item(),
                        grad_norm=norm.item(),
                        seconds=time.monotonic() - started,
                    )
                if self.step % save_every == 0 or self.step == total:
                    verdicts = self.verdicts()
                    self._log(step=self.step, verdicts=verdicts)
                    bar.write(f"step {self.step}: {_line(verdicts)}")
                    self._save_state()
        self._export()

    def _learn_to_see(self, save_every: int) -> None:
        """Train ViT and projector on questions about single pictures; see `trainer.pretrain.vision`."""
        import numpy as np
        import torch
        from tqdm import tqdm

        from trainer.pretrain.schedule import build_optimizer, learning_rate
        from trainer.pretrain.vision import Heads, VisionStage, accuracy, draw

        settings, path = self.settings.vision, self.out / "vision.pt"
        heads = Heads.of(self.tasks.pool)
        stage = VisionStage(self.model, heads).to(self.device)
        optimizer = build_optimizer(stage, settings, stage.trained())
        step = 0
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            stage.load_state_dict(state["stage"])
            step = state["step"]
            if step < settings.steps:
                optimizer.load_state_dict(state["optimizer"])
        with tqdm(total=settings.steps, initial=step, desc="learn to see", unit="step") as bar:
            while step < settings.steps:
                rng = np.random.default_rng([self.settings.seed, 1, step])
                shots = draw(self.tasks.pool, settings.pictures_per_step, rng)
                pixels = self.batcher.pixels([s.row for s in shots], rng, self.settings.jitter).to(self.device)
                targets = {name: target.to(self.device) for name, target in heads.targets(shots).items()}
                with torch.autocast(self.device.type, dtype=torch.bfloat16):
                    loss = stage.loss(pixels, targets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(stage.trained(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, settings)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                bar.update()
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
                if step % save_every == 0 or step == settings.steps:
                    stage.eval()
                    with torch.autocast(self.device.type, dtype=torch.bfloat16):
                        recall = accuracy(stage, heads, self.held_out_tasks.pool, self.batcher.pixels)
                    stage.train()
                    self._log(vision_step=step, loss=loss.item(), recall=recall)
                    bar.write(f"seen at step {step}: " + ", ".join(f"{n} {100 * r:.0f}" for n, r in recall.items()))
                    _store({"step": step, "stage": stage.state_dict(), "optimizer": optimizer.state_dict()}, path)

    def verdicts(self, samples: int = 192) -> dict[str, Any]:
        """How well pictures of held-out products are judged."""
        import torch

        from trainer.pretrain.verdicts import inspection_recall, verdict_recall

        self.model.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            alone = inspection_recall(self.model, self.tokenizer, self._held_out("inspect_one", 3 * samples))
            seen = inspection_recall(self.model, self.tokenizer, self._held_out("inspect", samples))
            recall = verdict_recall(self.model, self.tokenizer, self._held_out("screen", samples))
        self.model.train()
        return {"inspect_one": alone, "inspect": seen, "screen": recall}

    def _held_out(self, task: str, samples: int) -> Iterator[dict[str, torch.Tensor]]:
        import numpy as np

        rng = np.random.default_rng(0)
        for _ in range(samples // 16):
            examples = [self.held_out_tasks.draw[task](rng) for _ in range(16)]
            yield self._to_device(self.batcher(examples, rng))

    def _batch(self, step: int, phase: Phase) -> tuple[str, dict[str, torch.Tensor]]:
        import numpy as np

        from trainer.pretrain.schedule import draw_task

        rng = np.random.default_rng([self.settings.seed, step])
        task = draw_task(phase, rng)
        count = self.settings.pictures_per_step // (1 if task in ("describe", "inspect_one") else 5)
        examples = [self.tasks.draw[task](rng) for _ in range(count)]
        return task, self._to_device(self.batcher(examples, rng, self.settings.jitter))

    def _to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _tokenizer(self, pool: Any) -> Any:
        """Learn the vocabulary once per run; a continued run must use the same one."""
        from transformers import PreTrainedTokenizerFast

        from trainer.pretrain.tokenizer import train_tokenizer
        from trainer.pretrain.vocabulary import fixed_texts

        directory = self.out / "tokenizer"
        if not directory.exists():
            texts = [*pool.texts(), *fixed_texts(self.recipe.prompt_texts)]
            tokenizer = train_tokenizer(texts, self.settings.vocabulary)
            temporary = directory.with_suffix(".partial")
            shutil.rmtree(temporary, ignore_errors=True)
            tokenizer.save_pretrained(temporary)
            temporary.rename(directory)
        return PreTrainedTokenizerFast.from_pretrained(directory)

    def _log(self, **record: Any) -> None:
        with (self.out / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def _forget_log_after(self, step: int) -> None:
        """Drop what a killed run logged behind its last saved state: those steps are done again."""
        from trainer.run_directory import write_atomically

        path = self.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        write_atomically(path, "".join(line for line in lines if json.loads(line).get("step", 0) <= step))

    def _save_state(self) -> None:
        state = {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        _store(state, self.out / "state.pt")

    def _load_state(self) -> None:
        import torch

        path = self.out / "state.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self._forget_log_after(self.step)
            print(f"continuing at step {self.step}")

    def _export(self) -> None:
        from screening.checkpoint import Decoding, ImageContract
        from trainer.export import export

        size, tokens = self.architecture.image_size, self.architecture.tokens_per_picture
        export(
            self.out / "checkpoint",
            self.model,
            self.processor,
            name=self.recipe.name,
            version="pretrained",
            prompt=self.recipe.prompt_texts,
            image=ImageContract(size=size, tokens_per_picture=tokens),
            decoding=Decoding(max_tokens_cot=self.recipe.max_tokens_cot),
            data={"pretrain": self.settings.pool.model_dump(mode="json")},
            recipe=self.recipe.model_dump(mode="json"),
        )
        print(f"checkpoint: {self.out / 'checkpoint'}")


def _store(state: dict[str, Any], path: Path) -> None:
    """Save atomically: a killed run finds the last whole state."""
    import torch

    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)


def _line(verdicts: dict[str, Any]) -> str:
    """`inspect: appearance 40/90 … screen: normal 80 …`, percent: defects seen / sound pictures called sound."""
    parts = [
        f"{task}: " + ", ".join(f"{name} {100 * seen:.0f}/{100 * sound:.0f}" for name, (seen, sound) in found.items())
        for task, found in verdicts.items()
        if task != "screen"
    ]
    screen = ", ".join(f"{name} {100 * share:.0f}" for name, share in verdicts["screen"].items())
    return "; ".join([*parts, f"screen: {screen}"])
