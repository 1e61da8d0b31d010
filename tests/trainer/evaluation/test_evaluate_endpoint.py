"""Evaluating a model at an endpoint with a real HTTP server: requests, scores, retries, resuming, comparison."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Mode
from screening.prompt import COMPACT, STANDARD
from tests.trainer.chat_server import PROMPT_TOKENS, Asked, ChatServer, Say, honest
from tests.trainer.coloured import LABELS, make_data, thought
from tests.trainer.scripted_engine import Scripted, make_checkpoint
from trainer.__main__ import main
from trainer.data_directory import DataError
from trainer.endpoint.budget import Prices
from trainer.endpoint.client import Asking
from trainer.endpoint.errors import EndpointUnusable
from trainer.evaluation.evaluate.by_checkpoint import evaluate
from trainer.evaluation.evaluate.by_endpoint import Order, evaluate_endpoint
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.result import read_evaluation
from trainer.runs.run_directory import RunMismatch

pytestmark = pytest.mark.slow

COUNT = len(LABELS)


@pytest.fixture
def order(tmp_path: Path, endpoint: ChatServer) -> Order:
    return Order(
        data=make_data(tmp_path / "data"),
        out=tmp_path / "out",
        base_url=endpoint.url,
        asking=Asking(model="some-vl", reply_tokens=200, temperature=0.0),
        mode=Mode.COT,
        prompt=STANDARD,
        concurrency=3,
        tries=4,
        timeout=30,
    )


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def asked_about(endpoint: ChatServer) -> Counter[int]:
    return Counter(asked.sample for asked in endpoint.asked)


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "prompt", "instruction"),
    [
        (Mode.COT, STANDARD, STANDARD.cot),
        (Mode.DIRECT, STANDARD, STANDARD.direct),
        (Mode.COT, COMPACT, COMPACT.cot),
    ],
)
def test_instruction_and_pictures_leave_the_machine_and_nothing_else(endpoint, order, clock, mode, prompt, instruction):
    evaluate_endpoint(replace(order, mode=mode, prompt=prompt), clock)
    assert asked_about(endpoint) == Counter(range(COUNT))
    for asked in endpoint.asked:  # the server checks that the five pictures are present, in order
        assert asked.body.keys() == {"model", "messages", "max_tokens", "temperature"}
        assert (asked.body["model"], asked.body["max_tokens"], asked.body["temperature"]) == ("some-vl", 200, 0.0)
        (message,) = asked.body["messages"]
        assert message.keys() == {"role", "content"}
        kinds = [part["type"] for part in message["content"]]
        assert kinds == ["text", *["text", "image_url"] * 5]
        texts = [part["text"] for part in message["content"] if part["type"] == "text"]
        assert texts == [instruction, "Original:", "A:", "B:", "C:", "D:"]
        assert all(set(part) == {"type", part["type"]} for part in message["content"])


def test_the_endpoints_own_temperature_is_left_to_it(endpoint, order, clock):
    evaluate_endpoint(replace(order, asking=Asking(model="m", reply_tokens=9, extra_body={"top_k": 1})), clock)
    assert "temperature" not in endpoint.asked[0].body
    assert endpoint.asked[0].body["top_k"] == 1


# --- results -----------------------------------------------------------------------------------------------------


def test_a_model_that_is_always_right_scores_100_with_the_files_of_every_evaluation(order, clock):
    result = evaluate_endpoint(order, clock)
    assert result.scores.overall.correct.percent == 100
    assert result.scores.pictures.exact.percent == 100
    assert (result.data.samples, result.data.evaluated, result.mode) == (COUNT, COUNT, Mode.COT)
    assert read_evaluation(order.out) == result
    names = ["predictions.jsonl", "report.md", "run.json", "scores.json"]
    assert sorted(path.name for path in order.out.iterdir()) == names
    assert not clock.slept


def test_right_wrong_unreadable_and_refused_answers_as_counted_by_hand(endpoint, order, clock):
    says = {
        0: Say(thought("C")),  # a part of AC
        1: Say(thought("A")),  # of N
        2: Say("I like picture B best."),
        3: Say("<think>I observed <A> normal", finish="length"),
        4: Say("our policy", status=400),
    }
    endpoint.speak = lambda asked: says[asked.sample]
    result = evaluate_endpoint(order, clock)
    assert (result.scores.overall.correct.hits, result.scores.overall.correct.n) == (1, COUNT)
    by_id = {line["id"]: line for line in logged(order.out)}
    assert [by_id[f"s{n}"]["correct"] for n in range(COUNT)] == [True, False, False, False, False]
    assert by_id["s2"]["text"] == "I like picture B best."
    assert [by_id[f"s{n}"]["unreadable"]["reason"] for n in (2, 3, 4)] == ["no_think", "no_think", "empty"]
    assert [by_id[f"s{n}"]["finish"] for n in (0, 3, 4)] == ["stop", "length", "refused"]
    assert "status 400" in by_id["s4"]["unreadable"]["detail"]
    assert "our policy" in by_id["s4"]["unreadable"]["detail"]
    assert result.tokens.cut == 1
    assert result.endpoint.refused == 1
    assert result.endpoint.answered_as == {"teacher-2026-01": 4}
    assert endpoint.tasks[4, "reason"] == 1, "a refused request is not repeated"
    assert "Refused requests: 1." in (order.out / "report.md").read_text()


def test_unknown_values_are_reported_and_not_counted_as_zero(order, clock):
    result = evaluate_endpoint(order, clock)
    assert result.reliability is None
    assert result.scores.choice.n == 0
    assert result.scores.choice.percent is None
    assert {line["confidence"] for line in logged(order.out)} == {None}
    assert {line["choice"] for line in logged(order.out)} == {None}
    report = (order.out / "report.md").read_text()
    assert "## Confidence" not in report
    assert "one choice" not in report
    assert "Probabilities are unknown" in report
    assert f"Tokens per question: {PROMPT_TOKENS} in, 10 out" in report


def test_an_endpoint_that_does_not_count_tokens_has_none_in_the_result(endpoint, order, clock):
    endpoint.speak = lambda asked: replace(honest(asked), usage=False)
    result = evaluate_endpoint(order, clock)
    assert (result.tokens.prompt, result.tokens.completion) == (None, None)
    assert "The endpoint does not count tokens;" in (order.out / "report.md").read_text()


def test_the_log_of_a_finished_evaluation_is_in_the_order_of_the_data(endpoint, order, clock, wait_until):
    def speak(asked: Asked) -> Say:  # answers arrive in reverse order
        wait_until(lambda: len(logged(order.out)) == COUNT - 1 - asked.sample)
        return honest(asked)

    endpoint.speak = speak
    evaluate_endpoint(replace(order, concurrency=COUNT), clock)
    assert [line["id"] for line in logged(order.out)] == [f"s{n}" for n in range(COUNT)]


def test_an_evaluation_on_a_frozen_test_set_is_marked(order, clock, tmp_path):
    assert main(["split", "--data", str(order.data), "--out", str(tmp_path / "split"), "--shares", "0,1,0,0"]) == 0
    assert evaluate_endpoint(replace(order, data=tmp_path / "split" / "testing"), clock).data.frozen
    assert not evaluate_endpoint(replace(order, out=tmp_path / "other"), clock).data.frozen


def test_it_is_compared_with_a_checkpoints_evaluation(endpoint, order, clock, tmp_path):
    endpoint.speak = lambda asked: Say(thought("A")) if asked.sample in (1, 2) else honest(asked)
    evaluate_endpoint(order, clock)
    ours = tmp_path / "ours"
    engine = Scripted(lambda number: thought("A" if number == 0 else LABELS[number]))
    evaluate(make_checkpoint(tmp_path / "checkpoint"), order.data, ours, mode=Mode.COT, open_engine=engine)
    for before, after, points in ((order.out, ours, 40), (ours, order.out, -40)):
        out = tmp_path / f"compared-{points}"
        named = ["--before", str(before), "--after", str(after), "--data", str(order.data), "--out", str(out)]
        assert main(["compare", *named]) == 0
        result = json.loads((out / "comparison.json").read_text())
        assert result["overall"]["difference"] == pytest.approx(points)
        assert {flip["id"] for flip in result["flips"]} == {"s1", "s2"}
        title = "some-vl → scripted 1" if points > 0 else "scripted 1 → some-vl"
        assert title in (out / "comparison.md").read_text()
        assert title in (out / "flips.html").read_text()
        assert "confidence 0.00" in (out / "flips.html").read_text(), "only of our own checkpoint"
        assert (out / "flips.html").read_text().count("confidence") == 2


def test_an_endpoints_scores_are_for_no_card(order, clock, tmp_path, capsys):
    evaluate_endpoint(order, clock)
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(order.out)]) == 2
    assert "is an evaluation of sha256:" in capsys.readouterr().err


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        Say("slow down", status=429, headers={"Retry-After": "7"}),
        Say("oops", status=500),
        Say(raw=b"<html>who are you</html>", headers={"Content-Type": "text/html"}),
        Say(raw=b'{"half": '),
        Say(drop=True),
    ],
    ids=["429", "500", "html", "half", "drop"],
)
def test_temporary_failures_are_retried_and_do_not_change_the_scores(endpoint, order, clock, failure):
    endpoint.speak = lambda asked: failure if asked.time < 2 and asked.sample == 1 else honest(asked)
    result = evaluate_endpoint(order, clock)
    assert result.scores.overall.correct.percent == 100
    assert asked_about(endpoint) == Counter([*range(COUNT), 1, 1])
    assert len(logged(order.out)) == COUNT
    if "Retry-After" in failure.headers:
        assert [seconds >= 7 for seconds in clock.slept].count(True) >= 2
    else:
        assert len(clock.slept) == 2


def test_a_slow_answer_is_given_up_and_asked_for_again(endpoint, order, clock):
    endpoint.speak = lambda asked: Say(delay=20) if (asked.sample, asked.time) == (0, 0) else honest(asked)
    assert evaluate_endpoint(replace(order, timeout=5.0), clock).scores.overall.correct.percent == 100
    assert asked_about(endpoint)[0] == 2


def test_without_all_answers_there_are_no_scores_and_the_same_command_requests_the_rest(endpoint, order, clock):
    endpoint.speak = lambda asked: Say("oops", status=500) if asked.sample == 2 else honest(asked)
    with pytest.raises(Unfinished, match=r"no answer for 1 samples \(s2: status 500.*the same command asks again"):
        evaluate_endpoint(order, clock)
    assert not (order.out / "scores.json").exists()
    endpoint.speak = honest
    endpoint.asked.clear()
    assert evaluate_endpoint(order, clock).scores.overall.correct.n == COUNT
    assert asked_about(endpoint) == Counter([2])


def test_an_endpoint_that_refuses_everything_gets_no_score_of_zero(endpoint, order, clock):
    endpoint.speak = lambda _: Say("this model takes no pictures", status=400)
    with pytest.raises(EndpointUnusable, match=r"refuses every request .*takes no pictures"):
        evaluate_endpoint(order, clock)
    assert logged(order.out) == []
    endpoint.speak = honest
    assert evaluate_endpoint(order, clock).endpoint.refused == 0


def test_a_damaged_picture_is_named(order, clock):
    picture = order.data / "pictures/s2/b.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match=r"pictures/s2/b\.png: .*damaged"):
        evaluate_endpoint(order, clock)


# --- resuming and spending -------------------------------------------------------------------------------------------


def test_a_finished_evaluation_is_scored_again_without_asking(endpoint, order, clock):
    first = evaluate_endpoint(order, clock)
    endpoint.asked.clear()
    elsewhere = replace(order, base_url="http://user:secret@127.0.0.1:9/v1?key=secret", confidence_level=0.8)
    again = evaluate_endpoint(elsewhere, clock)
    assert not endpoint.asked
    assert again.scores.confidence_level == 0.8
    assert again.scores.overall.correct.hits == first.scores.overall.correct.hits
    assert again.endpoint.url == "http://127.0.0.1:9/v1"
    assert "secret" not in "".join(path.read_text() for path in order.out.iterdir())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (
            {"asking": Asking(model="other", reply_tokens=200, temperature=0.0)},
            "endpoint.model some-vl there, other now",
        ),
        (
            {"asking": Asking(model="some-vl", reply_tokens=9, temperature=0.0)},
            "endpoint.reply_tokens 200 there, 9 now",
        ),
        ({"asking": Asking(model="some-vl", reply_tokens=200)}, "endpoint.temperature 0.0 there, nothing now"),
        ({"prompt": COMPACT}, "endpoint.prompt standard-1 there, compact-1 now"),
        ({"picture_size": 100}, "endpoint.picture_size 768 there, 100 now"),
        ({"mode": Mode.DIRECT}, "mode cot there, direct now"),
    ],
)
def test_another_evaluation_is_not_mixed_in(endpoint, order, clock, other, named):
    evaluate_endpoint(order, clock)
    endpoint.asked.clear()
    with pytest.raises(RunMismatch, match=re.escape(named)):
        evaluate_endpoint(replace(order, **other), clock)
    assert not endpoint.asked


def test_a_higher_limit_requests_only_the_missing_answers(endpoint, order, clock):
    assert evaluate_endpoint(replace(order, limit=2), clock).data.evaluated == 2
    assert evaluate_endpoint(order, clock).data.evaluated == COUNT
    assert asked_about(endpoint) == Counter(range(COUNT))


def test_a_run_with_only_refused_questions_left_ends(endpoint, order, clock):
    evaluate_endpoint(replace(order, limit=4), clock)
    endpoint.speak = lambda asked: Say("our policy", status=400) if asked.sample == 4 else honest(asked)
    result = evaluate_endpoint(order, clock)
    assert (result.data.evaluated, result.endpoint.refused) == (COUNT, 1)


def test_a_budget_counts_over_all_runs(endpoint, order, clock):
    dear = replace(order, prices=Prices(prompt=1000.0, completion=20_000.0), concurrency=1)  # 0.3 for an answer
    for _ in range(2):
        with pytest.raises(Unfinished, match="higher --max-tokens-total or --budget"):
            evaluate_endpoint(replace(dear, budget=1.0), clock)
        assert len(endpoint.asked) == 3
    result = evaluate_endpoint(replace(dear, budget=2.0), clock)
    assert result.endpoint.cost == pytest.approx(0.3 * COUNT)
    assert len(endpoint.asked) == COUNT


def words(order: Order, *more: str) -> list[str]:
    named = ["--endpoint", order.base_url, "--model", "some-vl", "--data", str(order.data), "--out", str(order.out)]
    return ["evaluate", *named, *more]


def test_a_killed_run_requests_only_answers_that_it_had_not_written(endpoint, order, repository):
    stuck = threading.Event()

    def speak(asked: Asked) -> Say:
        if asked.sample < 2:
            return honest(asked)
        stuck.set()  # with one request at a time, the answers before this one are written
        return Say(delay=60)

    endpoint.speak = speak
    command = [sys.executable, "-m", "trainer", *words(order, "--concurrency", "1")]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=repository, **quiet) as process:
        try:
            assert stuck.wait(300)
        finally:
            process.send_signal(signal.SIGKILL)
    log = order.out / "predictions.jsonl"
    assert [line["id"] for line in logged(order.out)] == ["s0", "s1"]
    log.write_bytes(log.read_bytes() + b'{"id":"s2","label":"B","te')

    endpoint.speak = honest
    endpoint.asked.clear()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# some-vl, cot: 100.00 %")
    assert asked_about(endpoint) == Counter([2, 3, 4])
    assert [line["id"] for line in logged(order.out)] == [f"s{n}" for n in range(COUNT)]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_takes_the_key_from_the_environment_and_writes_it_nowhere(endpoint, order, monkeypatch, capsys):
    monkeypatch.setenv("OTHER_KEY", "secret-4711")
    assert main(words(order, "--api-key-env", "OTHER_KEY", "--mode", "direct", "--prompt", "compact")) == 0
    assert {asked.headers["authorization"] for asked in endpoint.asked} == {"Bearer secret-4711"}
    assert {asked.body["temperature"] for asked in endpoint.asked} == {0.0}
    assert all(asked.text.startswith(COMPACT.direct) for asked in endpoint.asked)
    assert (order.out / "report.md").read_text() in capsys.readouterr().out
    assert not any("secret-4711" in path.read_text() for path in order.out.iterdir())


def test_the_command_asks_with_the_papers_prompt(endpoint, order):
    from trainer.prompt_texts import load_prompt

    assert main(words(order, "--prompt", "paper")) == 0
    (message,) = endpoint.asked[0].body["messages"]
    assert message["content"][0] == {"type": "text", "text": load_prompt("paper").cot}


def test_the_exit_status_says_what_to_do(endpoint, order, capsys):
    assert main(words(order, "--max-tokens-total", "150")) == 1
    assert "run the same command with a higher --max-tokens-total" in capsys.readouterr().err
    endpoint.speak = lambda _: Say("no", status=401)
    assert main(words(order)) == 1
    assert "the key is not accepted" in (said := capsys.readouterr().err)
    assert "run the same command again to continue" in said
    assert main(words(replace(order, data=order.data / "nowhere"))) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "--endpoint needs --model"),
        (["--checkpoint", "c", "--model", "m"], "--model is only for --endpoint"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--budget", "3"], "--budget needs --price-prompt"),
    ],
)
def test_options_that_need_each_other_are_asked_for(tmp_path, capsys, options, message):
    assert main(["evaluate", *options, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("who", [[], ["--checkpoint", "c", "--endpoint", "http://127.0.0.1:9/v1"]])
def test_one_model_answers(tmp_path, who):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *who, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
