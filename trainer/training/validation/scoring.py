"""Scores a model in training: it answers the validation samples greedily, and the metric of `evaluate` judges them.

The answers come from the training's own process. They differ from those of `evaluate` only by rounding, and where the
checkpoint asks for a grammar, which is not applied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, is_peft_model

from screening.answer import Unreadable, parse
from screening.checkpoint.manifest import Manifest
from screening.inference.generation import Spelling, prompt_text
from trainer.data_directory import read_picture
from trainer.judged import Judged
from trainer.metrics import score
from trainer.records import Sample
from trainer.shares import share
from trainer.training.efficiency import masked_attention
from trainer.training.hcm_grpo.rollout import Sampling, roll_out
from trainer.training.sharding import whole_weights
from trainer.training.validation.data import Validation
from trainer.training.validation.rule import SCORE

UNREADABLE = "validation/unreadable"
"""Name of the share of unreadable answers in the log, in percent."""
GREEDY = Sampling(top_k=1)


class Scorer:
    """Asks a model the validation samples. Several processes share them."""

    def __init__(self, validation: Validation, manifest: Manifest, processor: Any, *, batch: int) -> None:
        """
        Args:
            manifest: of the checkpoint that the training starts from.
            processor: a processor of its own, whose state the training does not share.
            batch: number of questions that a process asks at once.
        """
        self.validation = validation
        self._manifest, self._processor, self._batch = manifest, processor, batch
        self._mode = validation.mode
        self._prompt = prompt_text(processor.tokenizer, manifest.prompt, validation.mode)
        self._spelling = Spelling(processor.tokenizer)

    def score(self, model: Any, accelerator: Accelerator) -> dict[str, float]:
        """Score a model, which is in evaluation mode and is not changed. Draws no random numbers.

        Args:
            model: the whole model, not wrapped for several processes.

        Returns:
            Percentages by their names in the log, the same in every process.
        """
        numbered = list(enumerate(self.validation.samples))
        own = numbered[accelerator.process_index :: accelerator.num_processes]
        answers: list[tuple[int, str]] = []
        with whole_weights(model):
            for start in range(0, len(own), self._batch):
                part = own[start : start + self._batch]
                texts = self._answers(model, [sample for _, sample in part], accelerator)
                answers += [(number, text) for (number, _), text in zip(part, texts, strict=True)]
        texts = [text for _, text in sorted(gather_object(answers))]
        return self._judge(texts)

    def _judge(self, texts: Sequence[str]) -> dict[str, float]:
        results = [parse(text, self._mode, self._manifest.dimensions) for text in texts]
        judged = [Judged(sample, found) for sample, found in zip(self.validation.samples, results, strict=True)]
        unreadable = share(sum(isinstance(found, Unreadable) for found in results), len(results))
        return {SCORE: score(judged).correct.percent or 0.0, UNREADABLE: unreadable.percent or 0.0}

    def _answers(self, model: Any, samples: Sequence[Sample], accelerator: Accelerator) -> list[str]:
        # As for rollouts: adapters are in float32 and the frozen weights are not.
        with accelerator.autocast() if is_peft_model(model) else nullcontext(), masked_attention(model):
            completions = roll_out(
                model,
                self._questions(samples, accelerator.device),
                group_size=1,
                sampling=GREEDY,
                max_tokens=self._manifest.decoding.max_tokens(self._mode),
                ends=self._ends(model),
            )
        return [self._spelling.text(tokens) for tokens in completions]

    def _questions(self, samples: Sequence[Sample], device: torch.device) -> dict[str, torch.Tensor]:
        image, directory = self._manifest.image, self.validation.directory
        pictures = [[read_picture(directory, file, image) for file in sample.files] for sample in samples]
        text = [self._prompt] * len(samples)
        made = self._processor(text=text, images=pictures, padding=True, padding_side="left", return_tensors="pt")
        return {name: made[name].to(device) for name in ("input_ids", "attention_mask", "pixel_values")}

    def _ends(self, model: Any) -> set[int]:
        ends = model.generation_config.eos_token_id
        return {self._processor.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
