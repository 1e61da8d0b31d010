"""The complete commands against services that start in a second: their figures, the faults that they detect, and their
files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from loadtest.__main__ import COMMANDS, main
from loadtest.commands import idle_swap, kill, soak, swap, sweep
from loadtest.results.record import RunRecorder
from loadtest.results.summary import load_figures
from loadtest.targets.canary_checkpoints import Canary
from loadtest.targets.local_service import started
from loadtest.targets.swapping import CanaryError
from screening.answer import Mode
from screening.checkpoint.manifest import Decoding, ImageContract
from screening.checkpoint.probes import Probe, Probes
from screening.errors import CheckpointError
from screening.prompt import COMPACT
from screening_client import constants
from tests.loadtest.alphabet_service import LETTERS
from tests.service.obedient_engine import write_sealed

HERE = Path(__file__).parent
PLOTS = {"latency.png", "distribution.png"}


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_every_command_is_in_the_overview(arguments, capsys) -> None:
    assert main(arguments) == (0 if arguments else 2)
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_is_for(name, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert "default:" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_only_a_command_that_records_a_run_says_where_the_run_is_kept(name, capsys) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ("Each run writes its own directory" in shown) == ("new directory for requests.jsonl" in shown)


def test_an_unknown_command_is_refused(capsys) -> None:
    assert main(["swop"]) == 2
    assert "swap" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "--picture-sizes", "800"],
        ["sweep", "--rates", "1,0"],
        ["sweep", "--rates", "2,2"],
        ["swap", "--clients", "0"],
        ["soak", "--rate", "nan"],
    ],
)
def test_numbers_that_make_no_load_are_refused(arguments) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2


def test_nothing_is_written_over_an_earlier_run(tmp_path, capsys) -> None:
    (tmp_path / "summary.json").write_text("{}")
    assert main(["sweep", "--engine", "scripted", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "{}"


@pytest.mark.parametrize("command", ["bench", "sweep", "soak", "observe"])
def test_a_service_that_is_not_there_gets_no_load(command, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(constants, "POLL_INTERVAL", 60)  # longer than all the time, so it asks once and does not wait
    out = ["--questions", str(tmp_path / "questions")] if command == "bench" else ["--out", str(tmp_path / "run")]
    assert main([command, "--base-url", "http://127.0.0.1:1", *out]) == 1
    assert "was not ready within 5 s: cannot connect to http://127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "questions").exists()


@pytest.mark.slow
def test_a_sweep_finds_where_the_service_stops_keeping_up(parse, left, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "WARM_UP_SECONDS", 0.5)
    # Two hundred milliseconds an answer, one at a time: five a second at most.
    options = ["--engine", "scripted", "--scripted-latency-ms", "200", "--max-concurrent", "1", "--max-queue", "3"]
    with started(options, start_seconds=300, on_wait=lambda _: None) as service:
        args = parse(
            "sweep",
            "--rates",
            "1,30",
            "--seconds",
            "3",
            "--base-url",
            service.url,
            "--picture-sizes",
            "96x96",
            "--out",
            str(tmp_path / "run"),
        )
        assert sweep.run(args) == 0
    found = left(tmp_path / "run")
    low, high = found.summary["rates"]["1"], found.summary["rates"]["30"]
    assert low["share_429"] == 0
    assert high["share_429"] > 0.3 and high["reject_ms"]["p50"] and high["retry_after"]["p50"] >= 1
    assert high["achieved"] < 0.5 * high["offered"]
    assert found.summary["keeps_up_at"] == 1
    assert files(found.directory) >= PLOTS | {"rates.png", "requests.jsonl", "events.jsonl"}
    stages = Counter(line["stage"] for line in found.lines("requests.jsonl"))
    assert (stages["1/s"], stages["30/s"]) == (low["requests"], high["requests"])
    assert "429" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sustained", "kept"),
    [
        ({1.0: 1.0, 2.0: 1.95, 4.0: 3.0}, 2.0),
        ({8.0: 8.0, 1.0: 1.0, 4.0: 3.0}, 1.0),  # a higher rate than one that failed does not count, in any order
        ({2.0: 1.0, 4.0: 4.0}, None),
        ({}, None),
    ],
)
def test_a_sweep_names_the_highest_rate_below_the_first_that_failed(sustained, kept) -> None:
    nothing = load_figures([], limit_ms=1000, sending=30)
    loads = {rate: replace(nothing, offered=rate, sustained=answers) for rate, answers in sustained.items()}
    assert sweep.keeps_up_at(loads) == kept


def test_a_sweep_keeps_up_however_slow_the_answers_are(exchange) -> None:
    exchanges = [exchange(intended=float(second), finished=second + 6.0) for second in range(30)]
    load = load_figures(exchanges, limit_ms=1000, sending=30.0)
    assert load.achieved < 0.95 * load.offered, "the wait for the last answers counts there"
    assert sweep.keeps_up_at({1.0: load}) == 1.0


@pytest.mark.slow
def test_a_soak_reports_growth_and_repeats_originals(parse, left, tmp_path) -> None:
    args = parse(
        "soak", "--engine", "scripted", "--minutes", "0.06", "--rate", "3", "--repeated-originals", "1",
        "--out", str(tmp_path / "run"), "--", "--log-level", "debug",
    )  # fmt: skip
    assert soak.run(args) == 0
    found = left(tmp_path / "run")
    assert set(found.summary["growth_per_hour"]) == {"memory, MiB", "open files", "threads"}
    assert files(found.directory) >= PLOTS | {"memory.png", "service.log"}
    assert any(line["repeated"] for line in found.lines("requests.jsonl"))
    assert "/readyz" in (found.directory / "service.log").read_text(), "options behind -- go to the service"


def make_pair(folder: Path) -> tuple[Canary, Canary]:
    """Two checkpoints of one store that `alphabet_service` writes differently for."""
    made = []
    for seed, (version, letters) in enumerate(LETTERS.items()):
        directory = folder / version
        directory.mkdir(parents=True)
        weights = {"a": np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)}
        save_file(weights, directory / "model.safetensors")
        (directory / "config.json").write_text("{}")
        probe = Probe(seed=0, mode=Mode.COT, answer="x", logprobs=(-1.0,))
        manifest = write_sealed(
            directory, name="alphabet", version=version, prompt=COMPACT, decoding=Decoding(),
            image=ImageContract(size=112, tokens_per_picture=16),
            probes=Probes(questions=(probe,), tolerance=0.01),
        )  # fmt: skip
        made.append(Canary(directory, manifest.digest, letters))
    return made[0], made[1]


@pytest.fixture
def swap_run(parse, left, tmp_path):
    """Run the command against a service with these faults; return the exit code and the files that it left."""

    def run(faults: str, *arguments: str) -> tuple[int, Any]:
        args = parse(
            "swap", "--clients", "2", "--seconds", "2.5", "--every", "0.3", "--warm-up", "0.2", "--least-swaps", "2",
            "--out", str(tmp_path / "run"), *arguments,
            program=(sys.executable, str(HERE / "alphabet_service.py"), faults),
        )  # fmt: skip
        with RunRecorder(args.out) as recorder:
            return swap.run_with(make_pair(tmp_path / "store"), recorder, args), left(tmp_path / "run")

    return run


UNSURE = {
    "pause beyond the drain, median",
    "memory at the end / after the first swap",
    "restart time / swap pause",
}
"""Figures that a busy machine can spoil; here they need only be there."""


@pytest.mark.slow
def test_sound_swaps_pass(swap_run, capsys) -> None:
    _, found = swap_run("none")
    assert set(found.failed()) <= UNSURE
    assert {each["criterion"] for each in found.summary["verdicts"]} >= UNSURE
    digests = Counter(line["digest"] for line in found.lines("requests.jsonl") if line["stage"] == "load")
    assert len(digests) == 2
    swaps = [event for event in found.lines("events.jsonl") if event["kind"] == "swap"]
    assert {event["how"] for event in swaps} == {"in_place"}
    assert min(event["pause_ms"] for event in swaps) > 20  # the reload takes 30
    assert files(found.directory) >= PLOTS | {"memory.png", "service.log", "restarted.log"}
    assert "pass  answers of mixed weights" in capsys.readouterr().out


@pytest.mark.slow
def test_planted_faults_and_too_few_swaps_fail_the_run(swap_run) -> None:
    code, found = swap_run("mixed,stale", "--no-restart", "--least-swaps", "1000")
    assert code == 1
    planted = {"answers of mixed weights", "answers of a wrong version", "swaps under load"}
    assert set(found.failed()) - UNSURE == planted
    assert found.summary["findings"]["mixed"]


@pytest.mark.slow
@pytest.mark.exhaustive  # the test above plants all faults in one run
def test_planted_mixed_answers_fail_the_run(swap_run) -> None:
    code, found = swap_run("mixed", "--no-restart")
    assert code == 1
    assert set(found.failed()) - UNSURE == {"answers of mixed weights"}


@pytest.mark.slow
@pytest.mark.exhaustive  # as above
def test_weights_that_stayed_under_a_new_name_fail_the_run(swap_run) -> None:
    code, found = swap_run("stale", "--no-restart")
    assert code == 1
    assert set(found.failed()) - UNSURE == {"answers of a wrong version"}


@pytest.mark.slow
@pytest.mark.exhaustive  # as above
def test_too_few_swaps_fail_the_run(swap_run) -> None:
    code, found = swap_run("none", "--no-restart", "--least-swaps", "1000")
    assert code == 1
    assert set(found.failed()) - UNSURE == {"swaps under load"}


@pytest.mark.slow
def test_canaries_that_answer_alike_prove_nothing(swap_run) -> None:
    with pytest.raises(CanaryError, match="unrecognised"):
        swap_run("blind")


def idle_swap_args(parse, tmp_path, pair: tuple[Canary, Canary], *arguments: str) -> Any:
    directories = [str(canary.directory) for canary in pair]
    program = (sys.executable, str(HERE / "alphabet_service.py"), "none")
    return parse(
        "idle_swap", "--out", str(tmp_path / "run"), "--checkpoints", *directories, *arguments, program=program
    )  # fmt: skip


@pytest.mark.slow
def test_an_idle_swap_is_taken_apart(parse, left, tmp_path, capsys) -> None:
    args = idle_swap_args(parse, tmp_path, make_pair(tmp_path / "store"), "--swaps", "3")
    assert idle_swap.run(args) == 0
    found = left(tmp_path / "run")
    swaps = [event for event in found.lines("events.jsonl") if event["kind"] == "swap"]
    assert [event["how"] for event in swaps] == ["in_place"] * 3
    for event in swaps:
        assert 25 < event["load_ms"] <= event["load_ms"] + event["verify_ms"] <= event["pause_ms"]
    shown = capsys.readouterr().out
    assert "restart time / swap pause" in shown
    assert "nan" not in shown


@pytest.mark.slow
@pytest.mark.exhaustive  # results/test_summary.py: one failed criterion fails a run
def test_an_idle_swap_that_is_not_fast_enough_fails(parse, left, tmp_path) -> None:
    args = idle_swap_args(parse, tmp_path, make_pair(tmp_path / "store"), "--swaps", "1", "--ratio", "1e9")
    assert idle_swap.run(args) == 1
    assert left(tmp_path / "run").failed() == ["restart time / swap pause"]


def test_an_idle_swap_needs_two_checkpoints(parse, tmp_path, capsys) -> None:
    (first, _) = make_pair(tmp_path / "store")
    with pytest.raises(CheckpointError, match="two different"):
        idle_swap.run(idle_swap_args(parse, tmp_path, (first, first)))


@pytest.fixture
def kill_run(parse, left, tmp_path):
    def run(fault: str, *arguments: str) -> tuple[int, Any]:
        args = parse(
            "kill", "--clients", "4", "--kills", "2", "--pause", "0.5", "--out", str(tmp_path / "run"), *arguments,
            program=(sys.executable, str(HERE / "mortal_service.py"), fault),
        )  # fmt: skip
        return kill.run(args), left(tmp_path / "run")

    return run


@pytest.fixture
def quick_to_blame(monkeypatch):
    """Shorten the wait for processes, which never end in this test."""
    monkeypatch.setattr(kill, "GONE_SECONDS", 0.5)


@pytest.mark.slow
def test_a_service_that_recovers_passes(kill_run) -> None:
    code, found = kill_run("none")
    assert code == 0, found.summary["verdicts"]
    events = Counter(event["kind"] for event in found.lines("events.jsonl"))
    assert (events["kill"], events["ready"], events["service killed"]) == (2, 2, 1)
    titles = [event["title"] for event in found.lines("events.jsonl") if event["kind"] == "kill"]
    assert titles == ["VLLM::Worker", "VLLM::EngineCore"]
    assert found.summary["load"]["retried"] > 0, "the clients must have met the dead engine for this to show anything"


@pytest.mark.slow
def test_a_failure_that_callers_see_fails_the_run(kill_run) -> None:
    code, found = kill_run("failing")
    assert code == 1
    assert found.failed() == ["errors that a caller saw"]
    assert found.summary["load"]["failed"].keys() == {"ServerError"}


@pytest.mark.slow
def test_processes_that_outlive_their_engine_are_found_and_removed(kill_run, quick_to_blame) -> None:
    code, found = kill_run("orphan")
    assert code == 1
    assert found.failed() == ["processes left by killed engines", "processes left by the killed service"]


@pytest.mark.slow
def test_shared_memory_that_outlives_its_engine_is_found(kill_run, quick_to_blame) -> None:
    before = set(Path("/dev/shm").glob("mortal-*"))
    try:
        code, found = kill_run("leak")
        assert code == 1
        assert "shared memory left by killed engines" in found.failed()
    finally:
        for path in set(Path("/dev/shm").glob("mortal-*")) - before:
            path.unlink()


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_its_figures(left, tmp_path, repository) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "loadtest", "sweep", "--engine", "scripted", "--rates", "5", "--seconds", "600",
        "--picture-sizes", "96x96", "--out", str(out),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 300
        while not (out / "requests.jsonl").exists() or '"5/s"' not in (out / "requests.jsonl").read_text():
            assert time.monotonic() < until and process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert left(out).summary["rates"]["5"]["answered"] > 0
    assert b"keeps up" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_documentation(name, repository) -> None:
    assert f"\n| `{name}" in (repository / "docs" / "load-tests.md").read_text()
