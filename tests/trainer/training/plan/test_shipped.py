"""Every shipped recipe, planned with the hardware that the docs name for it, works."""

from __future__ import annotations

import json

import pytest

from tests.trainer.training.plan.model_2b import case, changed
from trainer.__main__ import main
from trainer.training.plan.checks import find_notes, find_problems
from trainer.training.plan.memory import GIB
from trainer.training.plan.plan import EIGHTY_GB, MARGIN
from trainer.training.recipe.recipe import RECIPES

HARDWARE = [(path.stem, 1) for path in sorted(RECIPES.glob("*.yaml"))] + [("internvl3-1b", 8), ("internvl3-2b", 8)]


@pytest.mark.parametrize(("name", "gpus"), HARDWARE)
def test_a_shipped_recipe_works_on_its_documented_hardware(
    name: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", name, "--gpus", str(gpus), "--json"]) == 0
    printed = capsys.readouterr()
    plan = json.loads(printed.out)
    assert plan["problems"] == [] and "error" not in printed.err
    assert plan["hardware"]["gpu_memory"] == EIGHTY_GB
    assert plan["hardware"]["usable_bytes"] == pytest.approx(EIGHTY_GB * GIB * (1 - MARGIN))
    for stage in plan["stages"].values():
        assert 0 < stage["memory"]["peak"] <= plan["hardware"]["usable_bytes"]


def test_a_plan_that_fills_the_card_is_refused() -> None:
    peak = case(gpus=8).grpo_memory(case().recipe.hcm_grpo).peak / GIB
    assert find_problems(case(gpus=8, gpu_memory=peak * 1.08)) == []
    (problem,) = find_problems(case(gpus=8, gpu_memory=peak * 1.005))
    assert "6% stay free" in problem


def test_rollouts_may_be_cut_on_purpose_and_never_below_the_datas_answers() -> None:
    meant = changed("hcm_grpo", max_completion_tokens=256, cut_rollouts=True)
    assert find_problems(case(meant)) == []
    assert any("cut at 256 tokens" in note for note in find_notes(case(meant)))
    assert find_problems(case(meant, longest=256)) == []
    (problem,) = find_problems(case(meant, longest=300))
    assert "Raise hcm_grpo.max_completion_tokens to 300" in problem
