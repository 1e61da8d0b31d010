"""Tracking: one MLflow run per run directory, each step sent once, and no training that fails because of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from trl import SFTConfig

from screening.checkpoint.manifest import read_manifest, store_manifest
from screening.checkpoint.registry import without_password
from screening.prompt import COMPACT
from tests.trainer.contracts import SMALL
from trainer.__main__ import main
from trainer.data_directory import read_samples
from trainer.reward import reward_functions, score_dpa, score_format
from trainer.runs.run_directory import ORIGIN_NAME, claim
from trainer.training.hcm_grpo.train import build_trainer
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows
from trainer.training.tracking import tracker as tracking
from trainer.training.tracking.callbacks import ExampleKeeper, LogFile
from trainer.training.tracking.examples import PICTURES_NAME, Completion, keep_example, read_examples
from trainer.training.tracking.store import Store, TrackingError, choose_store
from trainer.training.tracking.tracker import Tracker, track

pytestmark = pytest.mark.slow

ORIGIN = {"stage": "sft-weak", "settings": {"epochs": 5, "learning_rate": 0.001}, "parent": "sha256:aa", "limit": None}
NOBODY = Store("http://127.0.0.1:9", None)
"""A store at the discard port, where no tracking server listens."""


class Killed(BaseException):
    """Simulates the end of the process."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, because MLflow needs seconds to create its tables."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    """The default store of a training in a directory under `tmp_path`."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    found = choose_store(None, tmp_path / "run")
    assert found is not None
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    claim(tmp_path / "run", ORIGIN)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(autouse=True)
def patient_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, a store that answers may need longer than a training waits for it."""
    for status in tracking._PATIENCE:
        monkeypatch.setitem(tracking._PATIENCE, status, 600.0)


def steps(*numbers: int) -> list[dict[str, Any]]:
    return [{"loss": 10.0 - n, "rewards/dpa_reward/mean": n / 10, "step": n, "time": 1e9 + n} for n in numbers]


def only_run(store: Store) -> Run:
    (run,) = MlflowClient(tracking_uri=store.uri).search_runs(["1"])
    return run


def history(store: Store, key: str) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=store.uri)
    return sorted((m.step, m.value) for m in client.get_metric_history(only_run(store).info.run_id, key))


def test_a_store_is_the_options_the_environments_or_a_database_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = choose_store(None, tmp_path / "runs" / "sft")
    assert default == Store(f"sqlite:///{tmp_path}/runs/mlflow.db", f"file://{tmp_path}/runs/mlartifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@mlflow.example")
    server = choose_store(None, tmp_path)
    assert server is not None and server.artifacts is None
    assert str(server) == "https://anna:***@mlflow.example"
    assert "secret" not in without_password(f"API request to {server.uri}/api failed")
    assert choose_store("sqlite:////elsewhere/a.db", tmp_path) == Store(
        "sqlite:////elsewhere/a.db", "file:///elsewhere/mlartifacts"
    )
    assert choose_store("none", tmp_path) is None
    with pytest.raises(TrackingError, match=r"'mlflow\.db' is not the URI"):
        choose_store("mlflow.db", tmp_path)


def test_scores_of_a_step_are_recorded_beside_its_other_metrics(store: Store, out: Path) -> None:
    with track(store, out, ORIGIN) as tracker:
        tracker.record([*steps(5), {"validation/score": 40.0, "step": 5, "time": 1e9 + 6}, *steps(10)])
    assert history(store, "validation/score") == [(5, 40.0)]
    assert history(store, "loss") == [(5, 5.0), (10, 0.0)]


def test_a_run_has_parameters_metrics_files_and_how_it_ended(store: Store, out: Path) -> None:
    with track(store, out, ORIGIN) as tracker:
        (out / "log.json").write_text("[]")
        tracker.record(steps(5, 10))
        tracker.checkpoint = "sha256:bb"
    run = only_run(store)
    assert run.data.params == {
        "stage": "sft-weak",
        "settings.epochs": "5",
        "settings.learning_rate": "0.001",
        "parent": "sha256:aa",
        "limit": "None",
    }
    assert history(store, "loss") == [(5, 5.0), (10, 0.0)]
    assert history(store, "rewards/dpa_reward/mean") == [(5, 0.5), (10, 1.0)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["checkpoint"] == "sha256:bb"
    assert run.data.tags["version"]
    client = MlflowClient(tracking_uri=store.uri)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {ORIGIN_NAME, "log.json"}
    assert json.loads((out / "mlflow.json").read_text())["run_id"] == run.info.run_id


def test_repeated_steps_are_in_the_run_once(store: Store, out: Path) -> None:
    with pytest.raises(Killed), track(store, out, ORIGIN) as tracker:
        tracker.record(steps(5, 10, 15))
        raise Killed
    assert only_run(store).info.status == "FAILED"
    with track(store, out, ORIGIN) as tracker:
        tracker.record(steps(5, 10))
        tracker.record(steps(5, 10, 15, 20))
        tracker.record([*steps(5, 10, 15, 20), {"train_loss": 1.0, "step": 20, "time": 2e9}])
    assert history(store, "loss") == [(5, 5.0), (10, 0.0), (15, -5.0), (20, -10.0)]
    assert history(store, "train_loss") == [(20, 1.0)], "the summary shares its step with the last record"
    assert only_run(store).info.status == "FINISHED"


def test_a_store_that_does_not_answer_costs_a_warning_and_is_caught_up_with_later(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with track(NOBODY, out, ORIGIN) as tracker:
        tracker.record(steps(5))
        tracker.record(steps(5, 10))
    said = capsys.readouterr().err
    assert said.count("warning: the tracking store") == 1
    assert "127.0.0.1:9" in said and f"{out}/log.json" in said
    with track(store, out, ORIGIN) as tracker:
        tracker.record(steps(5, 10))
    assert history(store, "loss") == [(5, 5.0), (10, 0.0)]


def test_a_store_that_hangs_delays_neither_a_step_nor_the_end(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, asked = threading.Event(), threading.Event()

    class Hanging:
        def __init__(self, *_: object) -> None:
            asked.set()
            answer.wait()
            raise ConnectionError("gone")

    monkeypatch.setattr(tracking, "MlflowRun", Hanging)
    monkeypatch.setitem(tracking._PATIENCE, "FINISHED", 0.1)
    tracker = Tracker(store, out, ORIGIN)
    tracker.record(steps(5))
    assert asked.wait(300)
    tracker.record(steps(5, 10))
    tracker.end("FINISHED")
    assert "no answer" in capsys.readouterr().err
    answer.set()


def test_only_the_first_of_several_processes_tracks(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with track(store, out, ORIGIN) as tracker:
        tracker.record(steps(5))
    assert not (out / "mlflow.json").exists()


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    stage = "{epochs: 1, batch_size: 2, learning_rate: 0.001, captions: %s}"
    path.write_text(
        "name: small\nprompt: compact\nmax_tokens_cot: 256\n"
        f"sft_weak: {stage % 'true'}\nsft_answer: {stage % 'false'}\n"
    )
    return str(path)


@pytest.fixture
def logged_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every step is logged, every second one saved."""
    monkeypatch.setattr(
        "trainer.training.sft.train.SFTConfig",
        lambda **given: SFTConfig(**{**given, "logging_steps": 1, "save_steps": 2}),
    )
    yield


def test_a_killed_training_continues_in_its_run(
    recipe: str,
    small_data: Path,
    small_checkpoint: Path,
    store: Store,
    logged_steps: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["sft", "--stage", "weak", "--recipe", recipe, "--checkpoint", str(small_checkpoint)]
    command += ["--data", str(small_data), "--out", str(tmp_path / "run"), "--limit", "2"]

    def logged_and_killed(self: LogFile, args: Any, state: Any, *others: Any, **more: Any) -> None:
        LogFile.on_log(self, args, state, *others, **more)
        if state.global_step == 5:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("trainer.training.finetuning.LogFile", type("Killing", (LogFile,), {"on_log": logged_and_killed}))
        main(command)
    assert [step for step, _ in history(store, "loss")] == [1, 2, 3, 4, 5]
    began = only_run(store).info.run_id

    assert main(command) == 0
    run = only_run(store)
    assert (run.info.run_id, run.info.status) == (began, "FINISHED")
    assert run.data.tags["checkpoint"] == read_manifest(tmp_path / "run" / "checkpoint").digest
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    losses = [(record["step"], record["loss"]) for record in log if "loss" in record]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in history(store, "loss")] == [1, 2, 3, 4, 5, 6]
    assert dict(history(store, "loss")) == pytest.approx(dict(losses)), "step 5 was repeated, with the same result"


def test_a_finished_training_sends_what_the_store_missed_and_changes_nothing(
    recipe: str, small_data: Path, small_checkpoint: Path, store: Store, logged_steps: None, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    checkpoint, log = run / "checkpoint", run / "log.json"
    command = ["sft", "--stage", "answer-driven", "--recipe", recipe, "--checkpoint", str(small_checkpoint)]
    command += ["--data", str(small_data), "--out", str(run)]
    assert main([*command, "--tracking-uri", "none"]) == 0
    scored = read_manifest(checkpoint).model_copy(update={"scores": {"cot": {"percent": 93.7}}})
    store_manifest(scored, checkpoint)
    written = log.read_text()
    summary = json.loads(written)[-1]

    assert main(command) == 0
    assert read_manifest(checkpoint) == scored and log.read_text() == written
    assert [step for step, _ in history(store, "loss")] == [1, 2, 3]
    assert history(store, "train_loss") == [(3, pytest.approx(summary["train_loss"]))] and summary["train_loss"] > 0
    assert only_run(store).data.tags["checkpoint"] == scored.digest

    shutil.rmtree(checkpoint)  # as if a kill had come before it was written
    assert main(command) == 0
    assert read_manifest(checkpoint).files == scored.files
    assert log.read_text() == written, "the summary is still that of the steps"


def test_a_wrong_tracking_address_ends_with_status_2(
    recipe: str, small_data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sft", "--stage", "weak", "--recipe", recipe, "--checkpoint", str(small_checkpoint)]
    command += ["--data", str(small_data), "--out", str(tmp_path / "run"), "--tracking-uri", "runs/mlflow"]
    assert main(command) == 2
    assert "'runs/mlflow'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_stage_2_keeps_example_groups_with_their_rewards(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    samples = {sample.id: sample for sample in read_samples(small_data)}
    settings = HcmGrpoRecipe(
        group_size=2, batch_size=4, learning_rate=0.01, max_completion_tokens=8, gradient_checkpointing=False
    )
    rows = rollout_rows(list(samples.values())[:4], COMPACT)
    rewards = reward_functions("dpa", samples)
    trainer = build_trainer(small_checkpoint, dataset(rows, small_data, SMALL), rewards, settings, tmp_path / "trl")
    trainer.args.logging_steps = 1
    trainer.keeper = ExampleKeeper(tmp_path, small_data, samples)
    trainer.add_callback(trainer.keeper)
    trainer.train()
    (example,) = read_examples(tmp_path)
    sample = next(iter(samples.values()))
    assert (example.step, example.id, example.label) == (1, sample.id, sample.label), (
        "the first group of the first step"
    )
    assert len(example.group) == 2
    for completion in example.group:
        text = completion.text
        assert completion.rewards == {"format_reward": score_format(text), "dpa_reward": score_dpa(text, sample.label)}
        assert 0 < completion.tokens <= 8
    assert [text == "usable" for text in example.truth] == [picture.usable for picture in sample.generated]
    assert all((tmp_path / PICTURES_NAME / file).read_bytes()[:2] == b"\xff\xd8" for file in example.pictures)


def test_examples_of_repeated_steps_are_replaced(small_data: Path, tmp_path: Path) -> None:
    first, second, *_ = read_samples(small_data)

    def keep(sample: Any, step: int, text: str) -> None:
        keep_example(tmp_path, small_data, sample, step, [Completion(text=text, tokens=1, rewards={})])

    for step, text in ((5, "five"), (55, "killed after this"), (105, "and this")):
        keep(first, step, text)
    pictures = set((tmp_path / PICTURES_NAME).iterdir())
    assert len(pictures) == 5, "the same question takes no more space"
    keep(second, 55, "resumed")
    assert [(e.step, e.id, e.group[0].text) for e in read_examples(tmp_path)] == [
        (5, first.id, "five"),
        (55, second.id, "resumed"),
    ]
    assert pictures < set((tmp_path / PICTURES_NAME).iterdir())
