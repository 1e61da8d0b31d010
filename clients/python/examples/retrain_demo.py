"""Screen, correct, retrain, promote: the same questions are answered differently afterwards. All on the tiny model.

    python clients/python/examples/retrain_demo.py --out runs/retrain-demo

A service on the real engine follows a registry and screens a day's questions. The planted truth plays the person who
corrects its decisions. `python -m trainer retrain` learns from the corrections, and the running service loads the new
model. The same command continues where it was stopped; another --out starts from the beginning.

Exit codes: 0 at least one wrong decision is now right; 1 an error, which the message explains; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_products import PICTURES, DemoFailed, agrees
from run_demo import run_demo

from loadtest.targets.local_service import LocalService, local_client, started
from screening.runtime.environment import use_utf8
from screening_client import ScreenRequest

REPOSITORY = Path(__file__).resolve().parents[3]

RECIPE = """\
# As little training as shows an effect: the model learns the corrected questions, and little else.
extends: tiny-rl
name: retrain-demo
sft_answer: {epochs: 6, learning_rate: 2.0e-4}
hcm_grpo: {epochs: 0, last_epochs: 1, last_parts: [all, hard], batch_size: 32, learning_rate: 1.0e-5}
"""
LIMITS = """\
# The test set of the demo is small. A real one has 500 samples and the usual limits.
floors: {calibration: 0.3, position: 30}
margins:
  {overall: 15, dimension: 40, none_precision: 40, none_recall: 40, unreadable: 10, position: 20, calibration: 0.3}
"""
CONFIG = """\
work: {out}/work
data: {{directories: ["{out}/labels/*"], shares: {{sft: 5, questions: 2, validation: 1, test: 2}}}}
training: {{recipe: {out}/recipe.yaml}}
registry: {{store: {out}/store, tracking_uri: "{registry}"}}
when: {{new_labels: 20, new_products: 10, days_after_run: 0, days_after_rollback: 0}}
measuring: {{modes: [cot], limits: {out}/limits.yaml}}
confirm: {{services: ["{url}"], timeout_seconds: 300}}
metrics_file: {out}/retrain.prom
"""


@dataclass(frozen=True)
class Question:
    """One question of the day with its truth."""

    name: str
    folder: Path
    label: str


@dataclass(frozen=True)
class Decided:
    """What the service answered."""

    letters: str
    right: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see the exit codes above."""
    arguments = _arguments(argv)
    return run_demo(
        "retrain-demo",
        lambda: _demo(arguments.out.resolve(), arguments.stock, arguments.questions),
        stopped="Stopped; the same command continues.",
    )


def _demo(out: Path, stock: int, questions: int) -> int:
    registry = f"sqlite:///{out / 'mlflow.db'}"
    _step("1. Labelled stock, a day's questions, and models/tiny in production")
    for name, count, seed in (("labels/stock", stock, 61), ("day", questions, 62)):
        if not (out / name / "samples.jsonl").exists():
            _trainer("render", "--count", count, "--seed", seed, "--size", 192, "--workers", 2, "--out", out / name)
    published = ["--store", out / "store", "--tracking-uri", registry]
    first = out / "first-model"
    if not first.exists():
        _trainer("publish", "--checkpoint", REPOSITORY / "models" / "tiny", *published)
        _trainer("promote", "candidate", "--force", "--reason", "the first model", *published)
        first.touch()
    day = _questions(out / "day")
    options = ["--engine", "vllm", "--checkpoint", str(REPOSITORY / "models" / "tiny"), "--registry", registry]
    options += ["--registry-poll-seconds", "2"]
    _step("2. The service screens the day's questions")
    with started(options, start_seconds=600, on_wait=lambda _: None) as service:
        before = _screened(service, day)
        wrong = [question for question in day if not before[question.name].right]
        print(f"{len(day) - len(wrong)} of {len(day)} decisions are right; a person corrects the other {len(wrong)}.")
        if not wrong:
            raise DemoFailed("every decision is right; give more --questions")
        _correct(out, wrong)
        _step("3. Retraining, from the corrections to production")
        _configure(out, registry, service.url)
        _trainer("retrain", "--config", out / "retrain.yaml")
        _trainer("history", *published)
        _step("4. The same questions again")
        return _compare(day, before, _screened(service, day))


def _correct(out: Path, wrong: Sequence[Question]) -> None:
    """Put the corrected questions among the labels, as a data directory of their own."""
    target = out / "labels" / "corrections"
    if target.exists():
        return
    names = {question.name for question in wrong}
    lines = (out / "day" / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    partial = out / "corrections.partial"
    partial.mkdir(exist_ok=True)
    (partial / "samples.jsonl").write_text("".join(line for line in lines if json.loads(line)["id"] in names))
    pictures = partial / "pictures"
    if not pictures.is_symlink():
        pictures.symlink_to(out / "day" / "pictures")
    partial.rename(target)


def _configure(out: Path, registry: str, url: str) -> None:
    (out / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (out / "limits.yaml").write_text(LIMITS, encoding="utf-8")
    (out / "retrain.yaml").write_text(CONFIG.format(out=out, registry=registry, url=url), encoding="utf-8")


def _compare(day: Sequence[Question], before: dict[str, Decided], after: dict[str, Decided]) -> int:
    wrong = [one for one in day if not before[one.name].right]
    different = [one for one in wrong if before[one.name].letters != after[one.name].letters]
    mended = [one for one in different if after[one.name].right]
    for one in different:
        verdict = "right now" if after[one.name].right else "still wrong"
        print(
            f"  {one.name}: was {before[one.name].letters}, is {after[one.name].letters}, the person said {one.label}: "
            f"{verdict}"
        )
    print(
        f"{len(different)} of {len(wrong)} corrected questions are answered differently, {len(mended)} of them right."
    )
    kept = sum(before[one.name].right and after[one.name].right for one in day)
    print(
        f"Of the {len(day) - len(wrong)} that were right, {kept} still are: {len(day)} questions, {len(wrong)} wrong "
        f"before and {sum(not after[one.name].right for one in day)} after."
    )
    return 0 if mended else 1


def _screened(service: LocalService, questions: Sequence[Question]) -> dict[str, Decided]:
    requests = [
        ScreenRequest(
            original=one.folder / "original.jpg",
            generated=[one.folder / f"{name}.jpg" for name in PICTURES],
            mode="cot",
        )
        for one in questions
    ]
    with local_client(service.url) as client:
        answers = client.screen_many(requests, concurrency=4)
    return {
        one.name: Decided(
            "".join(answer.acceptable) or answer.choice or "-",
            agrees(answer.acceptable, one.label, answered=answer.answered),
        )
        for one, answer in zip(questions, answers, strict=True)
    }


def _questions(data: Path) -> list[Question]:
    lines = (data / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    return [Question(one["id"], (data / one["original"]["file"]).parent, one["label"]) for one in samples]


def _trainer(*arguments: object) -> None:
    """Run a command of the trainer.

    Raises:
        DemoFailed: it ended with an error.
    """
    words = [str(argument) for argument in arguments]
    print(f"$ python -m trainer {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "trainer", *words], cwd=REPOSITORY, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise DemoFailed(
            f"`python -m trainer {words[0]}` ended with status {done.returncode}; the same command continues"
        )


def _step(title: str) -> None:
    print(f"\n{title}\n", flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "retrain-demo", help="default: %(default)s")
    parser.add_argument("--stock", type=int, default=400, metavar="N", help="labelled samples (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=160, metavar="N", help="of the day (default: %(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
