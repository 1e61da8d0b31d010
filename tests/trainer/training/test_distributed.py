"""Two processes train together, as `accelerate launch` starts them on two GPUs, but here on the CPU with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import read_manifest
from tests.trainer import forked
from tests.trainer.command_line import ROOT
from tests.trainer.training.validation.overfitting import contradicting_data, scores, training_data, write_recipe
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.training.distributed import on_one_machine
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.saved_states import WHOLE_NAME, last_whole_checkpoint, put_in_place

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]

TOGETHER = [sys.executable, "-m", "torch.distributed.run", *on_one_machine(2)]
"""The program with which `accelerate launch` starts GPU trainings; on a CPU it refuses to start several processes. A
whole training under it is in `release/retrain/test_joining.py`."""


def together(*arguments: object) -> str:
    """Run a command of the trainer in two processes, and return what both print."""
    command = [*map(str, arguments), "--tracking-uri", "none"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(2)]
        started = [
            forked.start(_train, command, file, environment=rank)
            for file, rank in zip(files, forked.ranks(2), strict=True)
        ]
        ended = [forked.end(process) for process in started]
        printed = "".join(file.read_text(encoding="utf-8") for file in files)
    assert ended == [0, 0], printed[-6000:]
    return printed


def _train(command: list[str], output: Path) -> None:
    torch.set_num_threads(1)
    with forked.printing_to(output):
        status = main(command)
    raise SystemExit(status)


def recipe(path: Path, *, batch: int) -> Path:
    sft = {"learning_rate": 1e-3, "batch_size": batch, "epochs": 1, "captions": False}
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": sft, "sft_answer": sft}
    settings["hcm_grpo"] = {"group_size": 2, "batch_size": 2 * batch, "learning_rate": 0.01, "max_completion_tokens": 8}
    settings["hcm_grpo"] |= {"epochs": 1, "last_epochs": 1, "gradient_checkpointing": False}
    settings["hcm_grpo"]["weight_decay"] = 0.9  # random weights earn no reward and would not learn
    path.write_text(yaml.safe_dump(settings))
    return path


def change(checkpoint: Path, start: Path) -> torch.Tensor:
    before, after = (load_file(directory / "model.safetensors") for directory in (start, checkpoint))
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(before)])


def test_two_processes_learn_the_same_as_one_from_the_same_batches_and_stop_at_the_same_step(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    given = ["sft", "--stage", "answer-driven", "--checkpoint", small_checkpoint]
    given += ["--data", training_data(tmp_path / "training")]
    given += ["--validation", contradicting_data(tmp_path / "validation")]
    scored = {"every_steps": 2, "patience": 2}
    together(*given, "--recipe", write_recipe(tmp_path / "half.yaml", scored, batch_size=3), "--out", tmp_path / "two")
    whole = write_recipe(tmp_path / "whole.yaml", scored, batch_size=6)
    alone = [*given, "--recipe", whole, "--out", tmp_path / "one", "--tracking-uri", "none"]
    assert main(list(map(str, alone))) == 0

    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    assert json.loads((tmp_path / "one" / "run.json").read_text())["processes"] == 1
    verify(tmp_path / "two" / "checkpoint")
    assert scores(tmp_path / "two") == scores(tmp_path / "one")
    two, one = (change(tmp_path / run / "checkpoint", small_checkpoint) for run in ("two", "one"))
    assert one.norm() > 0
    assert torch.cosine_similarity(two, one, dim=0) > 0.95


def test_two_processes_share_a_curriculum_and_one_writes(
    tmp_path: Path, small_data: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    write_hard_cases(tmp_path, Cases(names, names[::2]), **digests)
    out = tmp_path / "out"
    given = ["hcm-grpo", "--recipe", recipe(tmp_path / "r.yaml", batch=1), "--checkpoint", small_checkpoint]
    given += ["--data", small_data, "--hard-cases", tmp_path, "--out", out]
    printed = together(*given)
    assert printed.count("3 of 6 questions are hard") == 1
    assert verify(out / "checkpoint").parent == digests["checkpoint"]
    log = json.loads((out / "log.json").read_text())
    # 6 + 9 questions, one per process in a step; the last one is dropped
    assert log[-1]["step"] == 7

    assert main([*map(str, given), "--tracking-uri", "none"]) == 2, "one process would take half the batch"
    assert "other settings" in capsys.readouterr().err


RESUMES = """
import os, shutil, sys
from pathlib import Path
from screening.errors import UserError
from trainer.training import saved_states
from trainer.training.distributed import done_by_first, processes

def say(*words):  # in one write, because both processes have the same output
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

state = processes()
states = Path(sys.argv[1]) / f"seen-by-{state.process_index}"
if state.process_index == 1:  # a network file system shows the newest directory late
    is_whole = saved_states._is_whole
    def late(path):
        saved_states._is_whole = is_whole
        say("sees", path.name, is_whole(path))
        shutil.copytree(states.parent / "seen-by-0" / "checkpoint-4", states / "checkpoint-4")
        return False
    saved_states._is_whole = late
say("met at", os.environ["MASTER_ADDR"])  # the machine's name need not resolve
say("read", state.process_index, done_by_first(lambda: f"by {state.process_index}", state))
def refuse():
    raise UserError("a broken picture")
try:
    done_by_first(refuse, state)
except UserError as error:
    say("refused", state.process_index, error)
say("chosen", state.process_index, Path(saved_states.agreed_state(states, state)).name)
"""
"""Both processes look for the state to continue from; the second one sees an older directory at first. The first one
reads the data for both."""


def test_all_processes_read_once_and_resume_from_the_first_ones_choice(tmp_path: Path) -> None:
    for process, steps in ((0, (2, 4)), (1, (2,))):
        for step in steps:
            saved = tmp_path / f"seen-by-{process}" / f"checkpoint-{step}"
            saved.mkdir(parents=True)
            (saved / WHOLE_NAME).write_text("{}")
    program = tmp_path / "resumes.py"
    program.write_text(RESUMES)
    done = subprocess.run(
        [*TOGETHER, str(program), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.splitlines()) == [
        "chosen 0 checkpoint-4",
        "chosen 1 checkpoint-4",
        "met at 127.0.0.1",
        "met at 127.0.0.1",
        "read 0 by 0",
        "read 1 by 0",
        "refused 0 a broken picture",
        "refused 1 a broken picture",
        "sees checkpoint-4 False",
    ]


def test_a_state_appears_by_one_rename_and_two_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        part = tmp_path / ".partial" / f"checkpoint-{step}"
        part.mkdir(parents=True)
        (part / "weights").write_text(str(step))
        assert last_whole_checkpoint(tmp_path, clean=False) == (
            str(tmp_path / f"checkpoint-{step - 2}") if step > 2 else None
        )
        put_in_place(part, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert (tmp_path / "checkpoint-6" / "weights").stat().st_nlink == 1
