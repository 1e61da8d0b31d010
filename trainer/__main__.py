"""The trainer's command line: `python -m trainer COMMAND …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from screening.runtime.commands import CommandLine
from screening.runtime.cpus import limit_threads
from screening.runtime.environment import name_the_user, prevent_reports_and_downloads, use_utf8
from trainer.runs.library_messages import hide_needless_messages

COMMANDS: dict[str, tuple[str, str]] = {
    "render": ("trainer.data.render.command", "draw labelled samples of one original and four generated pictures"),
    "compose": (
        "trainer.data.compose.command",
        "cut products out of photos and paint four pictures of each in new scenes",
    ),
    "import-pairs": (
        "trainer.data.import_pairs.command",
        "group pictures that were judged one by one into samples of four",
    ),
    "collect": (
        "trainer.data.collect.command",
        "make a data directory from the verdicts that people gave on the review page",
    ),
    "annotate": (
        "trainer.data.annotate.command",
        "write captions, reasoning and labels with a teacher model or from known truth",
    ),
    "split": ("trainer.data.split.command", "divide data by product: training, testing, pseudo-label, exploration"),
    "plan": ("trainer.training.plan.command", "estimate the cost of a recipe on given GPUs and check that it can work"),
    "gpu-check": (
        "trainer.training.gpu_check.command",
        "measure time and memory of training steps on a GPU, beside the estimates of `plan`",
    ),
    "random-init": (
        "trainer.research.random_init",
        "write a full-size checkpoint with random weights, to measure time and memory",
    ),
    "import": ("trainer.training.import_base", "convert a downloaded base model into a checkpoint"),
    "pretrain": ("trainer.research.pretrain.command", "train a small base model from random weights"),
    "sft": ("trainer.training.sft.command", "supervised fine-tuning of the language model (stages 1.1 and 1.2)"),
    "pseudo-label": (
        "trainer.training.pseudo_label.command",
        "label unlabelled questions with the checkpoint itself, for self-training",
    ),
    "hard-cases": ("trainer.training.hard_cases.command", "find the training samples that the SFT model answers wrong"),
    "hcm-grpo": ("trainer.training.hcm_grpo.command", "reinforcement learning with hard cases mining (stage 2)"),
    "evaluate": (
        "trainer.evaluation.evaluate.command",
        "score a checkpoint or a model at an endpoint, overall and per dimension",
    ),
    "screen-dataset": (
        "trainer.catalogue.command",
        "screen a whole data set, Parquet in and out, on one machine or on many with Ray",
    ),
    "compare": (
        "trainer.evaluation.compare.command",
        "compare two evaluations of the same data: differences, tests, changed answers",
    ),
    "report": (
        "trainer.training.report.command",
        "draw the curves of a finished or running training, with example decisions of stage 2",
    ),
    "calibrate": (
        "trainer.evaluation.calibrate.command",
        "fit a checkpoint's confidence to validation answers and store it in the manifest",
    ),
    "domain": (
        "trainer.evaluation.domain.command",
        "describe the pictures of the training data, so that the service flags other kinds",
    ),
    "card": ("trainer.release.card", "write a checkpoint's scores into its manifest and its model card"),
    "publish": (
        "trainer.release.publish.command",
        "verify a checkpoint in the real engine, copy it into a store and register it",
    ),
    "promote": ("trainer.release.promote.command", "move a published version into production if it passes the gate"),
    "rollback": ("trainer.release.promote.rollback", "return production to the version before it"),
    "history": ("trainer.release.promote.history", "list what was in production, with dates, names and reasons"),
    "retrain": (
        "trainer.release.retrain.command",
        "run the whole retraining, from new labels to production, if there is enough to learn",
    ),
    "shift": (
        "trainer.research.shift",
        "change the light, contrast and noise of a data directory's pictures, to measure another domain",
    ),
    "ablation": (
        "trainer.research.ablation.command",
        "measure what each part of the method contributes (tables 4 to 7 of the paper)",
    ),
    "bench-train": ("trainer.research.bench_train", "compare the speed of a stage 2 step with TRL's own trainer"),
    "benchmark": ("trainer.research.benchmarks.command", "divide, score and train on public multi-image benchmarks"),
}
"""Command → (module, one line for --help), in the order of a retraining."""

COMMAND_LINE = CommandLine(
    program="trainer",
    commands=COMMANDS,
    heading="commands, in the order of a retraining:",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    limit_threads(os.environ)
    name_the_user(os.environ)
    prevent_reports_and_downloads(os.environ, downloads=arguments[:1] == ["import"])
    hide_needless_messages()
    return COMMAND_LINE.main(arguments)


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
