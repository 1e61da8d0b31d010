"""The formulas for model FLOPs, compared with torch's own counter, and the peaks of cards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.training.gpu_check import flops
from trainer.training.gpu_check.from_recipe import make_order
from trainer.training.gpu_check.meter import CpuMeter
from trainer.training.gpu_check.model import Scorer, build_model, make_questions, packed_inputs, random_words
from trainer.training.gpu_check.steps import Bench, sft_pass
from trainer.training.hcm_grpo.shared_prompt import share_prompt
from trainer.training.plan.shapes import shapes_of

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("tiles", [1, 4])
def test_the_formulas_give_what_torch_counts(tiles: int, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"extends: internvl3-2b\ntiles: {tiles}\n")
    order = make_order(str(recipe), "tiny")
    shapes = shapes_of(order.model_config())
    # Checkpointing would compute the layers twice, which model FLOPs do not include.
    sft, grpo = (replace(task, checkpointing=False) for task in order.tasks[:2])

    model = build_model(order, sft, CPU)
    model.set_attn_implementation("eager")  # torch does not count the fused attention of a CPU
    work = sft_pass(model, Scorer(model), sft, Bench(CpuMeter(None), repeats=1, until=0))
    with FlopCounterMode(display=False) as counter:
        work()
    # The head alone is computed in chunks that are checkpointed.
    head = sft.batch_size * sft.answer * 2 * shapes.text.width * shapes.vocabulary
    # Eager attention also computes the half of the products that is masked.
    masked = sft.batch_size * 3 * shapes.text.number * 4 * shapes.text.width * (sft.prompt + sft.answer) ** 2 / 2
    assert counter.get_total_flops() - head - masked == pytest.approx(flops.sft_step(sft, shapes), rel=0.001)

    model = build_model(order, grpo, CPU)
    questions = make_questions(model, grpo.questions, grpo, CPU)
    answers = random_words(model, (grpo.batch_size, grpo.answer), CPU)
    ids = torch.cat([questions.ids.repeat_interleave(grpo.group_size, 0), answers], 1)
    rows = share_prompt(ids, torch.ones_like(ids), grpo.answer, grpo.group_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Scorer(model)(**packed_inputs(rows, questions.pixels))
    assert counter.get_total_flops() == pytest.approx(flops.scoring(grpo, shapes, trained=False), rel=0.02)
    assert flops.scoring(grpo, shapes, trained=True) == 3 * flops.scoring(grpo, shapes, trained=False)


@pytest.mark.parametrize(
    ("card", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_their_names(card, teraflops) -> None:
    assert flops.stated_peak(card) == (teraflops and teraflops * 1e12)
