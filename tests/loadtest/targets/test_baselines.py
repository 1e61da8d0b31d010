"""Peers are asked the same question, with the same settings, and the ratios are those of the figures."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import pytest

from loadtest.load.levels import Level, measure_level
from loadtest.load.pictures import Pictures
from loadtest.load.rendered import rendered
from loadtest.targets import generate_loop
from loadtest.targets.baselines import LOOP, OUR_ENGINE, BaselineFailed, chat, command_line, direct_client, ratios
from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from screening.inference.generation import prompt_text


@pytest.fixture(scope="module")
def questions():
    return list(islice(Pictures(products=1, sizes=[(96, 96)]).questions(), 3))


def test_engine_arguments_become_a_command_line() -> None:
    arguments = {"model": "m", "max_num_seqs": 32, "enforce_eager": True, "log_stats": False, "limits": {"image": 5}}
    assert command_line(arguments) == [
        *("--model", "m", "--max-num-seqs", "32", "--enforce-eager", "--no-log-stats", "--limits", '{"image": 5}')
    ]


@pytest.mark.slow
def test_the_api_server_is_asked_in_the_words_of_the_service(questions, tiny_checkpoint) -> None:
    from transformers import AutoTokenizer

    manifest = read_manifest(tiny_checkpoint)
    body = chat(questions[0], manifest)
    (message,) = body["messages"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    sent = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in urls]
    assert sent == [questions[0].original, *questions[0].generated]
    # vLLM hands pictures to a template of this kind as {"type": "image"}.
    message["content"] = [{"type": "image"} if p["type"] == "image_url" else p for p in message["content"]]
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    asked = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
    assert asked == prompt_text(tokenizer, manifest.prompt, Mode.COT)
    assert (body["temperature"], body["max_tokens"]) == (0.0, manifest.decoding.max_tokens_cot)


class ApiServer(BaseHTTPRequestHandler):
    """Takes chat completions; refuses those whose model is `unknown`."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self.send_response(404 if len(self.asked) > 3 else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    ApiServer.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), ApiServer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", ApiServer.asked
        running.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.anyio
async def test_every_question_is_asked_once_and_an_error_is_not_an_answer(server, questions, tiny_checkpoint) -> None:
    url, asked = server
    async with direct_client(url, tiny_checkpoint) as ask:
        level = await measure_level(ask, questions, 2, "test")
        assert (level.clients, level.requests, len(asked)) == (2, 3, 3)
        assert level.per_second > 0 and level.engine_p50 != level.engine_p50
        with pytest.raises(BaselineFailed, match="404"):
            await ask(questions[0])


def test_ratios_are_taken_at_the_fewest_and_at_the_most_callers_to_the_better_setting_of_each() -> None:
    levels = {
        "service": [Level(1, 9, 2.0, 100, 0), Level(8, 9, 5.0, 300, 0), Level(32, 9, 9.0, 900, 0)],
        "api server": [Level(1, 9, 2.0, 80, 0), Level(8, 9, 50.0, 30, 0), Level(32, 9, 4.0, 900, 0)],
        "api server, drafts from the prompt": [Level(1, 9, 2.0, 90, 0), Level(32, 9, 6.0, 900, 0)],
        "generate": [Level(1, 9, 0.5, 2000, 0)],
    }
    slower, faster, loop = ratios(levels)
    assert (slower.found, slower.passed) == ("1.25", False)
    assert (faster.found, faster.passed) == ("1.5", True)
    assert (loop.found, loop.passed) == ("18", True)


def test_the_same_engine_is_compared_without_a_verdict() -> None:
    levels = {
        "service": [Level(1, 9, 2.0, 100, 0), Level(32, 9, 9.0, 900, 0)],
        "api server": [Level(1, 9, 2.0, 80, 0), Level(32, 9, 6.0, 900, 0)],
        OUR_ENGINE: [Level(1, 9, 2.0, 100, 0), Level(32, 9, 9.0, 900, 0)],
        "generate": [Level(1, 9, 0.5, 2000, 0)],
    }
    same = ratios(levels)[2]
    assert (same.found, same.passed) == ("1; 1", None)


@pytest.mark.slow
def test_generate_answers_in_a_loop(tiny_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(generate_loop, "TRIAL", 1)
    drawn = rendered(argparse.Namespace(picture_size=96, seed=0, questions=tmp_path), 4)
    generate_loop.main(["--checkpoint", str(tiny_checkpoint), "--questions", str(drawn), "--count", "2"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["latencies_ms"]) == 2 and min(found["latencies_ms"]) > 0
    assert found["settings"].startswith("greedy")
    assert (sys.executable, "-m", generate_loop.__name__) == LOOP
