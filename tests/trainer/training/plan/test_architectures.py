"""Base models that `plan` refuses."""

from __future__ import annotations

import pytest

from tests.trainer.training.plan.model_2b import with_base
from trainer.training.plan.architectures import PlanError, find_model
from trainer.training.plan.tokens import load_tokenizer


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "model of type None"),
        ('{"model_type": "internvl_chat"}', "not 'internvl'"),
        ('{"model_type": "internvl", "text_config": {"model_type": "llama"}}', "not 'qwen2'"),
        ('{"model_type": "internvl", "text_config": {"hidden_size": "wide"}}', "not a configuration"),
    ],
)
def test_a_base_of_another_architecture_is_refused(config, expected, tmp_path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(PlanError, match=expected):
        find_model(with_base(tmp_path))


def test_an_unknown_hub_name_is_refused_with_what_is_known() -> None:
    with pytest.raises(PlanError, match="Download the model"):
        find_model(with_base("OpenGVLab/InternVL3-8B-hf"))


def test_a_damaged_tokenizer_is_refused(tmp_path) -> None:
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PlanError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
