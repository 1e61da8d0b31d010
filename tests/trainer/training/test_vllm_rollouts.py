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
from pydantic import ValidationError

from trainer.training.hcm_grpo.train import arguments
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
