"""HCM-GRPO on TRL: objective, reference, trained parts, the content of a question, and a whole run."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from screening.checkpoint.manifest import ImageContract, read_manifest, verify
from screening.prompt import COMPACT
from tests.trainer.contracts import SMALL
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_picture, read_samples
from trainer.reward import completion_text, reward_functions
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.hcm_grpo.grpo_trainer import GroupGRPOTrainer
from trainer.training.hcm_grpo.train import arguments, build_trainer
from trainer.training.number_format import computed_in
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows

SETTINGS = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8}
SETTINGS |= {"epochs": 1, "last_epochs": 1, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def hard_cases(tmp_path_factory: pytest.TempPathFactory, small_data: Path, small_checkpoint: Path) -> Path:
    """Every second sample is hard."""
    directory = tmp_path_factory.mktemp("hard-cases")
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    write_hard_cases(directory, Cases(names, names[::2]), **digests)
    return directory


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    stage = {"learning_rate": 0.001, "captions": False}
    path = tmp_path / "small.yaml"
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": stage, "sft_answer": stage}
    path.write_text(yaml.safe_dump({**settings, "hcm_grpo": SETTINGS}))
    return str(path)


def make_trainer(data: Path, checkpoint: Path, output: Path) -> GroupGRPOTrainer:
    samples = read_samples(data)
    rows = rollout_rows(samples, COMPACT)
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    return build_trainer(checkpoint, dataset(rows, data, SMALL), rewards, HcmGrpoRecipe(**SETTINGS), output)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, small_data: Path, small_checkpoint: Path) -> GroupGRPOTrainer:
    return make_trainer(small_data, small_checkpoint, tmp_path_factory.mktemp("trl"))


@pytest.fixture
def unused_trainer(tmp_path: Path, small_data: Path, small_checkpoint: Path) -> GroupGRPOTrainer:
    """A trainer whose image processor has cached no picture."""
    return make_trainer(small_data, small_checkpoint, tmp_path)


def test_the_loss_is_the_papers_formula(trainer: GroupGRPOTrainer) -> None:
    """Eqs. 3 to 5 written out: clipped ratio times advantage, minus beta times the k3 estimate of the KL divergence,
    averaged over the tokens of an answer and then over the answers."""
    torch.manual_seed(0)
    lengths, width = [5, 3, 4, 2], 5
    new, old, reference = (-torch.rand(4, width) for _ in range(3))
    advantages = torch.tensor([1.2, -1.2, 0.4, -0.4])
    mask = torch.tensor([[int(t < n) for t in range(width)] for n in lengths])

    expected = 0.0
    for i, length in enumerate(lengths):
        tokens = 0.0
        for t in range(length):
            ratio = (new[i, t] - old[i, t]).exp()
            clipped = ratio.clamp(0.8, 1.2)
            gain = torch.minimum(ratio * advantages[i], clipped * advantages[i])
            drift = reference[i, t] - new[i, t]
            tokens += gain - 0.04 * (drift.exp() - drift - 1)
        expected -= tokens / length / 4

    def logps(*_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor, None]:
        return new, torch.zeros_like(new), None

    inputs = {"prompt_ids": torch.zeros(4, 1, dtype=torch.long), "prompt_mask": torch.ones(4, 1, dtype=torch.long)}
    inputs |= {"completion_ids": torch.zeros(4, width, dtype=torch.long), "completion_mask": mask}
    inputs |= {"advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_get_per_token_logps_and_entropies", logps)
        patch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
        assert trainer._compute_loss(trainer.model, inputs).item() == pytest.approx(float(expected), rel=1e-5)


def test_a_step_trains_every_part_of_the_policy_and_not_the_reference(
    trainer: GroupGRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reference = trainer.model.state_dict(), trainer.ref_model.state_dict()
    for name, tensor in policy.items():
        assert torch.equal(tensor.float(), reference[name].float()), name
    earned = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *_: earned)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())), None)
    gradients = {name: one.grad for name, one in trainer.model.named_parameters() if one.grad is not None}
    trainer.model.zero_grad()
    for part in ("vision_tower", "multi_modal_projector", "language_model", "lm_head"):
        assert any(part in name and gradient.abs().max() > 0 for name, gradient in gradients.items()), part
    assert all(parameter.grad is None for parameter in trainer.ref_model.parameters())


@pytest.mark.slow
def test_a_question_keeps_all_its_picture_tokens_and_has_one_tile_per_picture(
    unused_trainer: GroupGRPOTrainer,
) -> None:
    trainer = unused_trainer
    generation_batch = next(iter(trainer.get_train_dataloader()))
    assert len(generation_batch) == 4
    assert [row["id"] for row in generation_batch[:2]] == [generation_batch[0]["id"]] * 2, "a group is one question"
    asked: list[torch.Tensor] = []
    shown: list[torch.Tensor] = []
    model = trainer.model
    hooks = [
        model.model.register_forward_pre_hook(lambda _m, _a, given: asked.append(given["input_ids"]), with_kwargs=True),
        model.model.vision_tower.register_forward_pre_hook(
            lambda _m, _a, given: shown.append(given["pixel_values"]), with_kwargs=True
        ),
    ]
    try:
        trainer.model.train()
        inputs = trainer._prepare_inputs(generation_batch)
    finally:
        for hook in hooks:
            hook.remove()
    image, length = model.config.image_token_id, model.config.image_seq_length
    assert ((asked[0] == image).sum(1) == 5 * length).all()
    assert ((inputs["prompt_ids"] == image).sum(1) == 5 * length).all()
    assert inputs["pixel_values"].shape == (4 * 5, 3, 64, 64)
    assert shown[0].shape == (2 * 5, 3, 64, 64), "pictures of two questions, not of four completions"
    assert trainer.processing_class.image_processor.processed == 2 * 5


@pytest.mark.slow
def test_groups_in_one_row_score_as_trl_scores_completions(trainer: GroupGRPOTrainer) -> None:
    """Log-probabilities and entropies of policy and reference, on the data of a real step."""
    trainer.model.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    wanted = inputs["completion_mask"].bool()
    given = {"compute_entropy": True, "pixel_values": inputs["pixel_values"], "num_images": inputs["num_images"]}
    with torch.no_grad():
        for model, entropy in ((trainer.model, True), (trainer.ref_model, False)):
            arguments = (model, ids, mask, wanted.shape[1], 2)
            options = {**given, "compute_entropy": entropy}
            ours = trainer._get_per_token_logps_and_entropies(*arguments, **options)
            theirs = super(GroupGRPOTrainer, trainer)._get_per_token_logps_and_entropies(*arguments, **options)
            for mine, trl in zip(ours, theirs, strict=True):
                assert (mine is None) == (trl is None)
                if mine is not None:
                    tolerance = 0.05 if computed_in() is torch.bfloat16 else 1e-4
                    assert torch.allclose(mine[wanted].float(), trl[wanted].float(), atol=tolerance)


def test_tags_survive_the_decoding_of_rollouts(trainer: GroupGRPOTrainer) -> None:
    text = "<think>I observed <A> normal, so I ultimately chose A.</think><answer>A</answer>"
    ids = trainer.processing_class.tokenizer.encode(text)
    assert trainer.processing_class.batch_decode([ids], skip_special_tokens=True) == [text]


@pytest.mark.slow
def test_a_run_trains_everything_and_reports_what_it_saw(
    recipe: str,
    small_data: Path,
    small_checkpoint: Path,
    hard_cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def noise(completions, **_):  # random weights earn no reward and would not learn
        return [zlib.crc32(completion_text(c).encode()) % 7 / 7 for c in completions]

    monkeypatch.setattr("trainer.training.hcm_grpo.train.reward_functions", lambda *_: [noise])
    out = tmp_path / "run"
    command = ["hcm-grpo", "--recipe", recipe, "--checkpoint", str(small_checkpoint), "--data", str(small_data)]
    command += ["--hard-cases", str(hard_cases), "--out", str(out)]
    assert main(command) == 0
    manifest = verify(out / "checkpoint")
    assert (manifest.version, manifest.parent) == ("hcm-grpo", read_manifest(small_checkpoint).digest)
    assert (out / "hard-cases.json").read_text() == (hard_cases / "hard-cases.json").read_text()
    before, after = (load_file(d / "model.safetensors") for d in (small_checkpoint, out / "checkpoint"))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert any("lm_head" in name for name in changed)
    assert any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    entries = [e for e in json.loads((out / "log.json").read_text()) if "reward" in e]
    assert {"kl", "entropy", "frac_reward_zero_std", "rewards/noise/mean", "completions/mean_length"} <= set(entries[0])

    def trained_again(*_: object, **__: object) -> None:
        raise AssertionError("a finished run is exported again, not trained again")

    monkeypatch.setattr(GroupGRPOTrainer, "training_step", trained_again)
    shutil.rmtree(out / "checkpoint")
    assert main(command) == 0
    again = load_file(out / "checkpoint" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in after.items())
    assert main([*command[:-3], str(tmp_path / "missing"), *command[-2:]]) == 2


def test_a_run_may_be_continued_with_other_settings_only_if_they_do_not_decide_the_weights() -> None:
    plain = HcmGrpoRecipe(**SETTINGS).deciding
    assert HcmGrpoRecipe(**SETTINGS, save_steps=7, cut_rollouts=True).deciding == plain
    less_memory = {"gradient_checkpointing": not HcmGrpoRecipe(**SETTINGS).gradient_checkpointing, "vllm_memory": 0.2}
    assert HcmGrpoRecipe.model_validate({**SETTINGS, **less_memory}).deciding == plain
    assert HcmGrpoRecipe(**SETTINGS, scale_rewards="none").deciding != plain


@pytest.mark.slow
def test_a_step_in_two_passes_of_half_a_group_trains_as_one_pass_of_the_group(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """A pass of half a group cannot share the prompt. SGD, because AdamW's first step amplifies rounding."""

    def noise(completions: list[object], **_: object) -> list[float]:
        return [number / len(completions) for number in range(len(completions))]

    rows = rollout_rows(read_samples(small_data), COMPACT)
    found = []
    for batch, passes in ((4, 1), (2, 2)):
        changes = {"group_size": 4, "batch_size": batch, "gradient_accumulation": passes}
        changes |= {"learning_rate": 1.0, "schedule": "constant", "warmup_ratio": 0.0}
        settings, output = HcmGrpoRecipe(**SETTINGS | changes), tmp_path / str(batch)
        trainer = build_trainer(small_checkpoint, dataset(rows, small_data, SMALL), [noise], settings, output)
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.args.max_steps, trainer.args.optim, trainer.args.save_strategy = 1, "sgd", "no"
        torch.manual_seed(0)
        trainer.train()
        found.append({name: tensor - before[name] for name, tensor in trainer.model.state_dict().items()})
    whole, halves = found
    tolerance = 0.05 if computed_in() is torch.bfloat16 else 1e-3
    for name, change in whole.items():  # a weight of about 1 is rounded to 1e-7
        difference = (halves[name] - change).abs().max()
        assert difference <= tolerance * change.abs().max() + 3e-7, name
    assert max(change.abs().max() for change in whole.values()) > 1e-3


def test_a_step_in_several_passes_reads_each_of_its_pictures_once(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(data: Path, file: str, image: ImageContract) -> Image.Image:
        read.append(file)
        return read_picture(data, file, image)

    monkeypatch.setattr("trainer.training.sft.rows.read_picture", counted)
    samples = read_samples(small_data)
    settings = HcmGrpoRecipe(**SETTINGS | {"batch_size": 2, "gradient_accumulation": 4})
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    rows = dataset(rollout_rows(samples, COMPACT), small_data, SMALL)
    trainer = build_trainer(small_checkpoint, rows, rewards, settings, tmp_path)
    passes = [[row["id"] for row in batch] for batch in trainer.get_train_dataloader()]
    asked = samples[:4]
    assert passes == [[sample.id for sample in asked for _ in range(2)]] * 4
    assert sorted(read) == sorted(file for sample in asked for file in sample.files)


@pytest.mark.slow
def test_advantages_are_rewards_normalised_within_their_group(trainer: GroupGRPOTrainer) -> None:
    """Eq. 2, from given rewards."""
    trainer.model.train()
    earned = torch.tensor([2.0, 1.0, 0.5, 0.5])  # two questions with two completions each
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_calculate_rewards", lambda *_: torch.stack([earned, torch.zeros(4)], 1))
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    deviation = earned[:2].std().item()  # the sample standard deviation
    assert inputs["advantages"].tolist() == pytest.approx([0.5 / deviation, -0.5 / deviation, 0, 0], abs=1e-3)


def test_advantages_are_divided_by_the_deviation_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    assert arguments(HcmGrpoRecipe(**SETTINGS), tmp_path).scale_rewards == "group"
    assert arguments(HcmGrpoRecipe(**SETTINGS, scale_rewards="none"), tmp_path).scale_rewards == "none"


def test_batches_that_cannot_be_divided_into_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="group"):
        arguments(HcmGrpoRecipe(**{**SETTINGS, "batch_size": 3}), tmp_path)
