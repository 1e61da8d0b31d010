"""Rollouts through vLLM without an engine: what TRL is told, what is refused, and what follows a copy of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from transformers import AutoProcessor

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from screening.prompt import COMPACT, messages
from trainer.data_directory import data_digest, read_samples
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.hcm_grpo.train import arguments, train
from trainer.training.hcm_grpo.vllm_rollouts import check_vllm, collapsed, forget_pictures_after_sync
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, LoraRecipe

SERVER = {"vllm": "server", "vllm_server": "http://there:8000"}


def recipe(**settings: Any) -> HcmGrpoRecipe:
    return HcmGrpoRecipe.model_validate({"learning_rate": 1e-6, "max_completion_tokens": 8, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vllm": "server"}, "need each other"),
        ({"vllm": "colocate", "vllm_server": "http://there:8000"}, "need each other"),
        ({"vllm": "server", "vllm_server": "there:8000"}, "vllm_server"),
        ({"vllm_sleep": True}, "for a colocated engine"),
        ({**SERVER, "vllm_sleep": True}, "for a colocated engine"),
        ({"vllm": "colocate", "lora": LoraRecipe(rank=4, alpha=8, bits=4)}, "lora.bits 4 cannot be combined"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**settings)


def test_trl_is_told_which_engine_to_use(tmp_path: Path) -> None:
    assert not arguments(recipe(), tmp_path).use_vllm
    beside = arguments(recipe(vllm="colocate", vllm_memory=0.2, vllm_sleep=True), tmp_path)
    assert (beside.use_vllm, beside.vllm_mode) == (True, "colocate")
    assert (beside.vllm_gpu_memory_utilization, beside.vllm_enable_sleep_mode) == (0.2, True)
    there = arguments(recipe(**SERVER), tmp_path)
    assert (there.vllm_mode, there.vllm_server_base_url) == ("server", "http://there:8000")
    assert not beside.vllm_importance_sampling_correction and not there.vllm_importance_sampling_correction


def test_a_colocated_engine_needs_a_cache_for_the_longest_sample_only(tmp_path: Path) -> None:
    beside = recipe(vllm="colocate")
    assert arguments(beside, tmp_path, 100).vllm_max_model_length == 100 + 8
    assert arguments(beside, tmp_path).vllm_max_model_length is None, "that of the model"
    assert arguments(recipe(**SERVER), tmp_path, 100).vllm_max_model_length is None, "the server was started before"


@pytest.mark.slow
def test_stage_2_counts_the_tokens_of_its_question(
    small_checkpoint: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {"learning_rate": 0.01, "captions": False}
    grpo = {"learning_rate": 0.01, "max_completion_tokens": 8}
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": stage, "sft_answer": stage}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**settings, "hcm_grpo": grpo}))
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    write_hard_cases(tmp_path, Cases(names, names[:2]), **digests)
    told: dict[str, Any] = {}
    monkeypatch.setattr("trainer.training.hcm_grpo.train.train_on_questions", lambda *_, **given: told.update(given))
    train(str(tmp_path / "small.yaml"), small_checkpoint, small_data, tmp_path, tmp_path / "out")

    processor = AutoProcessor.from_pretrained(small_checkpoint)
    text = processor.apply_chat_template(messages(COMPACT, Mode.COT), add_generation_prompt=True, tokenize=False)
    question = processor(text=[text], images=[Image.new("RGB", (64, 64))] * 5)
    assert told["question_tokens"] == len(question["input_ids"][0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused without a GPU only")
@pytest.mark.parametrize("settings", [SERVER, {"vllm": "colocate"}, {"vllm": "colocate", "vllm_sleep": True}])
def test_an_engine_is_refused_without_a_gpu(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="needs a GPU"):
        check_vllm(recipe(**settings))
    check_vllm(recipe())


def test_another_server_does_not_make_another_run() -> None:
    there, elsewhere = recipe(**SERVER), recipe(**{**SERVER, "vllm_server": "http://elsewhere:8000"})
    assert there.deciding == elsewhere.deciding != recipe().deciding


def test_a_picture_becomes_one_token_for_a_colocated_engine() -> None:
    image, begin, end = 7, 8, 9
    assert collapsed([1, begin, image, image, end, 2, begin, image, end], image, begin, end) == [1, image, 2, image]


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of an HTTP server, and the paths that were posted to it."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_a_server_forgets_pictures_after_it_got_weights(asked: tuple[str, list[str]]) -> None:
    url, paths = asked
    with requests.Session() as session:
        generation = SimpleNamespace(
            mode="server",
            sync_weights=lambda: paths.append("weights"),
            accelerator=SimpleNamespace(is_main_process=True),
            vllm_client=SimpleNamespace(session=session, base_url=url),
        )
        forget_pictures_after_sync(generation)
        generation.sync_weights()
    assert paths == ["weights", "/reset_encoder_cache"]
