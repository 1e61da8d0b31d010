"""The command `trainer gpu-check`, with a tiny model on the CPU."""

from __future__ import annotations

import _thread
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.__main__ import main
from trainer.training.gpu_check.from_recipe import make_order
from trainer.training.gpu_check.order import Order
from trainer.training.gpu_check.processes import run_until

pytestmark = pytest.mark.slow

TINY = ("--device", "cpu", "--scale", "tiny", "--repeats", "1")
ABSENT = ("vllm", "trl", "peft", "bitsandbytes", "datasets", "mlflow", "ray", "pydantic")
"""Packages that a machine with torch, transformers and accelerate need not have."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(tmp_path: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "out.json"
    assert main(["gpu-check", "internvl3-2b", *TINY, *options, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def measure_order(order: Order, tmp_path: Path) -> dict[str, Any]:
    file, out = tmp_path / "order.json", tmp_path / "out.json"
    file.write_text(order.as_json())
    options = ["--order", str(file), "--device", "cpu", "--repeats", "1", "--out", str(out)]
    assert main(["gpu-check", *options]) == 0
    return json.loads(out.read_text())


def test_what_is_held_has_the_estimated_size_and_every_part_has_a_time(tmp_path, capsys) -> None:
    found = measure(tmp_path)
    tasks = {task["title"]: task for task in found["tasks"]}
    assert list(tasks) == [
        f"{stage}, {way}" for way in ("full fine-tuning", "LoRA", "QLoRA") for stage in ("SFT", "stage 2")
    ]
    for title, task in tasks.items():
        assert not task["note"]
        # Frozen weights are in float32 on a CPU, and plan's estimate is for a GPU.
        held = {"gradients", "optimizer (AdamW)"} | ({"weights"} if "full" in title else set())
        held |= {"reference model"} & set(task["ratios"])
        assert all(task["ratios"][use] == pytest.approx(1, abs=0.01) for use in held)
        assert all(seconds > 0 for seconds in task["seconds"].values())
    stage_2 = tasks["stage 2, full fine-tuning"]
    assert set(stage_2["seconds"]) == {
        "rollouts",
        "reference log-probabilities",
        "policy, forward and backward",
        "optimizer step",
        "step",
    }
    assert "reference model" in stage_2["memory"]
    assert "reference model" not in tasks["stage 2, LoRA"]["memory"]
    assert tasks["SFT, QLoRA"]["memory"]["weights"] < tasks["SFT, LoRA"]["memory"]["weights"]
    assert found["machine"]["versions"]["torch"] == torch.__version__
    page = capsys.readouterr().out
    assert "2 processes: not measured" in page


def test_a_task_that_does_not_fit_is_a_result(tmp_path, capsys) -> None:
    found = measure(tmp_path, "--gpu-memory", "0.001")
    assert {task["note"] for task in found["tasks"]} == {
        "out of memory. Halve batch_size and double gradient_accumulation"
    }
    printed = capsys.readouterr()
    assert printed.out.count("out of memory") == len(found["tasks"])
    assert "[6/6]" in printed.err


def test_passes_without_whole_groups_are_skipped_and_the_other_tasks_are_measured(tmp_path) -> None:
    order = make_order("internvl3-2b", "tiny")
    broken = (replace(task, batch_size=2, passes=2) if task.stage == "hcm_grpo" else task for task in order.tasks[:2])
    found = measure_order(replace(order, tasks=tuple(broken)), tmp_path)
    sft, grpo = found["tasks"]
    assert sft["seconds"]["step"] > 0 and not sft["note"]
    assert grpo["note"].startswith("not measured: batch_size 2 is not divisible by group_size 4")


def test_a_task_that_fails_is_a_note_and_the_other_tasks_are_measured(tmp_path, monkeypatch, capsys) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the kernel\nhas no image")

    monkeypatch.setattr("trainer.training.gpu_check.steps._measure_sft", fail)
    order = make_order("internvl3-2b", "tiny")
    found = measure_order(replace(order, tasks=order.tasks[:2]), tmp_path)
    sft, grpo = found["tasks"]
    assert sft["note"] == "failed: ValueError: the kernel has no image"
    assert grpo["seconds"]["step"] > 0 and not grpo["note"]
    printed = capsys.readouterr()
    assert sft["note"] in printed.out
    assert "Traceback" in printed.err, "to find the cause"


def test_a_used_up_budget_drops_the_rest(tmp_path) -> None:
    found = measure(tmp_path, "--time-budget", "0.001")
    assert {task["note"] for task in found["tasks"]} == {"not measured: the time budget was used up"}
    assert not any(task["seconds"] for task in found["tasks"])


def test_nothing_but_torch_transformers_and_accelerate_is_needed(tmp_path) -> None:
    order, out = tmp_path / "order.json", tmp_path / "out.json"
    order.write_text(make_order("internvl3-2b", "tiny").as_json())
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"  # None stops an import
        "from trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["gpu-check", "--order", str(order), "--device", "cpu", "--repeats", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tasks = {task["title"]: task for task in json.loads(out.read_text())["tasks"]}
    for title, task in tasks.items():
        assert task["note"] == ("not measured: peft is not installed" if "LoRA" in title else "")
        assert bool(task["seconds"]) is ("LoRA" not in title)


def test_two_processes_exchange_gradients(tmp_path) -> None:
    found = measure(tmp_path, "--gpu-memory", "0.001", "--processes", "2")["processes"]
    assert found["processes"] == 2
    assert found["seconds"] > 0
    assert found["buckets"] == pytest.approx(found["estimated_buckets"], rel=0.05)


@pytest.mark.exhaustive  # test_a_used_up_budget_drops_the_rest holds the budget in one process
def test_processes_end_with_the_budget(tmp_path) -> None:
    found = measure(tmp_path, "--time-budget", "0.001", "--processes", "2")["processes"]
    assert found == {"processes": 2, "note": "not measured: the time budget was used up"}


def test_an_interrupted_measurement_ends_its_processes(tmp_path, wait_until, monkeypatch) -> None:
    noted, waiting = tmp_path / "pid", threading.Event()
    sleeps = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    class Launcher(subprocess.Popen):
        def wait(self, timeout=None):
            waiting.set()
            return super().wait(timeout)

    def interrupt() -> None:
        wait_until(lambda: noted.exists() and noted.read_text())
        assert waiting.wait(300)
        _thread.interrupt_main()

    monkeypatch.setattr(subprocess, "Popen", Launcher)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_until(time.monotonic() + 600, [sys.executable, "-c", sleeps])
    assert not Path("/proc", noted.read_text()).exists()


def test_wrong_input_ends_with_status_2(tmp_path, capsys) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    assert main(["gpu-check", "--order", str(wrong)]) == 2
    assert "is not a specification of gpu-check" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["gpu-check"]) == 2
        assert "Give --device cpu --scale tiny" in capsys.readouterr().err
