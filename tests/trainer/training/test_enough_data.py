"""Every command refuses too little data before a training starts, with the same sentence as `plan`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.contracts import SMALL
from trainer.__main__ import main
from trainer.training.enough_data import grpo_problem, sft_problem
from trainer.training.recipe.recipe import RECIPES, RecipeError, load_recipe
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.training.sft.agreement import concluded

NO_TASKS = dict.fromkeys(("read", "describe", "describe_all", "screen", "screen_direct", "screen_locate"), 0)
NUMBERS = [".nan", ".inf", "-.inf", "-1"]
SECTIONS = {
    "sft_weak": ("epochs", "batch_size", "gradient_accumulation", "learning_rate", "save_steps", "captions_per_sample"),
    "sft_answer": ("epochs", "batch_size", "learning_rate", "warmup_ratio", "weight_decay", "direct_share", "seed"),
    "hcm_grpo": (
        *(
            "epochs",
            "last_epochs",
            "group_size",
            "batch_size",
            "gradient_accumulation",
            "learning_rate",
            "warmup_ratio",
        ),
        *("weight_decay", "max_grad_norm", "kl_beta", "clip_epsilon", "temperature", "top_k", "top_p"),
        *("max_completion_tokens", "vllm_memory", "save_steps", "seed"),
    ),
    "pretrain": ("vocabulary", "jitter", "seed"),
    "architecture": ("image_size", "text_width", "text_layers", "initializer_range", "max_positions"),
}
ZEROS = [
    *(("sft_weak", name) for name in ("epochs", "batch_size", "gradient_accumulation", "learning_rate", "save_steps")),
    *(("hcm_grpo", name) for name in ("group_size", "batch_size", "learning_rate", "max_grad_norm", "temperature")),
    *(("hcm_grpo", name) for name in ("clip_epsilon", "top_p", "max_completion_tokens", "save_steps")),
    *(("architecture", name) for name in ("image_size", "patch_size", "text_layers")),
]
ABOVE_ONE = [
    *(("sft_answer", name) for name in ("direct_share", "warmup_ratio", "learning_rate", "weight_decay")),
    *(("hcm_grpo", name) for name in ("top_p", "warmup_ratio", "vllm_memory", "learning_rate", "clip_epsilon")),
]


def write(path: Path, text: str) -> Path:
    path.write_text(f"extends: tiny\nname: mine\n{text}\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *((section, name, value) for section, names in SECTIONS.items() for name in names for value in NUMBERS),
        *((section, name, "0") for section, name in ZEROS),
        *((section, name, "1.5") for section, name in ABOVE_ONE),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(
    section: str, name: str, value: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(write(tmp_path / "mine.yaml", f"{section}: {{{name}: {value}}}")))
    said = str(caught.value)
    assert f"{section}.{name}" in said and "\n" not in said


@pytest.mark.parametrize("value", ["true", "no", "1000000000000000000000000000000"])
@pytest.mark.parametrize(
    ("section", "name"),
    [("sft_weak", "epochs"), ("sft_weak", "save_steps"), ("hcm_grpo", "kl_beta"), ("hcm_grpo", "temperature")],
)
def test_a_boolean_or_a_huge_number_is_refused(section: str, name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"{section}.{name}"):
        load_recipe(str(write(tmp_path / "mine.yaml", f"{section}: {{{name}: {value}}}")))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("pretrain: {see: {steps: 0}}", "pretrain.see.steps"),
        ("pretrain: {read: {learning_rate: .nan}}", "pretrain.read.learning_rate"),
        (f"pretrain: {{speak: {{shares: {NO_TASKS}}}}}", "pretrain.speak"),
        ("pretrain: {speak: {shares: {screen: 1.5}}}", "pretrain.speak.shares.screen"),
        ("pretrain: {usable_counts: [0, 0, 0, 0, 0]}", "pretrain.usable_counts"),
        ("pretrain: {usable_counts: [0.5, -0.5, 0, 0, 1]}", "pretrain.usable_counts.1"),
        ("pretrain: {read: {varied_share: 1.01}}", "pretrain.read.varied_share"),
        ("pretrain: {pool: {severities: [2, 0, 0]}}", "pretrain.pool.severities.0"),
        ("pretrain: {pool: {held_out: 10000}}", "leaves none of the 10000 products for training"),
        ("pretrain: {pool: {defective_per_product: 0}}", "pretrain.pool.defective_per_product"),
        ("max_tokens_cot: 0", "max_tokens_cot"),
        ("architecture: {text_width: 40}", "multiples of 32"),
        ("architecture: {image_size: 72}", "even multiple of patch_size"),
    ],
)
def test_pretraining_without_a_task_or_data_is_refused(text: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=field.replace("[", r"\[")):
        load_recipe(str(write(tmp_path / "mine.yaml", text)))


def test_every_command_with_a_recipe_says_the_same(
    tmp_path: Path, small_data: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write(tmp_path / "mine.yaml", "sft_weak: {epochs: 0}"))
    start = ["--recipe", recipe, "--checkpoint", str(small_checkpoint), "--data", str(small_data)]
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["plan", recipe],
        ["sft", "--stage", "weak", *start, *out],
        ["hcm-grpo", *start, "--hard-cases", str(tmp_path), *out],
        ["pretrain", "--recipe", recipe, *out],
        ["import", recipe, *out],
        ["random-init", recipe, *out],
        ["bench-train", *start],
        ["benchmark", "sft", *start, *out],
    ):
        assert main(command) == 2, command
        assert (
            capsys.readouterr().err.count("sft_weak.epochs: Input should be greater than or equal to 1 (it is 0)") == 1
        )
    assert not (tmp_path / "out").exists()


def small_recipe(path: Path, *, sft: dict[str, Any] | None = None, grpo: dict[str, Any] | None = None) -> str:
    stage = {"learning_rate": 0.001, "batch_size": 2, "epochs": 1, "captions": False} | (sft or {})
    stage_2 = {"group_size": 2, "batch_size": 2, "learning_rate": 0.01, "max_completion_tokens": 8} | (grpo or {})
    sections = {"sft_weak": stage, "sft_answer": stage, "hcm_grpo": stage_2}
    path.write_text(yaml.safe_dump({"name": "small", "prompt": "compact", "max_tokens_cot": 256, **sections}))
    return str(path)


def hard_cases(directory: Path, data: Path, checkpoint: Path, count: int) -> Path:
    from screening.checkpoint.manifest import read_manifest
    from trainer.data_directory import data_digest, read_samples
    from trainer.training.hard_cases.cases import Cases
    from trainer.training.hard_cases.record import write_hard_cases

    samples = read_samples(data)
    ids = tuple(sample.id for sample in samples)
    directory.mkdir()
    digest = data_digest(data, samples)
    write_hard_cases(directory, Cases(ids, ids[:count]), checkpoint=read_manifest(checkpoint).digest, data=digest)
    return directory


@pytest.mark.parametrize(
    ("grpo", "hard", "message"),
    [
        ({"epochs": 0, "last_epochs": 0}, 2, "stage 2 has no epochs"),
        ({"epochs": 0, "last_parts": []}, 2, "stage 2 has no epochs"),
        ({"batch_size": 200}, 2, "fewer than the 100 of one step"),
        ({"gradient_accumulation": 100}, 2, "fewer than the 100 of one step"),
        ({}, 0, "cannot have `hard`"),
        ({"last_parts": ["all", "random"]}, 0, "cannot have `random`"),
        ({"last_parts": ["easy"]}, 6, "would be empty"),
        ({"batch_size": 3}, 2, "not divisible by group_size 2"),
    ],
)
def test_stage_two_is_refused_with_the_message_of_plan(
    grpo: dict[str, Any],
    hard: int,
    message: str,
    small_data: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = small_recipe(tmp_path / "small.yaml", grpo=grpo)
    cases = hard_cases(tmp_path / "hard", small_data, small_checkpoint, hard)
    where = ["--checkpoint", str(small_checkpoint), "--data", str(small_data), "--out", str(tmp_path / "out")]
    assert main(["hcm-grpo", "--recipe", recipe, *where, "--hard-cases", str(cases)]) == 2
    said = capsys.readouterr().err.removeprefix("error: ").strip()
    assert message in said
    assert said == grpo_problem(load_recipe(recipe).hcm_grpo, 6, hard, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["weak", "answer-driven"])
def test_an_sft_that_cannot_fill_a_step_is_refused_with_the_message_of_plan(
    stage: str, small_data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(tmp_path / "small.yaml", sft={"batch_size": 7})
    where = ["--checkpoint", str(small_checkpoint), "--data", str(small_data), "--out", str(tmp_path / "out")]
    assert main(["sft", "--stage", stage, "--recipe", recipe, *where]) == 2
    said = capsys.readouterr().err.removeprefix("error: ").strip()
    name = "sft_weak" if stage == "weak" else "sft_answer"
    assert "6 rows to train on, fewer than the 7 of one step" in said
    assert said == sft_problem(name, load_recipe(recipe).sft_weak, 6, 1)
    assert not (tmp_path / "out").exists()


def test_more_processes_need_more_data() -> None:
    sft = SftRecipe(learning_rate=1e-5, captions=False)
    assert sft_problem("sft_answer", sft, 8, 1) is None and sft_problem("sft_answer", sft, 8, 2) is not None
    grpo = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=8, epochs=1, last_epochs=0)
    assert grpo_problem(grpo, 2, 1, 1) is None and grpo_problem(grpo, 2, 1, 2) is not None


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_shipped_recipes_have_enough_with_the_papers_data(name: str) -> None:
    recipe = load_recipe(name)
    assert sft_problem("sft_weak", recipe.sft_weak, 10724, 8) is None
    assert recipe.hcm_grpo is None or grpo_problem(recipe.hcm_grpo, 1044, 434, 8) is None


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["weak", "answer-driven"])
def test_a_training_that_changes_nothing_fails(
    stage: str, small_data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(tmp_path / "small.yaml", sft={"learning_rate": 1e-300})
    out = tmp_path / "out"
    where = ["--checkpoint", str(small_checkpoint), "--data", str(small_data), "--out", str(out)]
    assert main(["sft", "--stage", stage, "--recipe", recipe, *where, "--tracking-uri", "none"]) == 2
    assert "3 steps changed no weight" in capsys.readouterr().err
    assert not (out / "checkpoint").exists()


def test_a_training_that_diverges_fails(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from screening.prompt import COMPACT
    from trainer.data_directory import read_samples
    from trainer.training.finetuning import check_weights_changed
    from trainer.training.sft.rows import dataset, screening_rows
    from trainer.training.sft.train import build_trainer

    rows = dataset(screening_rows(read_samples(small_data), COMPACT, direct_share=0, seed=0), small_data, SMALL)
    model = build_trainer(small_checkpoint, rows, SftRecipe(learning_rate=1e-3, captions=False), tmp_path).model
    with pytest.raises(RecipeError, match="took no step"):
        check_weights_changed(model, small_checkpoint, steps=0)
    with pytest.raises(RecipeError, match="changed no weight"):
        check_weights_changed(model, small_checkpoint, steps=1)
    model.lm_head.weight.data[3, 4] = float("nan")
    with pytest.raises(RecipeError, match=r"lm_head.weight holds values that are not finite"):
        check_weights_changed(model, small_checkpoint, steps=1)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("I observed <A> normal, so I ultimately chose A.", "A"),
        ("…, so I ultimately chose A and C.", "AC"),
        ("…, so I ultimately choose a, d", "AD"),
        ("…, so I ultimately chose N.", ""),
        ("…, so I ultimately chose none.", ""),
        ("I first thought the answer is B. In the end, so I ultimately chose D.", "D"),
        ("Therefore the final answer is <B>.", "B"),
        ("All are fine.", None),
        ("so I ultimately chose Adam's bottle", None),
        ("so I ultimately chose A and N", None),
        ("I choose B.", "B"),
        ("Final answer: **C**", "C"),
        ("the correct option is (C)", "C"),
        ("Hence I select A and C", "AC"),
        ("ultimately chose both A and D", "AD"),
        ("so I ultimately chose image “B”.", "B"),
        ("ultimately choose none of them", ""),
        ("None of the pictures is usable.", ""),
        ("None of the pictures is usable as it is, but I pick B.", "B"),
        ("None of the pictures is blurred.", None),
        ("I ultimately chose A or B", None),
        ("the answer is a bottle", None),
    ],
)
def test_a_conclusion_is_read(text: str, options: str | None) -> None:
    assert concluded(text) == (None if options is None else frozenset(options))


@pytest.fixture
def contradicting(small_data: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(small_data, tmp_path / "data")
    lines = [json.loads(line) for line in (copy / "samples.jsonl").read_text().splitlines()]
    for line in lines[:4]:
        other = "B" if line["label"] != "B" else "C"
        head = line["reasoning"].rpartition("so I ultimately chose")[0]
        line["reasoning"] = f"{head}so I ultimately chose {other}."
    (copy / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return copy


@pytest.mark.slow
def test_a_reasoning_that_contradicts_its_label_is_reported(
    contradicting: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(tmp_path / "small.yaml")
    where = ["--checkpoint", str(small_checkpoint), "--data", str(contradicting), "--tracking-uri", "none"]
    common = ["sft", "--recipe", recipe, *where]
    assert main([*common, "--stage", "answer-driven", "--out", str(tmp_path / "one")]) == 2
    said = capsys.readouterr().err
    assert "4 of 6 samples contradicts the label" in said and "concludes B" in said and "…" in said
    assert not (tmp_path / "one").exists()
    assert main([*common, "--stage", "weak", "--out", str(tmp_path / "two")]) == 0
    assert "warning: the reasoning of 4 of 6" in capsys.readouterr().err


def test_split_warns_of_parts_with_too_few_products(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["split", "--data", str(small_data), "--shares", "1,1,0,0", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert said.count("fewer than 30") == 2 and "the split testing holds" in said and "exploration" not in said
