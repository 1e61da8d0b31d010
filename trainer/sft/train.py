"""One SFT stage, read top to bottom: check, data, model, TRL, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from trl import SFTConfig, SFTTrainer

from screening.checkpoint import Manifest, verify
from trainer.export import export
from trainer.recipe import load_recipe
from trainer.records import data_digest, read_samples
from trainer.run_directory import claim
from trainer.sft.rows import caption_rows, dataset, screening_rows


class StrictResumeTrainer(SFTTrainer):
    """SFTTrainer that resumes from the weights it saved.

    transformers saves keys in hub format and loads them with `strict=False` on resume, so that a resumed run silently
    goes on from the initial weights.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        target = model if model is not None else self.model
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict(), strict=True)


def train(stage: str, recipe_name: str, checkpoint: Path, data: Path, out: Path, limit: int | None) -> Manifest:
    """Train one stage and write OUT/checkpoint. A killed run with the same settings is continued.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        RunMismatch: OUT holds a run with other settings.
    """
    recipe = load_recipe(recipe_name)
    settings = recipe.sft_weak if stage == "weak" else recipe.sft_answer
    manifest = verify(checkpoint)
    samples = read_samples(data)
    origin = {
        "stage": f"sft-{stage}",
        "settings": settings.model_dump(),
        "parent": manifest.digest,
        "data": data_digest(data, samples),
        "limit": limit,
    }
    claim(out, origin)

    used = samples[:limit]
    rows = screening_rows(used, manifest.prompt, direct_share=settings.direct_share, seed=settings.seed)
    if settings.captions:
        rows += caption_rows(used)
    table = dataset(rows, data, manifest.image.size)

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    freeze_vision(model)

    trainer = StrictResumeTrainer(
        model=model,
        processing_class=processor,
        train_dataset=table,
        args=SFTConfig(
            output_dir=str(out / "trl"),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_ratio,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="cosine",
            max_length=None,  # the default of 1024 cuts image tokens or whole answers without a word
            completion_only_loss=True,
            bf16=True,
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            save_strategy="steps",
            save_steps=200,
            save_total_limit=1,
            logging_steps=10,
            report_to="none",
            seed=settings.seed,
            data_seed=settings.seed,
            dataloader_num_workers=1,
            dataloader_persistent_workers=True,
        ),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "trl"))
    (out / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return export(
        out / "checkpoint",
        model,
        processor,
        name=manifest.name,
        version=f"sft-{stage}",
        base=manifest.base,
        parent=manifest.digest,
        prompt=manifest.prompt,
        image=manifest.image,
        decoding=manifest.decoding,
        data={**manifest.data, f"sft-{stage}": {"digest": origin["data"], "samples": len(used)}},
        recipe=recipe.model_dump(mode="json"),
    )


def freeze_vision(model: PreTrainedModel) -> None:
    """Freeze ViT and aligner (paper, table 2)."""
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.requires_grad_(False)


def last_whole_checkpoint(directory: Path) -> str | None:
    """The newest state of a killed run that was saved to its end; newer halves are removed.

    transformers writes a state in place, `trainer_state.json` last, and takes the newest directory as it is.
    """
    for path in sorted(directory.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None
