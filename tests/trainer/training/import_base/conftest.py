"""A downloaded base model and a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.trainer.training.import_base.base_files import WEIGHTS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """The small model as a base model: tied, tiling, and with an end token that the chat template does not write."""
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    directory = tmp_path_factory.mktemp("hub") / "base"
    model = InternVLForConditionalGeneration.from_pretrained(small_checkpoint)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(directory)
    processor = AutoProcessor.from_pretrained(small_checkpoint)
    processor.image_processor.crop_to_patches, processor.image_processor.max_patches = True, 12
    processor.tokenizer.eos_token = processor.tokenizer.unk_token or "<unk>"
    processor.save_pretrained(directory)
    assert "lm_head.weight" not in load_file(directory / WEIGHTS)
    return directory


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    stage = {"learning_rate": 0.001, "batch_size": 2, "epochs": 1, "captions": False}
    settings = {"name": "from-base", "base": "Someone/Base-hf", "prompt": "standard", "max_tokens_cot": 99}
    path = tmp_path / "from-base.yaml"
    path.write_text(yaml.safe_dump({**settings, "sft_weak": stage, "sft_answer": stage}))
    return str(path)
