"""The command: options, key, exit status, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from tests.trainer.chat_server import Asked, Say, honest
from trainer.__main__ import main
from trainer.data.annotate.by_teacher import Order

pytestmark = pytest.mark.slow


def words(order: Order, *more: str) -> list[str]:
    return [
        *("annotate", order.method, "--data", str(order.data), "--out", str(order.out)),
        *("--base-url", order.base_url, "--model", "teacher", *more),
    ]


def test_the_command_without_a_key_sends_none(endpoint, order, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(words(order)) == 0
    assert not any("authorization" in asked.headers for asked in endpoint.asked)
    assert "5 of 5 samples accepted" in capsys.readouterr().out


def test_the_command_takes_the_key_from_the_variable_and_writes_it_nowhere(endpoint, order, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-one")
    monkeypatch.setenv("TEACHER_KEY", "secret-4711")
    assert (
        main(words(order, "--api-key-env", "TEACHER_KEY", "--extra-body", '{"top_k": 5}', "--temperature", "0.2")) == 0
    )
    assert {asked.headers["authorization"] for asked in endpoint.asked} == {"Bearer secret-4711"}
    assert {(asked.body["top_k"], asked.body["temperature"]) for asked in endpoint.asked} == {(5, 0.2)}
    for path in order.out.rglob("*.json*"):
        assert "secret-4711" not in path.read_text()


def test_white_space_around_the_key_is_left_out(endpoint, order, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret-4711\r\n")
    assert main(words(order)) == 0
    assert {asked.headers["authorization"] for asked in endpoint.asked} == {"Bearer secret-4711"}


@pytest.mark.parametrize("key", ["secret 4711", "secret\n4711", "sécret-4711"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(endpoint, order, monkeypatch, capsys, key):
    monkeypatch.setenv("TEACHER_KEY", key)
    assert main(words(order, "--api-key-env", "TEACHER_KEY")) == 2
    errors = capsys.readouterr().err
    assert "TEACHER_KEY holds characters that an API key cannot have" in errors
    assert "4711" not in errors
    assert not endpoint.asked


def test_an_unfinished_run_has_its_own_exit_status(endpoint, order, capsys):
    assert main(words(order, "--max-tokens-total", "500")) == 1
    assert "run the same command with a higher --max-tokens-total" in capsys.readouterr().out
    endpoint.speak = lambda _: Say("no", status=401)
    assert main(words(order)) == 1
    assert "run the same command again to continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "3"], "--budget needs --price-prompt"),
        (["--price-prompt", "3"], "give both"),
        (["--budget", "1", "--price-prompt", "0", "--price-completion", "0"], "has no effect"),
    ],
)
def test_options_that_need_each_other_are_asked_for(endpoint, order, capsys, more, message):
    assert main(words(order, *more)) == 2
    assert message in capsys.readouterr().err
    assert not endpoint.asked


@pytest.mark.parametrize(
    "more",
    [["--concurrency", "0"], ["--timeout", "0"], ["--extra-body", "[1]"], ["--picture-size", "9"], ["--budget", "nan"]],
)
def test_options_outside_their_range_are_refused(order, more):
    with pytest.raises(SystemExit) as caught:
        main(words(order, *more))
    assert caught.value.code == 2


def test_bad_input_is_one_line_and_status_2(order, capsys, tmp_path):
    assert main(words(replace(order, data=tmp_path / "nowhere"))) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(words(order)) == 0
    assert main(words(order, "--attempts", "9")) == 2
    assert "other settings" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_keeps_all_answers_and_the_same_command_continues(endpoint, order, repository):
    enough = threading.Event()

    def speak(asked: Asked) -> Say:
        number = endpoint.asked.index(asked)
        if number >= 9:  # both workers wait now, so the first eight replies are written down
            enough.set()
        return Say(delay=60) if number >= 8 else honest(asked)

    endpoint.speak = speak
    command = [sys.executable, "-m", "trainer", *words(order, "--concurrency", "2")]
    with subprocess.Popen(
        command, cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert enough.wait(300)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    answered = [json.loads(line) for line in (order.out / "replies.jsonl").read_text().splitlines()]
    assert len(answered) == 8

    endpoint.speak = honest
    endpoint.asked.clear()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 samples accepted" in done.stdout
    again = {(int(reply["sample"][1:]), reply["task"]) for reply in answered}
    assert not again & endpoint.tasks.keys()
    assert len(endpoint.asked) == 22
