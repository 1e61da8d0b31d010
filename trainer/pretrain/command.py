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

    from trainer.recipe import Recipe

SUMMARY = "train a small vision-language model from random weights (stands in for a base model)"


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
    from trainer.recipe import load_recipe

    recipe = load_recipe(args.recipe)
    if recipe.pretrain is None or recipe.architecture is None:
        print(f"recipe {recipe.name!r} starts from {recipe.base}; it has no pretraining", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    saved = args.out / "recipe.json"
    resolved = recipe.model_dump_json(indent=2)
    if saved.exists() and saved.read_text() != resolved:
        print(f"{args.out} holds a run of another recipe; name another directory or remove it", file=sys.stderr)
        return 2
    saved.write_text(resolved)
    Pretraining(recipe, args.out, args.pool or args.out / "pool", args.workers).run(args.save_every)
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
        self.optimizer = build_optimizer(self.model, self.settings)
        self.batcher = Batcher(pool.pixels, self.tokenizer, self.architecture.tokens_per_picture)
        counts = self.settings.usable_counts
        self.tasks = Tasks(training, self.tokenizer, recipe.prompt_texts, usable_counts=counts)
        self.held_out_tasks = Tasks(held_out_pool, self.tokenizer, recipe.prompt_texts, usable_counts=counts)
        self.step = 0

    def run(self, save_every: int) -> None:
        """Train to the last step and export."""
        import torch
        from tqdm import tqdm

        from trainer.pretrain.schedule import learning_rate

        self._load_state()
        total = self.settings.steps
        started = time.monotonic()
        with tqdm(total=total, initial=self.step, desc="pretrain", unit="step") as bar:
            while self.step < total:
                task, batch = self._batch(self.step)
                with torch.autocast(self.device.type, dtype=torch.bfloat16):
                    loss = self.model(**batch, use_cache=False).loss
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.step, self.settings)
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

    def verdicts(self, samples: int = 192) -> dict[str, Any]:
        """How well pictures of held-out products are judged."""
        import torch

        from trainer.pretrain.verdicts import inspection_recall, verdict_recall

        self.model.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            seen = inspection_recall(self.model, self.tokenizer, self._held_out("inspect", samples))
            recall = verdict_recall(self.model, self.tokenizer, self._held_out("screen", samples))
        self.model.train()
        return {"inspect": seen, "screen": recall}

    def _held_out(self, task: str, samples: int) -> Iterator[dict[str, torch.Tensor]]:
        import numpy as np

        rng = np.random.default_rng(0)
        for _ in range(samples // 16):
            examples = [self.held_out_tasks.draw[task](rng) for _ in range(16)]
            yield self._to_device(self.batcher(examples, rng))

    def _batch(self, step: int) -> tuple[str, dict[str, torch.Tensor]]:
        import numpy as np

        from trainer.pretrain.schedule import shares_at

        rng = np.random.default_rng([self.settings.seed, step])
        shares = shares_at(step, self.settings)
        task = str(rng.choice(list(shares), p=list(shares.values())))
        count = self.settings.pictures_per_step // (1 if task == "describe" else 5)
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

    def _save_state(self) -> None:
        import torch

        temporary = self.out / "state.partial.pt"
        torch.save(
            {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, temporary
        )
        temporary.replace(self.out / "state.pt")

    def _load_state(self) -> None:
        import torch

        path = self.out / "state.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
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


def _line(verdicts: dict[str, Any]) -> str:
    """`inspect: appearance 40/90 … screen: normal 80 …`, percent: defects seen / sound pictures called sound."""
    inspect = ", ".join(
        f"{name} {100 * seen:.0f}/{100 * sound:.0f}" for name, (seen, sound) in verdicts["inspect"].items()
    )
    screen = ", ".join(f"{name} {100 * share:.0f}" for name, share in verdicts["screen"].items())
    return f"inspect (seen/sound): {inspect}; screen: {screen}"
