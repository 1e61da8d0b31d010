"""Trains stage 2. Read it top to bottom: checks, hard cases, curriculum, model, TRL.

The objective is the paper's (eqs. 2 to 6); docs/training/deviations.md has what the paper leaves open. A comment beside
each of TRL's settings says which equation it serves, and a test compares the loss with the written-out formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoProcessor
from trl import GRPOConfig

from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from trainer.data_directory import data_digest, read_samples
from trainer.records import licences_of, pseudo_labels_of
from trainer.reward import RewardFunction, reward_functions
from trainer.runs.run_directory import RunMismatch, claim, occupy
from trainer.training.distributed import done_by_first, processes
from trainer.training.efficiency import OPTIM
from trainer.training.enough_data import groups_problem, grpo_problem, refuse
from trainer.training.finetuning import STATES_NAME, check_machine, train_to_end
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.curriculum import make_curriculum
from trainer.training.hard_cases.record import RECORD_NAME, read_hard_cases, write_hard_cases
from trainer.training.hcm_grpo.grpo_trainer import GroupGRPOTrainer
from trainer.training.hcm_grpo.vllm_rollouts import check_vllm, vllm_arguments
from trainer.training.hcm_grpo.warm_start import copy_state, find_warm_start, hard_in
from trainer.training.lora.model import adapter_config, check_lora, load_for_training, prepare
from trainer.training.number_format import computed_in
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.recipe.recipe import Recipe, load_recipe
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows
from trainer.training.sharding import is_sharded
from trainer.training.tracking.callbacks import ExampleKeeper
from trainer.training.tracking.store import Store
from trainer.training.validation.data import Validation, check_given, read_validation


def train(
    recipe_name: str,
    checkpoint: Path,
    data: Path,
    hard_cases: Path,
    out: Path,
    tracking: Store | None = None,
    after: Path | None = None,
    hard_cases_of: str | None = None,
    validation_data: Path | None = None,
) -> Manifest:
    """Train stage 2 and write OUT/checkpoint.

    Args:
        hard_cases: directory that `trainer hard-cases` wrote on `data`.
        hard_cases_of: digest of the checkpoint that found the hard cases; None for `checkpoint`. A retraining uses
            the hard cases of the model in production.
        tracking: MLflow store that gets a copy of the log; None for none.
        after: finished run for a warm start; see `trainer.training.hcm_grpo.warm_start`.
        validation_data: data directory for `trainer.training.validation`; None for none.

    Raises:
        CheckpointError, DataError, RecipeError, HardCasesError: an input cannot be used.
        LaunchError, RunMismatch: see `train_on_questions`.
    """
    recipe = load_recipe(recipe_name)
    settings = recipe.stage_2
    refuse(groups_problem(settings))
    check_machine("hcm_grpo", settings)
    manifest = verify(checkpoint)
    recipe.refuse_other_prompt(manifest.prompt)
    recipe.refuse_other_tiles(manifest.image)
    recipe.refuse_other_length(manifest.decoding)
    samples = read_samples(data)
    digest = done_by_first(lambda: data_digest(data, samples), processes())
    validation = read_validation(
        validation_data,
        settings.validation,
        "hcm_grpo",
        training=samples,
        data=data,
        parent=manifest,
        seed=settings.seed,
    )
    by_id = {sample.id: sample for sample in samples}
    found_by = hard_cases_of or manifest.digest
    return train_on_questions(
        read_hard_cases(hard_cases, samples, checkpoint=found_by, data=digest),
        lambda ids: rollout_rows((by_id[i] for i in ids), manifest.prompt),
        reward_functions(settings.reward, by_id),
        data,
        out,
        recipe=recipe,
        checkpoint=checkpoint,
        parent=manifest,
        origin={"stage": "hcm-grpo", "data": digest},
        found_by=found_by,
        facts={**licences_of(samples), **pseudo_labels_of(samples)},
        keeper=ExampleKeeper(out, data, by_id),
        after=after,
        tracking=tracking,
        validation=validation,
        question_tokens=count_tokens(manifest.prompt, manifest.image.most_tokens, load_tokenizer(checkpoint)).prompt,
    )


def train_on_questions(
    cases: Cases,
    make_rows: Callable[[Iterable[str]], list[dict[str, Any]]],
    rewards: list[RewardFunction],
    directory: Path,
    out: Path,
    *,
    recipe: Recipe,
    checkpoint: Path,
    parent: Manifest,
    origin: Mapping[str, Any],
    found_by: str,
    facts: Mapping[str, Any] = MappingProxyType({}),
    keeper: ExampleKeeper | None = None,
    after: Path | None = None,
    tracking: Store | None = None,
    validation: Validation | None = None,
    question_tokens: int | None = None,
) -> Manifest:
    """Train on questions and write OUT/checkpoint. A killed run with the same settings and hard cases is continued.

    Args:
        cases: ids of all questions and of the hard ones.
        make_rows: makes TRL's rows from ids, in the order of the ids.
        rewards: reward functions that know the questions.
        directory: the pictures of the questions.
        checkpoint: the checkpoint to start from, which is also the reference.
        parent: its manifest.
        origin: stage, data digest and whatever else decides the questions, for `run.json`.
        found_by: digest of the checkpoint that found the hard cases.
        facts: further facts about the data, for the manifest.
        keeper: keeps examples of rollouts; None keeps none.
        after: finished run for a warm start.
        validation: samples by whose score the weights are chosen; None for the last weights.
        question_tokens: maximum number of tokens of a question, image tokens included; None if it is not known.

    Raises:
        RecipeError: there are too few questions, a package or a GPU that the recipe needs is missing, or there are no
            hard cases or no validation data and the recipe asks for them.
        LaunchError: the training was not launched correctly.
        RunMismatch: OUT holds something else, or a run with other settings or hard cases; or `after` does not fit.
    """
    state, settings = processes(), recipe.stage_2
    refuse(grpo_problem(settings, len(cases.all), len(cases.hard), state.num_processes))
    check_machine("hcm_grpo", settings)
    check_lora(checkpoint, settings.lora, vision=True)
    check_given("hcm_grpo", settings.validation, validation)
    check_vllm(settings)
    curriculum = make_curriculum(
        cases,
        epochs=settings.epochs,
        last_epochs=settings.last_epochs,
        last_parts=settings.last_parts,
        seed=settings.seed,
    )
    origin = {
        **origin,
        "settings": settings.deciding,
        "parent": parent.digest,
        "hard": len(cases.hard),
        "processes": state.num_processes,
    }
    if is_sharded():
        origin["sharded"] = True
    if validation:
        origin["validation"] = validation.digest
    warm_start = after and find_warm_start(after, origin=origin, settings=settings, ids=curriculum.ids, cases=cases)
    with state.main_process_first():
        if state.is_main_process:
            claim(out, origin)
            occupy(out)
            check_same_hard_cases(out, cases)
            if warm_start:
                copy_state(warm_start, out / STATES_NAME)
            write_hard_cases(out, cases, checkpoint=found_by, data=origin["data"])
    sizes = " + ".join(str(len(epoch)) for epoch in curriculum.epochs)
    state.print(f"{len(cases.hard)} of {len(cases.all)} questions are hard; the epochs have {sizes} questions")

    # A question of several epochs is one row in memory.
    places = {question: place for place, question in enumerate(dict.fromkeys(curriculum.ids))}
    questions = dataset(make_rows(places), directory, parent.image).select([places[i] for i in curriculum.ids])
    trainer = build_trainer(checkpoint, questions, rewards, settings, out / STATES_NAME, question_tokens)
    if keeper:
        trainer.keeper = keeper
        trainer.add_callback(keeper)
    return train_to_end(
        trainer,
        out,
        checkpoint=checkpoint,
        parent=parent,
        origin=origin,
        data={"digest": origin["data"], "samples": len(cases.all), "hard": len(cases.hard), **facts},
        recipe=recipe,
        tracking=tracking,
        validation=validation,
    )


def build_trainer(
    checkpoint: Path,
    questions: Dataset,
    rewards: list[RewardFunction],
    settings: HcmGrpoRecipe,
    output: Path,
    question_tokens: int | None = None,
) -> GroupGRPOTrainer:
    """Build the trainer: the policy, all of it trained, its reference (TRL loads it from `checkpoint`) and the rewards.

    With LoRA only the adapters are trained, and TRL takes the policy with its adapters off for the reference.

    Args:
        questions: as `trainer.training.sft.rows.rollout_rows` makes them, in the order of training.
        output: directory of TRL's saved states.
        question_tokens: maximum number of tokens of a question; None if it is not known.
    """
    processor = AutoProcessor.from_pretrained(checkpoint, padding_side="left")
    config = arguments(settings, output, question_tokens)
    if config.use_vllm:  # as in `GroupGRPOTrainer` without vLLM: the model must not write image tokens
        config.generation_kwargs = {"logit_bias": {processor.image_token_id: -100.0}}
    model = load_for_training(checkpoint, settings.lora, settings.attention)
    trainer = GroupGRPOTrainer(
        model=model,
        peft_config=adapter_config(model, settings.lora, vision=True),
        processing_class=processor,
        reward_funcs=rewards,
        train_dataset=questions,
        args=config,
    )
    if settings.lora:
        prepare(trainer.model)
    return trainer


def arguments(settings: HcmGrpoRecipe, output: Path, question_tokens: int | None = None) -> GRPOConfig:
    """TRL's settings for the paper's objective.

    Args:
        output: directory of TRL's saved states.
        question_tokens: maximum number of tokens of a question; None if it is not known.

    Raises:
        RecipeError: the batch cannot be divided into groups.
    """
    refuse(groups_problem(settings))
    return GRPOConfig(
        output_dir=str(output),
        num_train_epochs=1,  # the curriculum contains all epochs
        shuffle_dataset=False,  # the curriculum decides the order
        num_generations=settings.group_size,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_iterations=1,  # pi_old is pi at each step
        # Eqs. 2 to 5: mean over tokens, then over the group; the deviation has the divisor G - 1. What the paper leaves
        # open is in docs/training/deviations.md.
        loss_type="grpo",
        importance_sampling_level="token",
        scale_rewards=settings.scale_rewards,
        multi_objective_aggregation="sum_then_normalize",
        epsilon=settings.clip_epsilon,
        beta=settings.kl_beta,
        use_bias_correction_kl=False,
        mask_truncated_completions=False,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        max_completion_length=settings.max_completion_tokens,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        optim=OPTIM[settings.optimizer],
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="cosine" if settings.schedule == "cosine" else "constant_with_warmup",
        bf16=computed_in() is torch.bfloat16,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        logging_steps=5,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        **vllm_arguments(settings, question_tokens),
    )


def check_same_hard_cases(out: Path, cases: Cases) -> None:
    """Refuse to continue a run with other hard cases, even if there are as many: another machine may find others.

    Raises:
        RunMismatch: the run in `out` was started with other hard cases.
    """
    if (out / RECORD_NAME).exists() and hard_in(out) != set(cases.hard):
        raise RunMismatch(
            f"{out} was started with other hard cases. Name another --out, or pass the original hard cases"
        )
