"""Models with adapters: which layers get one, what is trained, and what merging gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText

from screening.checkpoint.manifest import read_manifest
from screening.prompt import COMPACT
from tests.trainer.command_line import CHECKPOINT
from tests.trainer.contracts import SMALL
from trainer.data_directory import read_samples
from trainer.reward import reward_functions
from trainer.training.base_source import BaseModelError
from trainer.training.hcm_grpo.grpo_trainer import GroupGRPOTrainer
from trainer.training.hcm_grpo.train import build_trainer as build_stage_2
from trainer.training.lora.merged_weights import merged_weights
from trainer.training.lora.model import adapter_config, check_lora, load_for_training, merged
from trainer.training.number_format import computed_in
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, LoraRecipe, SftRecipe
from trainer.training.sft.rows import dataset, rollout_rows, screening_rows
from trainer.training.sft.train import build_trainer as build_sft

pytestmark = pytest.mark.slow

LORA = LoraRecipe(rank=4, alpha=8)
QLORA = LoraRecipe(rank=4, alpha=8, bits=4)


def sft_trainer(data: Path, checkpoint: Path, out: Path, lora: LoraRecipe, **settings: Any) -> Any:
    rows = screening_rows(read_samples(data), COMPACT, direct_share=0, seed=0)
    given = {"learning_rate": 1e-3, "captions": False, "batch_size": 2, **settings}
    return build_sft(
        checkpoint, dataset(rows, data, read_manifest(checkpoint).image), SftRecipe(**given, lora=lora), out
    )


def stage_2_trainer(data: Path, checkpoint: Path, out: Path, lora: LoraRecipe, **settings: Any) -> GroupGRPOTrainer:
    samples = read_samples(data)
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    given = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8, **settings}
    recipe = HcmGrpoRecipe(**{"gradient_checkpointing": False, **given}, lora=lora)
    return build_stage_2(checkpoint, dataset(rollout_rows(samples, COMPACT), data, SMALL), rewards, recipe, out)


def disturb(model: Any) -> None:
    """Give the adapters values, as training does: B of a new adapter is zero."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)


def trained(model: Any) -> set[str]:
    return {name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad}


def compute_step(trainer: GroupGRPOTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate completions, give them rewards, and compute the gradients."""
    earned = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *_: earned)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())), None)


@pytest.mark.parametrize("lora", [LORA, QLORA], ids=["16 bits", "4 bits"])
def test_sft_trains_adapters_of_the_language_model_alone_in_float32(
    lora: LoraRecipe, small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    model = sft_trainer(small_data, small_checkpoint, tmp_path, lora).model
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained(model)} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert all(name.startswith("model.language_model.layers.0.") for name in trained(model))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    held = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    quantized = {name for name, p in held.items() if p.dtype is torch.uint8}
    assert all(p.dtype is computed_in() for name, p in held.items() if name not in quantized)
    assert len(quantized) == (7 if lora.bits == 4 else 0), "the matrices of the language model's one layer"
    assert all("language_model" in name for name in quantized)


def test_stage_two_gives_vit_and_projector_adapters_too(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    names = trained(stage_2_trainer(small_data, small_checkpoint, tmp_path, LORA).model)
    for part in ("vision_tower", "multi_modal_projector", "language_model"):
        assert any(f"model.{part}." in name for name in names), part
    assert not any("lm_head" in name or "embed" in name for name in names)


def test_parts_that_the_recipe_names_are_trained_in_full(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LoraRecipe(rank=4, alpha=8, in_full=["projector", "embeddings", "head"])
    trainer = stage_2_trainer(small_data, small_checkpoint, tmp_path, lora)
    full = {name for name in trained(trainer.model) if "lora_" not in name}
    assert {name.partition(".modules_to_save.default")[0] for name in full} == {
        *("model.multi_modal_projector", "model.language_model.embed_tokens", "lm_head")
    }
    assert not any("lora_" in name and "projector" in name for name in trained(trainer.model))
    disturb(trainer.model)
    compute_step(trainer, monkeypatch)
    gradients = {name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(any(part in name for name in gradients) for part in ("lm_head", "embed_tokens", "projector"))
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.5
    before = load_for_training(small_checkpoint, None).state_dict()
    after = merged(trainer.model, small_checkpoint).state_dict()
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        assert torch.allclose(after[name], before[name] + 0.5, atol=1e-6)


def test_targets_are_the_last_parts_of_names(small_data: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    lora = LoraRecipe(rank=2, alpha=4, target=["self_attn.q_proj", "down_proj"])
    names = trained(sft_trainer(small_data, small_checkpoint, tmp_path, lora).model)
    assert {name.split(".lora_")[0].partition("layers.0.")[2] for name in names} == {
        *("self_attn.q_proj", "mlp.down_proj")
    }


@pytest.mark.parametrize("target", ["nothing", "proj", "lm_head", "embed_tokens", "fc1"])
def test_a_target_that_the_stage_does_not_train_is_refused(target: str, small_checkpoint: Path) -> None:
    lora = LoraRecipe(rank=2, alpha=4, target=["q_proj", target])
    with pytest.raises(RecipeError, match=f"'{target}' names no linear layer .* Choose among q_proj, k_proj"):
        check_lora(small_checkpoint, lora, vision=False)


@pytest.mark.parametrize("lora", [None, LORA], ids=["in full", "adapters"])
def test_a_checkpoint_with_adapters_of_its_own_is_refused(
    lora: LoraRecipe | None, small_checkpoint: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(small_checkpoint, tmp_path / "adapted")
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"holds adapters .* Merge them"):
        check_lora(directory, lora, vision=False)


def test_with_four_bits_the_checkpoint_differs_little_from_the_trained_model(small_data: Path, tmp_path: Path) -> None:
    """On the shipped checkpoint, because in random weights 4 bits lose more than in trained ones.

    Adding the adapters to the quantized weights instead would undo the training: its changes are smaller than a step of
    4 bits.
    """
    settings = {"gradient_accumulation": 1, "epochs": 2, "learning_rate": 3e-3}
    lora = LoraRecipe(rank=8, alpha=16, bits=4)
    trainer = sft_trainer(small_data, CHECKPOINT, tmp_path, lora, **settings)
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))
    trained = log_probabilities(trainer.model, batch)
    with trainer.model.disable_adapter():
        moved = apart(trained, log_probabilities(trainer.model, batch))
    exported = log_probabilities(merged(trainer.model, CHECKPOINT), batch)
    with pytest.warns(UserWarning, match="4-bit"):
        requantized = log_probabilities(trainer.model.merge_and_unload(), batch)
    assert apart(trained, exported) < min(0.05, moved / 4)
    assert apart(trained, requantized) > 2 * apart(trained, exported)


def log_probabilities(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of the tokens of a batch's answers."""
    labels = batch["labels"][:, 1:]
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    model.eval()
    with torch.no_grad():
        logits = model(**given).logits[:, :-1].float()
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return found[labels >= 0]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root of the mean squared difference."""
    return float((one - other).square().mean().sqrt())


@pytest.mark.parametrize(
    "lora",
    [LORA, QLORA, LORA.model_copy(update={"in_full": ("head", "projector")})],
    ids=["16 bits", "4 bits", "head and projector in full"],
)
def test_an_engine_gets_the_weights_with_which_the_adapted_model_computes(
    lora: LoraRecipe, small_checkpoint: Path
) -> None:
    base = load_for_training(small_checkpoint, lora)
    adapted = get_peft_model(base, adapter_config(base, lora, vision=True))
    disturb(adapted)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter += 0.1
    held = {name: tensor.clone() for name, tensor in adapted.state_dict().items() if torch.is_tensor(tensor)}
    engine = AutoModelForImageTextToText.from_pretrained(small_checkpoint, dtype=torch.float32)
    sent = dict(merged_weights(adapted))
    assert sent.keys() == dict(engine.named_parameters()).keys()
    engine.load_state_dict(sent)

    length = base.config.image_seq_length
    ids = torch.full((1, length + 3), base.config.image_token_id)
    ids[0, length:] = torch.tensor([20, 30, 40])
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 64, 64)}
    adapted.eval()
    with torch.no_grad():
        expected = adapted(**given).logits.float()
        torch.testing.assert_close(engine(**given).logits, expected, rtol=1e-3, atol=1e-3)
        with adapted.disable_adapter():
            assert not torch.allclose(adapted(**given).logits.float(), expected, atol=1e-2)
    after = adapted.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in held.items()), "the model itself has not changed"


def test_merged_weights_answer_as_the_adapters_did(small_checkpoint: Path) -> None:
    """In float32, so that only the order of additions differs."""
    base = AutoModelForImageTextToText.from_pretrained(small_checkpoint, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = get_peft_model(base, adapter_config(base, LORA, vision=True))
    disturb(adapted)
    torch.manual_seed(1)
    ids = torch.randint(10, 100, (2, 12))
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 64, 64)}
    length = base.config.image_seq_length
    ids[0, :length] = ids.new_full((length,), base.config.image_token_id) if length <= 12 else ids[0]
    with torch.no_grad():
        expected = adapted(**given).logits
        plain = merged(adapted, small_checkpoint)
        assert torch.allclose(plain(**given).logits, expected, atol=1e-4)
        with adapted.disable_adapter():
            assert not torch.allclose(adapted(**given).logits, expected, atol=1e-2), "the adapters have an effect"
    after = plain.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert all(name.endswith("weight") and "norm" not in name for name in changed)
    assert not {"lm_head.weight", "model.language_model.embed_tokens.weight"} & changed


@pytest.mark.parametrize("lora", [LORA, QLORA], ids=["16 bits", "4 bits"])
def test_the_reference_is_the_model_without_adapters_and_the_kl_is_zero_at_first(
    lora: LoraRecipe, small_data: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = stage_2_trainer(small_data, small_checkpoint, tmp_path, lora)
    assert trainer.ref_model is None
    compute_step(trainer, monkeypatch)
    assert trainer._metrics["train"]["kl"] == [0.0]
    disturb(trainer.model)
    compute_step(trainer, monkeypatch)
    assert trainer._metrics["train"]["kl"][-1] > 1e-4


def test_layers_in_four_bits_pass_gradients_back_after_they_have_computed_in_evaluation_mode(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes packs them then for inference, on CPUs with AVX512-BF16, where a packed layer has no backward."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load_for_training(small_checkpoint, QLORA)
    layer = model.model.language_model.layers[0].mlp.down_proj
    given = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        evaluated = layer.eval()(given)
    trained = layer.train()(given.requires_grad_())
    torch.testing.assert_close(trained, evaluated)
    trained.sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0


def test_rollouts_are_sampled_from_the_adapted_weights(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """With top_k 1 the sampling is greedy."""
    trainer = stage_2_trainer(small_data, small_checkpoint, tmp_path, LORA, top_k=1)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    plain = trainer._generate_and_score_completions(batch)["completion_ids"]
    disturb(trainer.model)
    adapted = trainer._generate_and_score_completions(batch)["completion_ids"]
    assert not torch.equal(plain, adapted)
    with trainer.model.disable_adapter():
        assert torch.equal(trainer._generate_and_score_completions(batch)["completion_ids"], plain)


def test_a_frozen_vit_keeps_nothing_for_the_backward_pass(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    trainer = sft_trainer(small_data, small_checkpoint, tmp_path, LORA, gradient_checkpointing=True)
    seen = []
    tower = trainer.model.get_base_model().model.vision_tower
    tower.register_forward_hook(lambda _m, _a, out: seen.append(out.last_hidden_state.requires_grad))
    trainer.model.gradient_checkpointing_enable()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    assert seen == [False]
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)


SFT = {"learning_rate": 1e-4, "captions": False}
STAGE_2 = {"learning_rate": 1e-5, "max_completion_tokens": 8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, "alpha"),
        ({"rank": 0, "alpha": 8}, "rank"),
        ({"rank": 4, "alpha": 0}, "no effect"),
        ({"rank": 4, "alpha": 8, "bits": 8}, "bits"),
        ({"rank": 4, "alpha": 8, "target": []}, "at least one layer"),
        ({"rank": 4, "alpha": 8, "dropout": 1}, "dropout"),
        ({"rank": 4, "alpha": 8, "ranks": 4}, "ranks"),
        ({"rank": 4, "alpha": 8, "in_full": ["projector"]}, "SFT freezes the projector"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftRecipe(**SFT, lora=settings)
