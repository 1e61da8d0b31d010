"""The command `trainer plan`."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest
import yaml

from tests.trainer.training.plan.model_2b import case, reasoned
from trainer.__main__ import main
from trainer.training.plan.command import size_data
from trainer.training.plan.memory import (
    GIB,
)
from trainer.training.plan.report import as_json, as_text
from trainer.training.recipe.recipe import RECIPES


def options(**given: Any) -> Namespace:
    return Namespace(**{"samples": None, "weak_samples": None, "hard_cases": None, "data": None, **given})


def test_sizes_that_are_not_given_are_the_papers_and_marked_as_assumed() -> None:
    paper = size_data(options(), [])
    assert (paper.samples, paper.weak_samples, paper.weak_captions, paper.hard_cases) == (1044, 10724, 53620, 434)
    assert len(paper.assumed) == 4
    own = size_data(options(samples=2088), [])
    assert (own.samples, own.weak_samples, own.hard_cases) == (2088, 2088, 868)
    told = size_data(options(samples=10, weak_samples=20, hard_cases=3), [])
    assert (told.weak_samples, told.weak_captions, told.hard_cases) == (20, 100, 3)
    assert told.assumed == ("a caption for every picture of stage 1.1",)
    assert size_data(options(), [reasoned()]).weak_captions == 0  # the data has no captions


def test_the_command_plans_the_shipped_checkpoint_with_its_data(tiny_checkpoint, tmp_path, capsys) -> None:
    recipe = yaml.safe_load((RECIPES / "internvl3-2b.yaml").read_text())
    recipe.update(base=str(tiny_checkpoint), prompt="compact", max_tokens_cot=128)
    recipe["hcm_grpo"]["max_completion_tokens"] = 128
    for section in ("sft_weak", "sft_answer"):
        recipe[section]["batch_size"] = 2  # one step needs all samples
    recipe["sft_weak"]["captions"] = False
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(recipe))
    data = tmp_path / "data"
    data.mkdir()
    samples = [reasoned(), reasoned().model_copy(update={"id": "t"})]
    (data / "samples.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    for name in ("o", "A", "B", "C", "D"):
        (data / f"{name}.jpg").touch()

    assert main(["plan", str(path), "--data", str(data), "--hard-cases", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tokens"]["measured"]
    assert plan["tokens"]["longest_answer"] > 20
    assert plan["data"]["samples"] == 2
    assert [epoch["groups"] for epoch in plan["stages"]["hcm_grpo"]["schedule"]["epochs"]] == [2, 2, 2, 3, 3]
    assert plan["stages"]["sft_weak"]["frozen"] == sum(plan["parameters"]["parts"][p] for p in ("vit", "projector"))
    memory = plan["stages"]["hcm_grpo"]["memory"]
    assert memory["held"]["weights"] == 4 * plan["parameters"]["total"]
    assert plan["problems"] == []

    recipe["hcm_grpo"]["batch_size"] = 7
    recipe["max_tokens_cot"] = 20
    recipe["sft_weak"]["captions"] = True
    path.write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(path), "--data", str(data), "--json"]) == 1
    printed = capsys.readouterr()
    assert "error: the longest answer of the data has" in printed.err
    assert "error: the 7 completions of a step" in printed.err
    assert "error: sft_weak.captions: no picture of the data has a caption" in printed.err
    assert len(json.loads(printed.out)["problems"]) == 3


@pytest.mark.slow
def test_no_weak_samples_leave_stage_1_1_out(capsys) -> None:
    assert main(["plan", "tiny-rl", "--samples", "20", "--weak-samples", "1"]) == 1
    assert "error: sft_weak has" in capsys.readouterr().err
    assert main(["plan", "tiny-rl", "--samples", "20", "--weak-samples", "0"]) == 0
    page = capsys.readouterr().out
    assert "SFT 1.2" in page and "SFT 1.1" not in page and "stage 1.1" not in page


@pytest.mark.slow
def test_the_command_prints_a_page(capsys) -> None:
    assert main(["plan", "internvl3-1b", "--gpus", "8"]) == 0
    page = capsys.readouterr().out
    for expected in ("938,193,024", "1,280", "reference model", "6,080", "assumed: 434 hard cases"):
        assert expected in page
    assert main(["plan", "internvl3-1b", "--gpu-memory", "8"]) == 1
    assert "error: sft_weak needs" in capsys.readouterr().err


def test_tiles_count_in_tokens_and_memory(tmp_path, capsys) -> None:
    recipe, plans = tmp_path / "four.yaml", []
    recipe.write_text("extends: internvl3-1b\ntiles: 4\n")
    for name in ("internvl3-1b", str(recipe)):
        main(["plan", name, "--json"])
        plans.append(json.loads(capsys.readouterr().out))
    one, four = ({**plan["tokens"], **plan["stages"]["hcm_grpo"]["memory"]["training"]} for plan in plans)
    for growing in ("per_picture", "pictures", "activations of the ViT and projector"):
        assert four[growing] == 5 * one[growing]
    assert four["prompt"] == one["prompt"] + 4 * 1280
    main(["plan", str(recipe)])
    assert "5 of at most 4 tiles of 448 x 448 pixels and a thumbnail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no-such-recipe"], "does not exist"),
        (["internvl3-1b", "--data", "/nowhere"], "is /nowhere a data directory"),
        (["internvl3-1b", "--samples", "3", "--hard-cases", "4"], "more than the 3 samples"),
    ],
)
def test_bad_input_ends_with_status_2(arguments, expected, capsys) -> None:
    assert main(["plan", *arguments]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--gpus", "0"], ["--gpu-memory", "nan"], ["--hard-cases", "-1"]])
def test_impossible_options_are_refused(wrong, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "internvl3-1b", *wrong])
    assert exit_.value.code == 2


def test_json_and_page_tell_the_same_peak() -> None:
    plan = as_json(case(), [], [])
    page = as_text(case(), [])
    for stage in plan["stages"].values():
        assert f"{stage['memory']['peak'] / GIB:.2f}" in page
