"""Stage 2, read top to bottom: check, hard cases, course, model, TRL.

The objective is the paper's (eqs. 2 to 6); which of TRL's settings make it so is written beside each. A test compares
the loss with the formula written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig

from screening.checkpoint.manifest import Manifest, verify
from trainer.data_directory import data_digest, read_samples
from trainer.reward import RewardFunction, reward_functions
from trainer.runs.run_directory import RunMismatch, claim, occupy
from trainer.training.distributed import origin_entry, processes
from trainer.training.enough_data import groups_problem, grpo_problem, refuse
from trainer.training.finetuning import STATES_NAME, train_to_end
from trainer.training.hard_cases import Course, lay_course
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import RECORD_NAME, read_hard_cases, write_hard_cases
from trainer.training.hcm_grpo.grpo_trainer import GroupGRPOTrainer
from trainer.training.hcm_grpo.warm_start import hard_in, state_of_beginning, take_over
from trainer.training.recipe import HcmGrpoRecipe, RecipeError, load_recipe
from trainer.training.sft.rows import dataset, rollout_rows
from trainer.training.tracking.callbacks import ExampleKeeper
from trainer.training.tracking.store import Store


def train(
    recipe_name: str,
    checkpoint: Path,
    data: Path,
    hard_cases: Path,
    out: Path,
    tracking: Store | None = None,
    after: Path | None = None,
    hard_cases_of: str | None = None,
) -> Manifest:
    """Train stage 2 and write OUT/checkpoint. A killed run with the same settings and hard cases is continued.

    Args:
        hard_cases: what `trainer hard-cases` wrote for `checkpoint` on `data`.
        hard_cases_of: digest of the model that found them, where that is another one: a retraining takes the questions
            that the model in production answers wrong. None: `checkpoint`.
        tracking: where MLflow gets a copy of the log; None for nowhere.
        after: a finished run whose course is the beginning of this one, to go on from.

    Raises:
        CheckpointError, DataError, RecipeError, HardCasesError: an input cannot be used.
        LaunchError: the training was not started as it has to be.
        RunMismatch: OUT holds something else, a run with other settings or other hard cases, or `after` is not a
            beginning of this one.
    """
    state = processes()
    recipe = load_recipe(recipe_name)
    if recipe.hcm_grpo is None:
        raise RecipeError(f"recipe {recipe.name!r} has no section `hcm_grpo`")
    settings = recipe.hcm_grpo
    refuse(groups_problem(settings))
    manifest = verify(checkpoint)
    samples = read_samples(data)
    digest = data_digest(data, samples)
    found_by = hard_cases_of or manifest.digest
    cases = read_hard_cases(hard_cases, samples, checkpoint=found_by, data=digest)
    refuse(grpo_problem(settings, len(cases.all), len(cases.hard), state.num_processes))
    course = lay_course(
        cases,
        epochs=settings.epochs,
        last_epochs=settings.last_epochs,
        last_parts=settings.last_parts,
        seed=settings.seed,
    )
    origin = {
        "stage": "hcm-grpo",
        "settings": settings.deciding,
        "parent": manifest.digest,
        "data": digest,
        "hard": len(cases.hard),
        **origin_entry(state),
    }
    beginning = after and state_of_beginning(after, origin=origin, settings=settings, ids=course.ids, cases=cases)
    with state.main_process_first():
        if state.is_main_process:
            claim(out, origin)
            occupy(out)
            see_the_same_are_hard(out, cases)
            if beginning:
                take_over(beginning, out / STATES_NAME)
            write_hard_cases(out, cases, checkpoint=found_by, data=digest)
    state.print(f"{len(cases.hard)} of {len(cases.all)} samples are hard; epochs of {_sizes(course)} questions")

    by_id = {sample.id: sample for sample in samples}
    rows = rollout_rows((by_id[i] for i in course.ids), manifest.prompt)
    questions, rewards = dataset(rows, data, manifest.image.size), reward_functions(settings.reward)
    trainer = build_trainer(checkpoint, questions, rewards, settings, out / STATES_NAME)
    trainer.keeper = ExampleKeeper(out, data, by_id)
    trainer.add_callback(trainer.keeper)
    return train_to_end(
        trainer,
        out,
        checkpoint=checkpoint,
        parent=manifest,
        origin=origin,
        data={"digest": digest, "samples": len(samples), "hard": len(cases.hard)},
        recipe=recipe,
        tracking=tracking,
    )


def build_trainer(
    checkpoint: Path, questions: Dataset, rewards: list[RewardFunction], settings: HcmGrpoRecipe, output: Path
) -> GroupGRPOTrainer:
    """The policy, all of it trained, its reference (TRL loads it from the same directory) and the rewards.

    Args:
        questions: as `trainer.training.sft.rows.rollout_rows` makes them, in the order of training.
        output: for TRL's saved states.
    """
    processor, config = AutoProcessor.from_pretrained(checkpoint, padding_side="left"), arguments(settings, output)
    if config.use_vllm:  # as `GroupGRPOTrainer` has it without vLLM: no picture that nobody sent
        config.generation_kwargs = {"logit_bias": {processor.image_token_id: -100.0}}
    return GroupGRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32),
        processing_class=processor,
        reward_funcs=rewards,
        train_dataset=questions,
        args=config,
    )


def arguments(settings: HcmGrpoRecipe, output: Path) -> GRPOConfig:
    """TRL's settings for the paper's objective.

    Raises:
        RecipeError: the batch cannot be divided into groups.
    """
    refuse(groups_problem(settings))
    on_gpu = torch.cuda.is_available()
    rollouts: dict[str, Any] = {}
    if settings.vllm == "colocate":
        rollouts = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": settings.vllm_memory,
            # With top_k and top_p the correction compares unlike distributions and drives every ratio to zero.
            "vllm_importance_sampling_correction": False,
        }
    return GRPOConfig(
        output_dir=str(output),
        num_train_epochs=1,  # the course holds all epochs
        shuffle_dataset=False,  # and their order
        num_generations=settings.group_size,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_iterations=1,  # pi_old = pi at each step
        # Eqs. 2 to 5: mean over tokens, then over the group; advantages normalised within the group, by the deviation
        # of a sample (G - 1), as torch and TRL have it. The paper does not say which; the other is 1.15 times at G = 4.
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
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="cosine" if settings.schedule == "cosine" else "constant_with_warmup",
        bf16=True,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=not on_gpu,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        logging_steps=5,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        **rollouts,
    )


def see_the_same_are_hard(out: Path, cases: Cases) -> None:
    """Refuse to go on with a run on another course: found again on another machine, as many may be hard, but others.

    Raises:
        RunMismatch: other samples are hard in the run that is there.
    """
    if (out / RECORD_NAME).exists() and hard_in(out) != set(cases.hard):
        raise RunMismatch(f"{out} was begun with other hard cases; name another directory, or give it those")


def _sizes(course: Course) -> str:
    return " + ".join(str(len(epoch)) for epoch in course.epochs)
