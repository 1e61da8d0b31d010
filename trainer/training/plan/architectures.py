"""Finds the configuration of the model that a recipe trains, without its weights."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.errors import UserError

if TYPE_CHECKING:
    from transformers import InternVLConfig

    from trainer.training.recipe.recipe import Recipe


class PlanError(UserError):
    """The architecture of the recipe's model cannot be found; the message says what to give."""


_INTERNVIT_300M: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "attention_bias": True,
    "use_qk_norm": False,
    "norm_type": "layer_norm",
    "image_size": [448, 448],
    "patch_size": [14, 14],
    "use_mean_pooling": True,
}


def _internvl3(**text: int) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "vision_config": _INTERNVIT_300M,
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151674,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
            **text,
        },
        "image_token_id": 151667,
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "OpenGVLab/InternVL3-1B-hf": _internvl3(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2
    ),
    "OpenGVLab/InternVL3-2B-hf": _internvl3(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2
    ),
}
"""Sizes from the models' public config.json: InternViT-300M-448px, and Qwen2.5-0.5B and -1.5B with InternVL's
vocabulary of 151,674, with embeddings and head untied. Their totals are the published 938 M and 2.09 B parameters."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model's configuration, its source in words, and its local directory if there is one."""

    config: InternVLConfig
    source: str
    directory: Path | None = None


def find_model(recipe: Recipe) -> Model:
    """Find the model that a recipe trains. Imports transformers.

    Raises:
        PlanError: `base` is neither a directory with an InternVL model nor one of `PUBLISHED`.
    """
    if recipe.base is None:
        return _from_scratch(recipe)
    directory = Path(recipe.base)
    if directory.is_dir():
        return Model(_read_config(directory), str(directory / "config.json"), directory)
    if recipe.base not in PUBLISHED:
        raise PlanError(
            f"{recipe.base!r} is not a directory, and its architecture is unknown (known are {', '.join(PUBLISHED)}). "
            "Download the model and give its directory as `base`"
        )
    return Model(read_values(PUBLISHED[recipe.base], recipe.base), f"published sizes of {recipe.base}")


def _from_scratch(recipe: Recipe) -> Model:
    import torch

    from trainer.training.architecture import build_model

    if recipe.architecture is None or recipe.pretrain is None:
        raise PlanError(f"recipe {recipe.name!r} has neither a `base` nor an `architecture` with `pretrain`")
    with torch.device("meta"):
        model = build_model(recipe.architecture, _Vocabulary(recipe.pretrain.vocabulary))
    return Model(model.config, f"architecture of recipe {recipe.name!r}")


class _Vocabulary:
    """Stands for a tokenizer that is not trained yet, of which only the size matters for the model."""

    eos_token_id = 2
    pad_token_id = 0

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def convert_tokens_to_ids(self, _: str) -> int:
        return 5


def _read_config(directory: Path) -> InternVLConfig:
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}). Give the directory of a model as `base`") from error
    except ValueError as error:
        raise PlanError(f"{path} is not JSON: {error}") from error
    return read_values(values, str(path))


def read_values(values: Any, where: str) -> InternVLConfig:
    """The configuration that the values of a config.json state.

    Args:
        where: source of the values, for messages.

    Raises:
        PlanError: they describe no InternVL with a Qwen2.
    """
    from transformers import InternVLConfig

    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "internvl":
        raise PlanError(
            f"{where} describes a model of type {kind!r}, not 'internvl'. The trainer needs the Hugging Face format "
            "(repositories whose name ends in -hf)"
        )
    try:
        config = InternVLConfig.from_dict(copy.deepcopy(values))  # `from_dict` changes nested dictionaries in place
    except Exception as error:  # transformers' validation raises many kinds of errors
        raise PlanError(f"{where} is not a configuration that transformers can read: {error}") from error
    if config.text_config.model_type != "qwen2":
        raise PlanError(f"{where} has a language model of type {config.text_config.model_type!r}, not 'qwen2'")
    return config
