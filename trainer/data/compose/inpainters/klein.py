"""The inpainter `klein`: FLUX.2-klein repaints the canvas with the reference as a second picture.

klein-4B is Apache-2.0. The larger klein models are non-commercial; they are told apart by the width of their prompt.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from PIL import Image

from trainer.data.compose.canvas import Canvas
from trainer.data.compose.inpainters.pipelines import generator, load, memory_errors
from trainer.data.compose.licences import FLUX_2, OWN, Licence
from trainer.data.compose.model_options import ModelOptions
from trainer.data.compose.weights import check_weights, read_json, weights_digest

_PIPELINE = "Flux2KleinInpaintPipeline"
_PROMPT_WIDTH_4B = 7680
"""`joint_attention_dim` of klein-4B: three layers of Qwen3-4B, each 2560 wide."""
_PROMPT = (
    "A product photo. The product stands on a surface in the scene of the reference picture, unchanged, with a natural "
    "contact shadow. Nothing else is added."
)


class Klein:
    """Paints everything but the product, in the manner of the reference."""

    name = "klein"
    stand_in = False
    sides = range(256, 1025, 16)  # the pipeline scales larger pictures down

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._steps = options.steps or 4
        self._guidance = 1.0 if options.guidance is None else options.guidance
        self._prompt = options.prompt or _PROMPT

    @cached_property
    def licence(self) -> Licence:
        """Apache-2.0 for klein-4B, otherwise the non-commercial one."""
        folder = check_weights(self._options.weights, "--weights", _PIPELINE)
        width = read_json(folder / "transformer" / "config.json").get("joint_attention_dim")
        return OWN if isinstance(width, int) and width <= _PROMPT_WIDTH_4B else FLUX_2

    @cached_property
    def identity(self) -> str:
        folder = check_weights(self._options.weights, "--weights", _PIPELINE)
        settings = f"{self._steps} steps, guidance {self._guidance:g}, prompt {self._prompt!r}"
        return f"klein 1, {settings}, {weights_digest(folder)}"

    @cached_property
    def _pipeline(self) -> Any:
        return load(_PIPELINE, check_weights(self._options.weights, "--weights", _PIPELINE), self._options)

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        """Paint one picture.

        Raises:
            ComposeError: the weights cannot be loaded.
            MemoryError: they do not fit into memory.
        """
        with memory_errors():
            painted: Image.Image = self._pipeline(
                prompt=self._prompt,
                image=canvas.placeholder,
                image_reference=canvas.reference,
                mask_image=canvas.hole,
                height=canvas.side,
                width=canvas.side,
                strength=1.0,  # the canvas is white: nothing of it is to be seen
                num_inference_steps=self._steps,
                guidance_scale=self._guidance,
                generator=generator(seed),
            ).images[0]
        return painted
