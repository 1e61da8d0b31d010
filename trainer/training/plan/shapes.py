"""The sizes of an architecture that decide lengths and memory, as plain integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import InternVLConfig


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of transformer layers."""

    number: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of an InternVL."""

    vision: Layers
    text: Layers
    image_size: int
    """Side of a tile, in pixels."""
    patches_per_side: int
    tokens_per_picture: int
    """Tokens of one tile in the prompt, after pixel shuffle."""
    vocabulary: int
    max_positions: int
    tiles: int = 1
    """Maximum number of tiles per picture, thumbnail included."""

    @property
    def most_tokens(self) -> int:
        """Maximum number of tokens of one picture in the prompt."""
        return self.tiles * self.tokens_per_picture

    @property
    def vision_length(self) -> int:
        """Number of positions in the ViT: patches and the class token."""
        return self.patches_per_side**2 + 1

    @property
    def folded_width(self) -> int:
        """Width of an image token after pixel shuffle, before the projector."""
        return self.vision.width * self.patches_per_side**2 // self.tokens_per_picture


def shapes_of(config: InternVLConfig, tiles: int = 1) -> Shapes:
    """Read the sizes from a configuration.

    Args:
        tiles: maximum number of tiles per picture, thumbnail included.
    """
    vision, text = config.vision_config, config.text_config
    side = vision.image_size[0] // vision.patch_size[0]
    text_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shapes(
        vision=Layers(
            vision.num_hidden_layers,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_attention_heads,
            vision.num_attention_heads,
            vision.hidden_size // vision.num_attention_heads,
        ),
        text=Layers(
            text.num_hidden_layers,
            text.hidden_size,
            text.intermediate_size,
            text.num_attention_heads,
            text.num_key_value_heads,
            text_head,
        ),
        image_size=vision.image_size[0],
        patches_per_side=side,
        tokens_per_picture=int(side * config.downsample_ratio) ** 2,
        vocabulary=text.vocab_size,
        max_positions=text.max_position_embeddings,
        tiles=tiles,
    )
