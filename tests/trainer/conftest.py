"""A few small samples, a checkpoint of random weights that trains in a second, and an endpoint on this machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.chat_server import ChatServer, FakeClock
from tests.trainer.command_line import CHECKPOINT, on_one_engine, trainer
from trainer.__main__ import main


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small") / "data"
    assert (
        main(["render", "--count", "6", "--seed", "77", "--size", "96", "--workers", "1", "--out", str(directory)]) == 0
    )
    return directory


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "start")


@pytest.fixture(scope="session")
def tiled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `small_checkpoint`, with up to four tiles per picture."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiled", tiles=4)


@pytest.fixture(scope="session")
def tiled_data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples whose pictures get different grids of tiles: 2 x 2, 4 x 1, 1 x 3, 1 x 1 and 2 x 1."""
    directory = shutil.copytree(small_data, tmp_path_factory.mktemp("tiled") / "data")
    for name, size in {"a": (240, 60), "b": (60, 190), "c": (80, 70), "d": (200, 110)}.items():
        for path in directory.glob(f"pictures/*/{name}.jpg"):
            Image.open(path).resize(size).save(path)
    return directory


def make_checkpoint(directory: Path, tiles: int = 1) -> Path:
    """Write a checkpoint of a very small model with random weights."""
    import torch

    from screening.checkpoint.manifest import Decoding, ImageContract
    from screening.prompt import COMPACT
    from trainer.research.pretrain.tokenizer import train_tokenizer
    from trainer.research.pretrain.vocabulary import fixed_texts
    from trainer.training.architecture import Architecture, build_model, build_processor
    from trainer.training.export import export

    sizes = {"image_size": 64, "vision_width": 32, "vision_layers": 1, "text_width": 32, "text_layers": 1}
    architecture = Architecture(**sizes, text_mlp=64)
    tokenizer = train_tokenizer(fixed_texts(COMPACT), 400)
    torch.manual_seed(0)
    export(
        directory,
        build_model(architecture, tokenizer),
        build_processor(architecture, tokenizer, tiles),
        name="small",
        version="start",
        prompt=COMPACT,
        image=ImageContract(size=64, tokens_per_picture=architecture.tokens_per_picture, max_patches=tiles),
        decoding=Decoding(max_tokens_cot=256),
    )
    return directory


@pytest.fixture(scope="session")
def rendered_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples for the shipped checkpoint."""
    directory = tmp_path_factory.mktemp("rendered") / "data"
    trainer("render", "--count", "8", "--seed", "20260101", "--out", directory)
    return directory


@dataclass(frozen=True)
class Answered:
    """What commands wrote about `rendered_data`, and what they printed. One real engine answered all of them."""

    evaluation: Path
    evaluate_printed: str
    screening: Path
    screen_dataset_printed: str


@pytest.fixture(scope="session")
def answered_data(rendered_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """`evaluate` and `screen-dataset` on `rendered_data`."""
    folder = tmp_path_factory.mktemp("answered")
    evaluation, screening = folder / "evaluation", folder / "screening"
    given = ["--checkpoint", CHECKPOINT, "--data", rendered_data, "--mode", "cot"]
    printed = on_one_engine(
        folder,
        ["evaluate", *given, "--out", evaluation, "--batch", "3"],
        ["screen-dataset", *given, "--out", screening, "--workers", "local"],
    )
    return Answered(evaluation, printed[0], screening, printed[1])


@pytest.fixture
def endpoint() -> Iterator[ChatServer]:
    """Always right unless a test sets another text."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
