"""`python -m trainer pretrain`: train a small vision-language model from random weights or from a checkpoint.

A killed run continues with the same result; see `trainer.research.pretrain.loop`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.runtime.argument_types import positive
from screening.runtime.atomic_write import replacing_directory
from screening.runtime.cpus import usable_cpus
from trainer.runs.arguments import add_recipe, add_run_directory

if TYPE_CHECKING:
    from trainer.training.recipe.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_run_directory(parser)
    parser.add_argument(
        "--start",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoint whose weights and tokenizer are the start (default: random weights)",
    )
    parser.add_argument("--pool", type=Path, help="directory of the rendered pictures (default: OUT/pool)")
    parser.add_argument(
        "--workers",
        type=positive,
        default=usable_cpus(),
        help="number of rendering processes (default: usable CPUs)",
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="do not compile the model: start faster, but take 50 %% longer per step; compiling needs g++",
    )
    parser.add_argument(
        "--save-every",
        type=positive,
        default=250,
        metavar="STEPS",
        help="number of steps between saved states (default: 250)",
    )


def run(args: argparse.Namespace) -> int:
    from screening.checkpoint.directory import verify
    from trainer.runs.run_directory import claim, occupy
    from trainer.training.recipe.recipe import RecipeError, load_recipe

    recipe = load_recipe(args.recipe)
    if recipe.pretrain is None or recipe.architecture is None:
        raise RecipeError(
            f"recipe {recipe.name!r} starts from {recipe.base} and has no pretraining; choose another recipe"
        )
    if recipe.pretrain.see is None and args.start is None:
        raise RecipeError(f"recipe {recipe.name!r} starts from a checkpoint; name it with --start")
    parent = verify(args.start) if args.start else None
    if args.start:
        check_questions(recipe, args.start)
    deciding = {"name", "prompt", "tiles", "architecture", "pretrain", "max_tokens_cot"}
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None and not args.no_compile:
        print("no C++ compiler (g++) found: each step takes 50 % longer", file=sys.stderr)
    compiled = compiler is not None and not args.no_compile
    origin = {
        "stage": "pretrain",
        "recipe": recipe.model_dump(mode="json", include=deciding),
        "compiled": compiled,
        "number_format": _number_format(),
    }
    claim(args.out, origin | ({"start": parent.digest} if parent else {}))
    occupy(args.out)
    pretraining = Pretraining(recipe, args.out, args.pool or args.out / "pool", args.workers, compiled, args.start)
    pretraining.run(args.save_every)
    return 0


def check_questions(recipe: Recipe, tokenizer: Path) -> None:
    """Check the recipe's prompt with the tokenizer in a directory.

    Raises:
        RecipeError: see `trainer.training.import_base.check_prompt`.
    """
    from transformers import PreTrainedTokenizerFast

    from trainer.training.import_base import check_prompt

    assert recipe.architecture is not None
    per_picture = recipe.most_tiles * recipe.architecture.tokens_per_picture
    loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    check_prompt(loaded, recipe, per_picture, recipe.architecture.max_positions)


def _number_format() -> str:
    import torch

    from trainer.training.number_format import pretraining_computes_in

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return str(pretraining_computes_in(device)).removeprefix("torch.")


class Pretraining:
    """One run: pool, tokenizer, model, stages, export."""

    def __init__(
        self, recipe: Recipe, out: Path, pool_dir: Path, workers: int, compiled: bool, start: Path | None = None
    ) -> None:
        import torch

        from screening.checkpoint.manifest import ImageContract
        from trainer.research.pretrain.batches import Batcher
        from trainer.research.pretrain.pool import Pool, PoolSpec, load_or_render
        from trainer.research.pretrain.questions import AnswerSheet, Questionnaire
        from trainer.research.pretrain.scaffold import Scaffold
        from trainer.research.pretrain.stages import Workshop
        from trainer.research.pretrain.tasks import Tasks
        from trainer.training.architecture import build_model, build_processor, load_model

        assert recipe.pretrain is not None and recipe.architecture is not None
        self.recipe, self.settings, self.architecture, self.out = recipe, recipe.pretrain, recipe.architecture, out
        pool_settings = self.settings.pool.model_dump()
        held_out = pool_settings.pop("held_out")
        spec = PoolSpec(**pool_settings, size=self.architecture.image_size)
        pool = load_or_render(pool_dir, spec, workers)
        training, unseen = Pool(pool.pixels, pool.products[held_out:]), Pool(pool.pixels, pool.products[:held_out])
        self.start = start
        tokenizer = self._tokenizer(training)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        questionnaire = Questionnaire.of(training)
        torch.manual_seed(self.settings.seed)
        self.model = load_model(start, self.architecture) if start else build_model(self.architecture, tokenizer)
        # On a CPU, the backward pass of the fused attention kernel is slower than matrix products at these lengths.
        self.model.set_attn_implementation("sdpa" if device.type == "cuda" else "eager")
        if compiled:
            _compile(self.model)
        self.processor = build_processor(self.architecture, tokenizer, recipe.tiles)
        self.image = ImageContract(
            size=self.architecture.image_size,
            tokens_per_picture=self.architecture.tokens_per_picture,
            max_patches=recipe.tiles,
        )
        counts = self.settings.usable_counts
        self.shop = Workshop(
            scaffold=Scaffold(self.model, questionnaire).to(device),
            questionnaire=questionnaire,
            answers=AnswerSheet(questionnaire, pool),
            tokenizer=tokenizer,
            batcher=Batcher(pool.pixels, tokenizer, self.architecture.tokens_per_picture),
            training=Tasks(training, tokenizer, recipe.prompt_texts, usable_counts=counts),
            held_out=Tasks(unseen, tokenizer, recipe.prompt_texts, usable_counts=counts),
            jitter=self.settings.jitter,
            seed=self.settings.seed,
            device=device,
        )

    def run(self, save_every: int) -> None:
        """Run all stages and export the checkpoint.

        Raises:
            RecipeError: the weights are not finite at the end; no checkpoint is written.
        """
        from trainer.research.pretrain.loop import run_stage
        from trainer.research.pretrain.stages import Read, See, Speak, Stage

        settings = self.settings
        see = See(self.shop, settings.see) if settings.see else None
        read = Read(self.shop, settings.read)
        stages: list[Stage | None] = [see, read, Speak(self.shop, settings.speak, read)]
        for number, stage in enumerate(stages):
            if stage:
                run_stage(stage, number, self.out, save_every)
        self._export()

    def _tokenizer(self, pool: Any) -> Any:
        """Learn the vocabulary once per run. A continued run and a later recipe must use the same one."""
        from transformers import PreTrainedTokenizerFast

        from trainer.research.pretrain.tokenizer import train_tokenizer
        from trainer.research.pretrain.vocabulary import fixed_texts

        directory = self.start or self.out / "tokenizer"
        if not directory.exists():
            texts = [*pool.texts(), *fixed_texts(self.recipe.prompt_texts)]
            tokenizer = train_tokenizer(texts, self.settings.vocabulary)
            with replacing_directory(directory) as temporary:
                tokenizer.save_pretrained(temporary)
        if not self.start:  # otherwise checked before the run directory was claimed
            check_questions(self.recipe, directory)
        return PreTrainedTokenizerFast.from_pretrained(directory)

    def _export(self) -> None:
        import torch

        from screening.checkpoint.manifest import Decoding, read_manifest
        from trainer.data.render.defects import DIMENSION_WEIGHTS
        from trainer.training.export import able_to_locate, export, with_stage
        from trainer.training.recipe.recipe import RecipeError

        if not all(torch.isfinite(tensor).all() for tensor in self.model.state_dict().values()):
            raise RecipeError("the pretraining diverged: weights are not finite; lower learning_rate")

        parent = read_manifest(self.start) if self.start else None
        prompt, decoding = self.recipe.prompt_texts, Decoding(max_tokens_cot=self.recipe.max_tokens_cot)
        locating = self.settings.locates
        contract = able_to_locate(prompt, decoding) if locating else {"prompt": prompt, "decoding": decoding}
        stage = f"pretrain {self.recipe.name}" if parent else "pretrain"
        export(
            self.out / "checkpoint",
            self.model,
            self.processor,
            name=parent.name if parent else self.recipe.name,
            version="pretrained",
            parent=parent.digest if parent else None,
            dimensions=parent.dimensions if parent else tuple(DIMENSION_WEIGHTS),
            image=self.image,
            data=with_stage(parent.data if parent else {}, stage, self.settings.pool.model_dump(mode="json")),
            recipe=self.recipe.model_dump(mode="json"),
            **contract,
        )
        print(f"checkpoint: {self.out / 'checkpoint'}")


def _compile(model: Any) -> None:
    """Compile the expensive parts, which reduces the time of a step by a third."""
    model.model.vision_tower.compile()
    for layer in model.model.language_model.layers:
        layer.compile()
