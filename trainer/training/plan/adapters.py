"""Computes what a stage with LoRA holds on a GPU: frozen weights, adapters, and the activations that adapters need.

Frozen weights are in bfloat16, 2 bytes each. With 4 bits, the matrices of the language model's layers take half a byte
per weight, and for each block of 64 weights one byte and 1/256 of a float32 (NF4 with double quantization; Dettmers et
al. 2023, section 3). Trained weights are in float32 with gradients and AdamW's moments, and autocast copies them to
bfloat16: 4 + 4 + 8 + 2 bytes (see `optimizer` for moments in 8 bits). The reference is the same model without adapters.

A frozen layer needs no input in the backward pass, and the residual stream is in bfloat16. So a layer keeps fewer bytes
per token than in full fine-tuning (compare `memory`), and each adapter adds its input and A's output:

    Qwen2 layer        8 h + 8 d + 6 m + 4 a + 8 + 2 s
    InternViT layer    8 h + 8 d + 2 m + 4 a + 16, of which 4 h + 8 only on a GPU, where autocast norms in float32
    projector          4 c + 2 h + 8 per image token
    adapter            2 x (inputs + rank); with dropout 4 x inputs more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.training.lora.layers import VISION_PREFIXES, adapted_layers
from trainer.training.plan.optimizer import TITLES, state_bytes
from trainer.training.plan.parameters import Layer, Parameters, Part
from trainer.training.plan.shapes import Shapes
from trainer.training.recipe.stages import FLASH, LoraRecipe

NF4_BYTES = 1 / 2 + (1 + 4 / 256) / 64
"""Bytes per weight in 4 bits."""
FLOAT32 = 4
BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a stage, and what else of the model it trains."""

    lora: LoraRecipe
    parameters: Parameters
    layers: tuple[Layer, ...]
    """Layers that have an adapter."""

    @property
    def size(self) -> int:
        """Parameters of all adapters."""
        return self.size_in("")

    @property
    def in_full(self) -> int:
        """Parameters of the parts that are trained in full."""
        return sum(part.total for part in self.parts_in_full)

    @property
    def parts_in_full(self) -> list[Part]:
        """Parts that are trained in full."""
        return [part for part in self.parameters.parts if part.name in self.lora.in_full]

    @property
    def matrices(self) -> list[int]:
        """Parameters of each adapter's A and B."""
        return [self.lora.rank * side for layer in self.layers for side in (layer.inputs, layer.outputs)]

    @property
    def trained(self) -> int:
        return self.size + self.in_full

    def size_in(self, prefix: str) -> int:
        """Parameters of the adapters of layers whose names begin so: A has rank x inputs, B outputs x rank."""
        found = (layer for layer in self.layers if layer.name.startswith(prefix))
        return self.lora.rank * sum(layer.inputs + layer.outputs for layer in found)

    def held(self, gpus: int, optimizer: str = "adamw") -> Mapping[str, int]:
        """Bytes that do not depend on the batch, by use.

        Args:
            optimizer: the stage's optimizer, by its name in the recipe.
        """
        total = self.parameters.total
        quantized = sum(part.matrices for part in self.parameters.parts if part.name == "language_model")
        quantized *= self.lora.bits == 4
        frozen = BFLOAT16 * (total - quantized) + round(NF4_BYTES * quantized)
        sizes = {f"frozen weights ({self.lora.bits} bits)": frozen}
        sizes["adapters"] = FLOAT32 * self.size
        if self.in_full:
            sizes["parts trained in full"] = FLOAT32 * self.in_full
        sizes["gradients"] = FLOAT32 * self.trained
        sizes[TITLES[optimizer]] = state_bytes(optimizer, self.parts_in_full, self.matrices)
        sizes["bfloat16 copies"] = BFLOAT16 * self.trained
        if gpus > 1:
            sizes["gradient buckets"] = FLOAT32 * self.trained
        return sizes

    def inputs_bytes(self, prefix: str) -> int:
        """Bytes per token that the adapters of all layers whose names begin so keep for the backward pass."""
        found = [layer for layer in self.layers if layer.name.startswith(prefix)]
        dropped = FLOAT32 * sum(layer.inputs for layer in found) if self.lora.dropout else 0
        return BFLOAT16 * sum(layer.inputs + self.lora.rank for layer in found) + dropped

    @property
    def residual(self) -> int:
        """Bytes per value of the language model's residual stream, which has the type of the embeddings."""
        return FLOAT32 if "embeddings" in self.lora.in_full else BFLOAT16

    def text_activations(
        self, shapes: Shapes, sequences: int, length: int, *, checkpointing: bool, attention: str = "sdpa"
    ) -> int:
        """Bytes that the language model keeps for the backward pass, without the head."""
        tokens, text, mask = sequences * length, shapes.text, 0 if attention == FLASH else length
        norm = 2 * self.residual * text.width + 4
        attended = 8 * text.heads * text.head_dim + 4 * text.heads + 2 * mask
        layer = 2 * norm + attended + 6 * text.mlp + self.inputs_bytes("model.language_model.") // text.number
        stack = text.number * self.residual * text.width + layer if checkpointing else text.number * layer
        return tokens * (norm + stack)

    def vision_activations(self, shapes: Shapes, tiles: int, *, checkpointing: bool) -> int:
        """Bytes that ViT and projector keep for the backward pass."""
        vision, tower, projector = shapes.vision, *VISION_PREFIXES
        layer = 8 * vision.width + 8 * vision.heads * vision.head_dim + 2 * vision.mlp + 4 * vision.heads + 16
        layer += self.inputs_bytes(tower) // vision.number
        stack = vision.number * BFLOAT16 * vision.width + layer if checkpointing else vision.number * layer
        image_token = 4 * shapes.folded_width + 2 * shapes.text.width + 8 + self.inputs_bytes(projector)
        return tiles * (shapes.vision_length * stack + shapes.tokens_per_picture * image_token)


def find_adapters(parameters: Parameters, lora: LoraRecipe, *, vision: bool) -> Adapters:
    """The adapters of a stage.

    Raises:
        RecipeError: a target matches no layer.
    """
    names = set(adapted_layers((layer.name for layer in parameters.layers), lora, vision=vision))
    return Adapters(lora, parameters, tuple(layer for layer in parameters.layers if layer.name in names))
