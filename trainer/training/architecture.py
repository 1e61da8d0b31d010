"""The tiny checkpoint's architecture: InternVL3, small enough to train on two CPU cores.

Classes and file formats are those of `OpenGVLab/InternVL3-2B-hf`: an InternViT per picture, pixel shuffle (4 patches to
1 token), a two-layer projector, a Qwen2 language model. Embeddings are untied at both config levels, because vLLM's
in-place weight reload keeps an old tied head silently (upstream issue vllm #51665).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import InternVLForConditionalGeneration, InternVLProcessor, PreTrainedTokenizerFast

# ImageNet statistics, as in InternVL's own preprocessor_config.json.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Architecture(BaseModel):
    """Sizes of a small InternVL. Every head has 32 dimensions, the minimum of vLLM's CPU attention."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image_size: int = Field(default=128, gt=0)
    """Side of the square picture, in pixels."""
    patch_size: int = Field(default=16, gt=0)
    vision_width: int = Field(default=192, gt=0)
    vision_layers: int = Field(default=4, gt=0)
    text_width: int = Field(default=256, gt=0)
    text_layers: int = Field(default=4, gt=0)
    text_mlp: int = Field(default=704, gt=0)
    initializer_range: float = Field(default=0.07, gt=0, le=1)
    """Standard deviation of the initial weights. With 0.07, visual learning starts within 15k pictures; with
    transformers' default of 0.02 the model learned nothing visual within 50k."""
    max_positions: int = Field(default=1024, gt=0)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.vision_width % 32 or self.text_width % 32:
            raise ValueError("vision_width and text_width must be multiples of 32, the size of an attention head")
        if self.image_size % (2 * self.patch_size):
            raise ValueError(
                "image_size must be an even multiple of patch_size, because pixel shuffle merges patches two by two"
            )
        return self

    @property
    def tokens_per_picture(self) -> int:
        """Image tokens of one picture in the prompt, after pixel shuffle has halved both sides."""
        return (self.image_size // self.patch_size // 2) ** 2


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> InternVLForConditionalGeneration:
    """Build a model with random weights in float32. Seed torch before the call."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    a = architecture
    config = InternVLConfig(
        vision_config={
            "hidden_size": a.vision_width,
            "num_hidden_layers": a.vision_layers,
            "num_attention_heads": a.vision_width // 32,
            "intermediate_size": 4 * a.vision_width,
            "attention_bias": True,
            "image_size": [a.image_size, a.image_size],
            "patch_size": [a.patch_size, a.patch_size],
            "initializer_range": a.initializer_range,
            "layer_scale_init_value": 1.0,  # 0.1 is for 24 layers; with 4 it only slows learning down
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": a.text_width,
            "num_hidden_layers": a.text_layers,
            "num_attention_heads": a.text_width // 32,
            "num_key_value_heads": a.text_width // 32,
            "intermediate_size": a.text_mlp,
            "max_position_embeddings": a.max_positions,
            "initializer_range": a.initializer_range,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=a.tokens_per_picture,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        initializer_range=a.initializer_range,
    )
    model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def load_model(checkpoint: Path, architecture: Architecture) -> InternVLForConditionalGeneration:
    """Load the model of a checkpoint in float32.

    Raises:
        BaseModelError: the checkpoint holds adapters.
        CheckpointError: its sizes differ from the architecture's.
    """
    from transformers import InternVLForConditionalGeneration

    from screening.errors import CheckpointError
    from trainer.training.base_source import refuse_adapters

    refuse_adapters(checkpoint)
    model = InternVLForConditionalGeneration.from_pretrained(checkpoint, dtype="float32")
    vision, text = model.config.vision_config, model.config.text_config
    found = {
        "image_size": list(vision.image_size),
        "patch_size": list(vision.patch_size),
        "vision_width": vision.hidden_size,
        "vision_layers": vision.num_hidden_layers,
        "text_width": text.hidden_size,
        "text_layers": text.num_hidden_layers,
        "text_mlp": text.intermediate_size,
        "max_positions": text.max_position_embeddings,
    }
    for field, size in found.items():
        wanted = getattr(architecture, field)
        if isinstance(size, list):  # height and width
            wanted = [wanted, wanted]
        if size != wanted:
            raise CheckpointError(
                f"{checkpoint} does not have the sizes of the recipe's architecture: {field} is {size}, not {wanted}"
            )
    return model


def build_processor(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, tiles: int = 1
) -> InternVLProcessor:
    """Build the model's processor.

    Args:
        tiles: maximum number of tiles per picture.
    """
    from transformers import InternVLProcessor, InternVLVideoProcessor
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    side = {"height": architecture.image_size, "width": architecture.image_size}
    image_processor = GotOcr2ImageProcessor(
        size=side,
        crop_to_patches=tiles > 1,
        min_patches=1,
        max_patches=tiles,  # decides: InternVLProcessor tiles by default and ignores crop_to_patches in its file
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
        do_convert_rgb=True,
    )
    return InternVLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=architecture.tokens_per_picture,
        chat_template=tokenizer.chat_template,
    )
