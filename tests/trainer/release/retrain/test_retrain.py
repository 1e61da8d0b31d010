"""A retraining from labels to production: its outcomes, its skipped stages and its reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.registry import CANDIDATE
from tests.trainer.published import make_data
from tests.trainer.release.retrain.shop import ALL_NEW, SAMPLES, Shop
from trainer.release.promote.rollback import rollback

pytestmark = pytest.mark.slow


def test_a_better_model_comes_into_production(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = shop.production
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "promoted" and run.stages["confirm"].result["skipped"]
    assert shop.production == run.stages["calibrate"].result["digest"] != before
    last = shop.history.moves[-1]
    assert last.reason is not None and run.id in last.reason and last.gate is not None and last.gate.passed
    printed = capsys.readouterr().out
    assert f"run: {ALL_NEW}" in printed and "[12/12] confirm: left out" in printed
    page = (shop.work / "runs" / run.id / "report.html").read_text()
    assert "promoted" in page and "score, against production" in page and "flips.html" in page
    assert 'outcome="promoted"' in shop.metrics and "screening_retrain_exit_status 0.0" in shop.metrics
    version = shop.registry.resolve(CANDIDATE)
    assert version is not None and version.tags["retrain.report"].endswith(f"{run.id}/report.html")


def test_production_is_found_where_the_store_is_mounted(shop: Shop) -> None:
    shop.put_into_production("by-hand")
    mounted = (shop.folder / "store").rename(shop.folder / "mounted")
    shop.config["registry"]["store"] = str(mounted)
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "promoted"
    assert run.stages["decide"].result["start"]["directory"] == str(mounted / "by-hand")
    assert shop.production == run.stages["calibrate"].result["digest"]


def test_a_worse_model_is_refused_reported_and_no_failure(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before, shop.scripted.wrong_after = shop.production, range(0, 400, 2)
    shop.scripted.wrong_before = ()
    shop.config["measuring"].pop("limits")
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "refused" and "score, against production" in run.message
    assert shop.production == before and len(shop.history.moves) == 1 and "promote" not in run.stages
    assert "class=no" in (shop.work / "runs" / run.id / "report.html").read_text()
    assert shop.call() == 0, "the labels of a refused run are not new"
    assert "skip: 0 labels are new or changed" in capsys.readouterr().out


def test_few_labels_products_and_money_and_recent_runs_are_reasons_to_skip(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.config["when"] = {"new_labels": SAMPLES + 1, "new_products": 200, "days_after_rollback": 2}
    shop.config["budget"] = {"gpu_hours_per_month": 0}
    shop.put_into_production("newer")
    rollback(shop.registry, by="ann", reason="wrong shadows")
    assert shop.call() == 0
    decision = shop.state.decision
    assert decision is not None and decision.decision == "skip" and decision.new_labels == SAMPLES
    for reason in (
        f"when.new_labels asks for {SAMPLES + 1}",
        "when.new_products asks for 200",
        "rolled back",
        "of this month's 0",
    ):
        assert reason in decision.reason
    assert shop.scripted.asked == [] and shop.state.run is None
    assert "skip: " in capsys.readouterr().out


def test_a_run_that_just_ended_is_a_reason_to_skip(shop: Shop) -> None:
    assert shop.call() == 0
    shop.config["when"] = {"new_labels": 0, "new_products": 0, "days_after_run": 1}
    assert shop.call() == 0
    decision = shop.state.decision
    assert decision is not None and "the last run ended" in decision.reason


def test_new_directories_are_found_and_the_test_set_stays(shop: Shop, tmp_path: Path) -> None:
    shop.config["data"]["directories"].append(str(tmp_path / "labels-*"))
    renamed(make_data(tmp_path / "labels-1", 60), "first")
    assert shop.call() == 0
    frozen = (shop.work / "split" / "testing" / "samples.jsonl").read_bytes()
    first = shop.production
    renamed(make_data(tmp_path / "labels-2", 60), "second")
    assert shop.call() == 0
    assert (shop.work / "split" / "testing" / "samples.jsonl").read_bytes() == frozen
    run = shop.state.run
    assert run is not None and run.outcome == "promoted" and run.reason == "60 new labels of 60 products"
    assert shop.production != first and run.stages["split"].result["held_back"] > 0
    trained_on = (shop.work / "split" / "training" / "samples.jsonl").read_text()
    assert '"second-' in trained_on


def test_a_changed_label_is_new_and_one_of_the_test_set_is_not_taken(shop: Shop, labels: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "own", SAMPLES)
    shop.config["data"]["directories"] = [str(data)]
    assert shop.call() == 0
    frozen = (shop.work / "split" / "testing" / "samples.jsonl").read_text()
    lines = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    tested = json.loads(frozen.splitlines()[0])["id"]
    for line in lines:
        if line["id"] == tested:
            line["comment"] = line["generated"][0]["comment"] = "looked at again"
        line["generated"][1]["comment"] = "new words decide nothing" if not line["generated"][1]["usable"] else ""
    flipped = next(line for line in lines if line["label"] == "N" and f'"{line["id"]}"' not in frozen)
    flipped["generated"][0] |= {"usable": True, "dimensions": [], "severity": 0}
    flipped["label"] = "A"
    for line in lines:
        line.pop("comment", None)
    (data / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shop.config["when"] |= {"new_labels": 1, "new_products": 1}
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.reason == "1 new labels of 1 products"
    assert run.stages["collect"].result["changed_in_test_set"] > 0
    assert (shop.work / "split" / "testing" / "samples.jsonl").read_text() == frozen


def test_deciding_alone_prints_one_line_of_json_and_starts_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.call("--decide-only") == 0
    assert json.loads(capsys.readouterr().out) == {
        "decision": "run",
        "reason": ALL_NEW,
    }
    shop.config["when"]["new_labels"] = 1000
    assert shop.call("--decide-only") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["decision"] == "skip" and "when.new_labels asks for 1000" in said["reason"]
    assert shop.scripted.asked == [] and shop.state.run is None


def test_a_dry_run_changes_nothing_and_the_last_run_is_explained(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.call("--dry-run") == 0
    assert "A new run would run all stages: decide, collect" in capsys.readouterr().out
    assert not shop.work.exists()
    assert shop.call("--explain") == 0
    assert "no run and no decision yet" in capsys.readouterr().out
    shop.call()
    capsys.readouterr()
    assert shop.call("--explain") == 0
    printed = capsys.readouterr().out
    assert "promoted; version 2 is in production" in printed and "hard-cases: hard " in printed


def test_a_production_that_others_moved_ends_the_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish_and_promote_another(**arguments: str) -> dict[str, str]:
        shop.put_into_production("by-hand")
        return real(**arguments)

    real = shop.scripted.publish
    monkeypatch.setattr(shop.scripted, "publish", publish_and_promote_another)
    assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "superseded" and "is version 2 now" in run.message


def test_the_first_model_starts_from_the_base(
    shop: Shop, tmp_path: Path, registry_file: Path, empty_registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry_file.write_bytes(empty_registry.read_bytes())
    for options in ((), ("--decide-only",), ("--dry-run",)):  # deciding must not ask for a GPU in vain
        assert shop.call(*options) == 2, "nothing is in production, and there is no base"
        assert "set training.base" in capsys.readouterr().out
    before = shop.state
    assert before.run is None
    shop.config["training"]["base"] = str(tmp_path / "store" / "old")
    assert shop.call() == 0
    assert shop.production is not None and shop.state.run is not None
    assert shop.state.run.stages["gate"].result["flips"] is None


def test_data_that_cannot_be_used_are_bad_input(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import main

    shop.config["data"]["directories"] = [str(shop.folder / "none-*")]
    assert main(["retrain", "--config", str(shop.file())]) == 2
    assert "nothing matches" in capsys.readouterr().err
    shop.config["typo"] = 1
    assert main(["retrain", "--config", str(shop.file())]) == 2
    assert "typo" in capsys.readouterr().err


def test_a_registry_that_does_not_answer_has_its_own_exit_status(shop: Shop) -> None:
    from trainer.__main__ import main

    shop.config["registry"]["tracking_uri"] = "http://127.0.0.1:1"
    assert main(["retrain", "--config", str(shop.file())]) == 3


def test_a_training_is_scored_on_the_validation_part_if_its_section_of_the_recipe_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str | None] = {}
    real = {"sft": shop.scripted.sft, "hcm_grpo": shop.scripted.hcm_grpo}

    def remembered(stage: str) -> Callable[..., dict[str, Any]]:
        def run(**arguments: Any) -> dict[str, Any]:
            given[stage] = arguments["validation"]
            return real[stage](**arguments)

        return run

    for stage in real:
        monkeypatch.setattr(shop.scripted, stage, remembered(stage))
    recipe = shop.folder / "scored.yaml"
    recipe.write_text(
        f"extends: {shop.folder}/recipe.yaml\nname: scored\nhcm_grpo: {{validation: {{every_steps: 50}}}}\n"
    )
    shop.config["training"]["recipe"] = str(recipe)
    assert shop.call() == 0
    assert given == {"sft": None, "hcm_grpo": str(shop.work / "split" / "exploration")}


def renamed(data: Path, prefix: str) -> None:
    """Give the samples and products new names, and their pictures new bytes."""
    from PIL import Image

    lines = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["id"], line["product"] = f"{prefix}-{number}", f"{prefix}-{line['product']}"
        for file in (line["original"]["file"], *(one["file"] for one in line["generated"])):
            Image.new("RGB", (40, 36), (number, len(prefix), 99)).save(data / file)
    (data / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_deciding_needs_neither_torch_nor_an_engine(shop: Shop, repository: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from trainer.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'datasets'} & {n.partition('.')[0] for n in sys.modules}; "
        "assert not heavy, heavy; sys.exit(status)"
    )
    given = ["retrain", "--config", str(shop.file()), "--decide-only"]
    done = subprocess.run(
        [sys.executable, "-c", program, *given], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"] == "run"


def test_too_few_samples_for_a_step_are_refused_before_anything_is_trained(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.config["training"]["recipe"] = "tiny-rl"
    assert shop.call() == 2
    assert "sft_answer has 10 rows to train on, fewer than the 16 of one step" in capsys.readouterr().err
    assert shop.scripted.asked == []
