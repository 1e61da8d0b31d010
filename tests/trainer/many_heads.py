"""A model of random weights whose attention has what the smallest one lacks: several heads, fewer for keys, layers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, InternVLForConditionalGeneration, PreTrainedModel


def build(small_checkpoint: Path) -> PreTrainedModel:
    """The small checkpoint with 2 layers of 4 heads, 2 of them for keys and values."""
    config = AutoConfig.from_pretrained(small_checkpoint)
    text = config.text_config
    text.hidden_size, text.head_dim, text.num_attention_heads, text.num_key_value_heads = 64, 16, 4, 2
    text.num_hidden_layers, text.layer_types = 2, ["full_attention"] * 2
    torch.manual_seed(0)
    return InternVLForConditionalGeneration(config).eval()
