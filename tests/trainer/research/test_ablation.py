"""The ablation: which commands it runs, that a kill leaves nothing running, and tables from known answers."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.trainer.coloured import make_data
from tests.trainer.published import make_evaluation
from tests.trainer.scripted_engine import make_checkpoint
from trainer.__main__ import COMMANDS, main
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.research.ablation.runner import run
from trainer.research.ablation.tables import tables
from trainer.research.ablation.tasks import Ablation, Task
from trainer.research.ablation.threshold import Best, best
from trainer.research.ablation.variants import COLD_STARTS, NO_COLD_START, VARIANTS, write_recipe
from trainer.training.recipe.recipe import load_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    base = make_checkpoint(tmp_path / "base")
    names = ("training", "pseudo_label", "test")
    data = {name: make_data(tmp_path / name, ("AC", "N", "B", "D") * 15) for name in names}
    return Ablation(tmp_path / "out", "tiny-ablation", base, **data, start="all", seeds=(0, 1), tables=(4, 5, 6, 7))


def test_every_model_is_trained_once_and_after_its_requirements(ablation: Ablation) -> None:
    tasks = ablation.tasks()
    assert len({task.name for task in tasks}) == len(tasks)
    made = {task.result for task in tasks}
    for task in tasks:
        assert task.command[0] in COMMANDS
        assert made.issuperset(path for path in task.needs if not path.exists()), (
            f"nothing makes what {task.name} needs"
        )
    scored = {task.name.removeprefix("scores/") for task in tasks if task.name.startswith("scores/")}
    stage_2 = {f"{name}-from-all-seed-{seed}" for name in VARIANTS for seed in (0, 1)}
    cold_starts = {*COLD_STARTS, *(f"{name}-seed-1" for name in COLD_STARTS if name != "none")}
    no_cold_start = {"none-direct", "sft-direct", "grpo-from-none-seed-0"}
    assert scored == cold_starts | no_cold_start | stage_2
    assert sum(task.name.startswith("first-epochs") for task in tasks) == 2, "shared by the variants of a seed"


def test_table_4_alone_trains_from_the_base_model_only(ablation: Ablation) -> None:
    tasks = {task.name: task.command for task in dataclasses.replace(ablation, tables=(4,)).tasks()}
    assert tasks.keys() == {
        "sft-direct", "hard-cases-none", "grpo-from-none-seed-0",
        *(f"scores/{name}" for name in ("none-direct", "none", "sft-direct", "grpo-from-none-seed-0")),
    }  # fmt: skip

    def value(name: str, option: str) -> str:
        return tasks[name][tasks[name].index(option) + 1]

    for name in ("sft-direct", "hard-cases-none", "grpo-from-none-seed-0"):
        assert value(name, "--checkpoint") == str(ablation.base)
    modes = {name.removeprefix("scores/"): value(name, "--mode") for name in tasks if name.startswith("scores/")}
    assert modes == {"none-direct": "direct", "none": "cot", "sft-direct": "direct", "grpo-from-none-seed-0": "cot"}
    plain = load_recipe("tiny-ablation")
    assert load_recipe(value("sft-direct", "--recipe")).sft_answer.direct_share == 1
    assert plain.hcm_grpo is not None
    expected = plain.hcm_grpo.model_copy(update={"reward": "exact", "last_parts": ("all",)})
    assert load_recipe(value("grpo-from-none-seed-0", "--recipe")).hcm_grpo == expected


def test_only_named_variants_are_trained(ablation: Ablation) -> None:
    some = dataclasses.replace(ablation, tables=(6,), variants=("dpa-grpo", "hcm-grpo"))
    trained = {task.name.partition("-from-")[0] for task in some.tasks() if "-from-all-seed-" in task.name}
    assert trained == {"first-epochs", "dpa-grpo", "scores/dpa-grpo", "hcm-grpo", "scores/hcm-grpo"}
    assert "| GRPO " not in tables(some)


def test_only_questions_of_stage_2_are_asked(ablation: Ablation, tmp_path: Path) -> None:
    def data(of: Ablation) -> dict[str, str]:
        return {t.name: t.command[t.command.index("--data") + 1] for t in of.tasks()}

    questions = make_data(tmp_path / "questions", ("A", "B"))
    taught, asked = data(ablation), data(dataclasses.replace(ablation, questions=questions))
    assert taught.keys() == asked.keys()
    stage_2 = {name for name in taught if name.startswith(("hard-cases", *VARIANTS, "first-epochs"))}
    for name, before in taught.items():
        assert before == str(ablation.test if name.startswith("scores/") else ablation.training) or "weak" in name
        assert asked[name] == (str(questions) if name in stage_2 else before), name
    assert "2 separate questions" in tables(dataclasses.replace(ablation, questions=questions))


def test_a_variant_changes_only_what_its_table_says(ablation: Ablation) -> None:
    recipes = {
        task.name: task.command[task.command.index("--recipe") + 1]
        for task in ablation.tasks()
        if "--recipe" in task.command
    }
    plain = load_recipe("tiny-ablation")
    assert load_recipe(recipes["sft-weak"]).sft_weak == plain.sft_weak.model_copy(update={"captions": False})
    assert load_recipe(recipes["sft-all"]) == plain
    assert load_recipe(recipes["sft-all-seed-1"]).sft_answer == plain.sft_answer.model_copy(update={"seed": 1})
    weak = plain.sft_weak.model_copy(update={"seed": 1})
    assert load_recipe(recipes["sft-captions-weak-seed-1"]).sft_weak == weak
    found = {name: load_recipe(path).hcm_grpo for name, path in recipes.items() if name.endswith("-from-all-seed-0")}
    assert plain.hcm_grpo is not None
    changes = {
        "grpo": {"reward": "exact", "last_parts": ("all",)},
        "dpa-grpo": {"last_parts": ("all",)},
        "hcm-grpo": {"last_parts": ("all", "hard")},
        "hard-only": {"last_parts": ("hard",)},
        "easy-only": {"last_parts": ("easy",)},
        "all-random": {"last_parts": ("all", "random")},
        "first-epochs": {"last_epochs": 0},
    }
    assert found == {
        f"{name}-from-all-seed-0": plain.hcm_grpo.model_copy(update=change) for name, change in changes.items()
    }


def score(directory: Path, checkpoint: Path, ablation: Ablation, *, wrong: int) -> None:
    """Pretend that the checkpoint was trained and answered the first `wrong` samples wrong."""
    checkpoint.parent.mkdir(parents=True)
    make_evaluation(directory, ablation.test, read_manifest(make_checkpoint(checkpoint)), wrong=range(wrong))


def part(text: str, title: str) -> list[str]:
    """The lines of a section."""
    return text.split(f"## {title}")[1].split("## ")[0].splitlines()


def test_rows_show_scores_intervals_and_paired_differences(ablation: Ablation) -> None:
    score(ablation.start_scores("all"), ablation.checkpoint("all"), ablation, wrong=30)
    score(ablation.scores("grpo", 0), ablation.trained("grpo", 0), ablation, wrong=27)
    score(ablation.scores("hcm-grpo", 0), ablation.trained("hcm-grpo", 0), ablation, wrong=12)
    score(ablation.scores("dpa-grpo", 0), ablation.trained("dpa-grpo", 0), ablation, wrong=18)
    text = tables(ablation)
    rows = {line.split("|")[1].strip(): line for line in part(text, "Stage 2 (table 6), seed 0") if "|" in line}
    assert "50.0 (37.7 to 62.3)" in rows["start"]
    assert "80.0 (68.2 to 88.2)" in rows["HCM-GRPO: all + hard"]
    to_start, to_grpo, to_dpa = (cell.strip() for cell in rows["HCM-GRPO: all + hard"].split("|")[5:8])
    assert to_start.startswith("+30.0 (") and to_start.endswith("p 7.63e-06")  # 2 / 2**18
    assert to_grpo.startswith("+25.0 (") and to_grpo.endswith("p 6.1e-05")  # 2 / 2**15
    assert to_dpa.startswith("+10.0 (") and to_dpa.endswith("p 0.0312")  # 2 / 2**6
    assert [cell.strip() for cell in rows["GRPO"].split("|")[6:8]] == ["", ""], "not compared with itself"
    seed_1 = [line for line in part(text, "Stage 2 (table 6), seed 1") if line.startswith("| GRPO")]
    assert [cell.strip() for cell in seed_1[0].split("|")[2:6]] == ["-"] * 4, "not scored yet"
    assert "57.48 / 64.74" in rows["HCM-GRPO: all + hard"], "the paper's"
    assert "45.94 / 53.63" in rows["start"]
    from_answers = tables(dataclasses.replace(ablation, start="answer-driven"))
    assert "39.96 / 51.07" in "".join(part(from_answers, "Stage 2 (table 6), seed 0")), (
        "the paper's score of that start"
    )
    assert "80.0" not in from_answers, "of another start"


def test_the_seeds_that_are_finished_are_averaged(ablation: Ablation) -> None:
    for seed, wrong in ((0, 12), (1, 18)):
        score(ablation.scores("hcm-grpo", seed), ablation.trained("hcm-grpo", seed), ablation, wrong=wrong)
    score(ablation.scores("dpa-grpo", 1), ablation.trained("dpa-grpo", 1), ablation, wrong=24)
    for seed, wrong in ((0, 24), (1, 30)):
        score(ablation.start_scores("weak", seed), ablation.checkpoint("weak", seed), ablation, wrong=wrong)
    make_evaluation(ablation.start_scores("none"), ablation.test, read_manifest(ablation.base), wrong=range(36))
    text = tables(ablation)

    def all_seeds(title: str) -> dict[str, list[str]]:
        rows = (line.split("|") for line in part(text, f"{title}, all seeds") if "|" in line)
        return {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}

    cells = all_seeds("Stage 2 (table 6)")
    assert cells["HCM-GRPO: all + hard"] == ["2", "75.0 (70.0 to 80.0)", "-", "-", "10.0 (10.0 to 10.0)"]
    assert cells["DPA-GRPO: all"] == ["1", "60.0 (60.0 to 60.0)", "-", "-", ""]
    assert cells["GRPO"] == ["0", "-", "-", "", ""]
    assert all_seeds("The last epochs (table 7)")["HCM-GRPO: all + hard"][:2] == ["2", "75.0 (70.0 to 80.0)"]
    assert all_seeds("Cold start (table 5)")["weak reasoning"] == ["2", "55.0 (50.0 to 60.0)", "15.0 (10.0 to 20.0)"]
    weak = next(line for line in part(text, "Cold start (table 5), seed 1") if line.startswith("| weak reasoning"))
    assert "| +10.0 (" in weak and "p 0.0312" in weak


def test_table_4_shows_the_mode_and_whether_a_model_gives_one_answer_to_everything(ablation: Ablation) -> None:
    for name in NO_COLD_START:
        scores, checkpoint = ablation.without_cold_start(name)
        if checkpoint != ablation.base:
            score(scores, checkpoint, ablation, wrong=12)
    text = tables(ablation)
    rows = {line.split("|")[1].strip(): line.split("|") for line in part(text, "No cold start") if "|" in line}
    assert [cell.strip() for cell in rows["SFT on the answers alone"][2:4]] == ["Direct", "80.0 (68.2 to 88.2)"]
    assert "36.75 / 45.94" in rows["SFT on the answers alone"][-2]
    assert rows["GRPO from the base model"][6].strip().endswith(" %")
    assert [cell.strip() for cell in rows["base model"][3:7]] == ["-"] * 4, "not scored yet"


def test_the_best_threshold_is_independent_of_the_models_own() -> None:
    def usable(*values: float) -> dict[str, float]:
        return dict(zip("ABCD", values, strict=True))

    # The two classes are separated perfectly, but the threshold is so high that no picture is ever chosen.
    shy = [(usable(0.4, 0.1, 0.2, 0.1), "A"), (usable(0.1, 0.35, 0.45, 0.2), "BC"), (usable(0.2, 0.1, 0.2, 0.2), "N")]
    assert best(shy) == Best(100.0, 1.0)
    # A threshold that names C alone earns half of BC; one that names B too names the wrong D.
    assert best([(usable(0.4, 0.1, 0.2, 0.1), "A"), (usable(0.1, 0.2, 0.45, 0.3), "BC")]) == Best(100.0, 0.75)
    assert best([*shy, ({}, "D")]) == Best(75.0, 0.75), "an unreadable answer stays wrong"
    assert best([({}, "D")]) is None


def test_scores_of_another_checkpoint_are_not_shown(ablation: Ablation, capsys: pytest.CaptureFixture[str]) -> None:
    score(ablation.start_scores("all"), ablation.checkpoint("all"), ablation, wrong=3)
    shutil.rmtree(ablation.checkpoint("all"))
    make_checkpoint(ablation.checkpoint("all"), weights="trained anew")
    with pytest.raises(EvaluationError, match="another checkpoint"):
        tables(ablation)


def test_tasks_wait_for_their_requirements_and_run_once(tmp_path: Path) -> None:
    def render(name: str, *needs: Path) -> Task:
        out = tmp_path / name
        command = ("render", "--count", "1", "--seed", "1", "--size", "64", "--out", str(out))
        return Task(name, command, out / "samples.jsonl", needs)

    first = render("first")
    second, impossible = render("second", first.result), render("impossible", tmp_path / "never")
    failures = run([second, impossible, first], tmp_path / "logs", jobs=2)
    assert first.done and second.done
    assert failures == ["impossible: not run, because an earlier task has no result"]
    before = second.result.stat().st_mtime_ns
    assert run([second, first], tmp_path / "logs", jobs=1) == []
    assert second.result.stat().st_mtime_ns == before
    broken = Task("broken", ("render", "--count", "0", "--seed", "1", "--out", str(tmp_path)), tmp_path / "no")
    [failure] = run([broken], tmp_path / "logs", jobs=1)
    assert "exit status 2" in failure and "broken.log" in failure
    assert "--count" in (tmp_path / "logs" / "broken.log").read_text()


def _run_long(directory: Path) -> None:
    command = ("render", "--count", "50000", "--seed", "1", "--size", "64", "--out", str(directory / "data"))
    run([Task("long", command, directory / "never")], directory / "logs", jobs=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_ends_its_tasks(number: signal.Signals, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_run_long, args=(tmp_path,))
    process.start()
    assert process.pid is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    child = None
    try:
        limit = time.monotonic() + 120
        log = tmp_path / "logs" / "long.log"
        while not (log.exists() and "sample/s" in log.read_text()):  # the task works
            assert time.monotonic() < limit
            time.sleep(0.1)
        child = int(children.read_text().split()[-1])
        os.kill(process.pid, number)
        process.join(90)
        assert process.exitcode == 128 + number
        assert not Path(f"/proc/{child}").exists()
    finally:
        process.kill()
        if child and Path(f"/proc/{child}").exists():
            os.kill(child, signal.SIGKILL)


def test_a_run_continues_with_other_saves_and_no_other_settings(
    ablation: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(recipe: str, *options: str) -> int:
        command = ["ablation", "--tables-only", "--recipe", recipe, "--base", str(ablation.base)]
        for name in ("training", "pseudo_label", "test"):
            command += [f"--{name.replace('_', '-')}", str(getattr(ablation, name))]
        return main([*command, "--out", str(ablation.out), *options])

    def recipe(**settings: object) -> str:
        return str(write_recipe(tmp_path / "changed.yaml", "tiny-ablation", hcm_grpo=settings))

    monkeypatch.setattr("trainer.research.ablation.tables.tables", lambda _: "tables")
    assert call("tiny-ablation") == 0
    assert call(recipe(save_steps=3, gradient_checkpointing=False, vllm_memory=0.2)) == 0
    assert call(recipe(learning_rate=0.5)) == 2
    assert "other settings or data" in capsys.readouterr().err
    assert call("tiny-ablation", "--seeds", "0,1,2") == 0, "further seeds are added"
    assert call("tiny-ablation", "--seeds", "2") == 2, "the runs of the first seed have no number in their names"
    assert "first_seed 0 there, 2 now" in capsys.readouterr().err


def test_bad_options_are_reported(ablation: Ablation, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ablation", "--base", str(ablation.base), "--out", str(ablation.out), "--test", str(ablation.test)]
    command += ["--training", str(ablation.training), "--pseudo-label", str(ablation.pseudo_label)]
    assert main([*command, "--tables", "3"]) == 2
    assert "choose from 4, 5, 6, 7" in capsys.readouterr().err
    assert main([*command, "--variants", "hcm"]) == 2
    assert "hcm does not exist. Choose from grpo, dpa-grpo" in capsys.readouterr().err
    assert main([*command, "--recipe", "tiny"]) == 2
    assert "schedule: constant" in capsys.readouterr().err
    scored = write_recipe(ablation.out / "scored.yaml", "tiny-ablation", hcm_grpo={"validation": {"every_steps": 5}})
    assert main([*command, "--recipe", str(scored)]) == 2
    assert "Remove `validation` from hcm_grpo" in capsys.readouterr().err
    scored.unlink()
    assert main([*command, "--tables-only"]) == 0
    assert "| no cold start" in capsys.readouterr().out
    assert (ablation.out / "tables.md").is_file()
    assert main([*command, "--tables-only", "--start", "weak"]) == 0, "another start shares what was trained"
    command[command.index("--test") + 1] = str(ablation.training / "nothing")
    assert main([*command, "--tables-only"]) == 2
    assert "samples.jsonl" in capsys.readouterr().err
