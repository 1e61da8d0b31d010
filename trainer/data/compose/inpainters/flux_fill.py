"""The inpainter `flux-fill`: FLUX.1-Fill, steered by FLUX.1-Redux on the reference (paper, section 3.1, figure 2)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from PIL import Image

from trainer.data.compose.canvas import Canvas
from trainer.data.compose.extra import need
from trainer.data.compose.inpainters.pipelines import generator, load, memory_errors
from trainer.data.compose.licences import FLUX_DEV, Licence
from trainer.data.compose.model_options import ModelOptions
from trainer.data.compose.weights import check_weights, weights_digest

_TEXT_TOKENS = 512
"""Length of FLUX's text prompt. Redux puts its picture tokens behind a prompt of zeros."""


class FluxFill:
    """Paints the white part of the diptych's mask."""

    name = "flux-fill"
    licence: Licence = FLUX_DEV
    stand_in = False
    sides = range(256, 1537, 16)

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._steps = options.steps or 50
        self._guidance = 30.0 if options.guidance is None else options.guidance

    @cached_property
    def identity(self) -> str:
        fill = check_weights(self._options.weights, "--weights", "FluxFillPipeline")
        redux = check_weights(self._options.redux, "--redux", "FluxPriorReduxPipeline")
        weights = f"fill {weights_digest(fill)}, redux {weights_digest(redux)}"
        return f"flux-fill 1, {self._steps} steps, guidance {self._guidance:g}, {weights}"

    @cached_property
    def _fill(self) -> Any:
        folder = check_weights(self._options.weights, "--weights", "FluxFillPipeline")
        unused = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        return load("FluxFillPipeline", folder, self._options, **unused)

    @cached_property
    def _redux(self) -> Any:
        folder = check_weights(self._options.redux, "--redux", "FluxPriorReduxPipeline")
        unused = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        return load("FluxPriorReduxPipeline", folder, self._options, **unused)

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        """Paint the diptych in one call of one picture, and return its right half.

        Raises:
            ComposeError: the weights cannot be loaded.
            MemoryError: they do not fit into memory.
        """
        side = canvas.side
        with memory_errors():
            painted = self._fill(
                image=canvas.initial,
                mask_image=canvas.mask,
                height=side,  # without both, diffusers squashes the diptych to a square
                width=2 * side,
                num_inference_steps=self._steps,
                guidance_scale=self._guidance,
                generator=generator(seed),
                **self._prompt(canvas.reference),
            ).images[0]
        right: Image.Image = painted.crop((side, 0, 2 * side, side))
        return right

    def _prompt(self, reference: Image.Image) -> dict[str, Any]:
        """The reference as a prompt: zeros in place of text, then Redux's tokens of the picture.

        This is what `FluxPriorReduxPipeline.__call__` does without text encoders, except that the widths are those of
        the loaded model and not constants.
        """
        torch, widths = need("torch"), self._fill.transformer.config
        with torch.no_grad():
            seen = self._redux.encode_image(reference, self._redux._execution_device, 1)
            tokens = self._redux.image_embedder(seen).image_embeds
        text = tokens.new_zeros((1, _TEXT_TOKENS, widths.joint_attention_dim))
        self._redux.maybe_free_model_hooks()
        return {
            "prompt_embeds": torch.cat([text, tokens], dim=1),
            "pooled_prompt_embeds": tokens.new_zeros((1, widths.pooled_projection_dim)),
        }
