"""Convert examples to the same tensors as the model's own processor, but faster.

A test compares the result with that of `InternVLProcessor`, token for token and pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from trainer.research.pretrain.tasks import Example
from trainer.training.architecture import IMAGE_MEAN, IMAGE_STD

IGNORED = -100
"""Label of tokens without loss: prompt, pictures, padding."""


class PixelBatcher:
    """Converts rows of the pool to normalised pixels."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self._mean = torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1) * 255
        self._scale = torch.tensor(IMAGE_STD).view(1, 3, 1, 1) * 255

    def __call__(self, rows: Sequence[int], shifts: np.ndarray | None = None) -> torch.Tensor:
        """Pixels (pictures, 3, side, side).

        Args:
            shifts: how far each picture moves up and to the left, in pixels, (pictures, 2); the edge is repeated.
        """
        pixels = np.stack([self._pixels[row] for row in rows]) if shifts is None else self._shifted(rows, shifts)
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - self._mean) / self._scale

    def _shifted(self, rows: Sequence[int], shifts: np.ndarray) -> np.ndarray:
        size = self._pixels.shape[1]
        places = np.clip(np.arange(size) + shifts[..., None], 0, size - 1)
        return np.stack([self._pixels[row].take(y, 0).take(x, 1) for row, (y, x) in zip(rows, places, strict=True)])


def draw_shifts(rng: np.random.Generator, pictures: int, jitter: int) -> np.ndarray:
    """Shifts of at most `jitter` pixels up or down and left or right, (pictures, 2)."""
    return rng.integers(-jitter, jitter + 1, (pictures, 2))


class Batcher:
    """Converts examples with the same number of pictures to model inputs."""

    def __init__(self, pixels: np.ndarray, tokenizer: PreTrainedTokenizerFast, tokens_per_picture: int) -> None:
        self.pixels = PixelBatcher(pixels)
        self.side = pixels.shape[1]
        self._tokenizer = tokenizer
        self._picture = "<img>" + "<IMG_CONTEXT>" * tokens_per_picture + "</img>"
        self._prompt_ids: dict[str, list[int]] = {}

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Model inputs: input_ids and labels (batch, tokens), pixel_values (batch x pictures, 3, side, side).

        Sequences are padded on the right without an attention mask, because under causal attention no later token
        affects an earlier one.
        """
        sequences = [self._tokens(example) for example in examples]
        length = max(len(prompt) + len(target) for prompt, target in sequences)
        input_ids = torch.full((len(sequences), length), self._tokenizer.pad_token_id)
        labels = torch.full((len(sequences), length), IGNORED)
        for row, (prompt, target) in enumerate(sequences):
            ids = torch.tensor(prompt + target)
            input_ids[row, : len(ids)] = ids
            labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]
        rows = [shot.row for example in examples for shot in example.shots]
        return {
            "input_ids": input_ids,
            "labels": labels,
            "pixel_values": self.pixels(rows),
        }

    def _tokens(self, example: Example) -> tuple[list[int], list[int]]:
        target = self._tokenizer.encode(example.target, add_special_tokens=False)
        return self.prompt_ids(example.prompt), [*target, self._tokenizer.eos_token_id]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt with one placeholder per picture."""
        if prompt not in self._prompt_ids:
            text = prompt.replace("<IMG_CONTEXT>", self._picture)
            self._prompt_ids[prompt] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._prompt_ids[prompt]
