"""The inpainters that load a model: diffusers' own pipelines, tiny, through the loader that loads real weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.data.compose.photos import files, make_products, make_references
from tests.trainer.data.compose.tiny_models import save_flux_fill, save_klein
from trainer.__main__ import main
from trainer.data.compose.failures import ComposeError
from trainer.data.compose.inpainters.pipelines import memory_errors
from trainer.data_directory import read_any_samples

# The imports of diffusers reach a deprecated part of torch.
pytestmark = [pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"), pytest.mark.slow]
ACCEPTED = ["--accept-licence", "FLUX.1-dev-non-commercial"]
SIDE = 256


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For operations as small as these, threads that wait for each other take most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    save_flux_fill(directory)
    save_klein(directory / "klein")
    return directory


@pytest.fixture
def options(models: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of one run with a model; every test may change its own copy of the weights."""
    shutil.copytree(models, tmp_path / "models")
    make_products(tmp_path / "products", 1)
    make_references(tmp_path / "references")

    def arguments(inpainter: str, out: str = "out") -> list[str]:
        folders = {"--products": "products", "--references": "references", "--out": out}
        weights = {"--weights": "models/klein"}
        if inpainter == "flux-fill":
            weights = {"--weights": "models/fill", "--redux": "models/redux"}
        paths = [text for name, folder in (folders | weights).items() for text in (name, str(tmp_path / folder))]
        numbers = ["--seed", "1", "--size", str(SIDE), "--steps", "1", "--device", "cpu"]
        return ["compose", *paths, *numbers, "--inpainter", inpainter]

    return arguments


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError(f"a connection was opened: {arguments} {keywords}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("inpainter", "accepted"), [("flux-fill", ACCEPTED), ("klein", [])])
def test_a_pipeline_of_diffusers_paints_four_pictures(
    inpainter: str, accepted: list[str], options: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [*options(inpainter), *accepted]
    assert main(command) == 0
    (sample,) = read_any_samples(tmp_path / "out")
    pictures = [Image.open(tmp_path / "out" / file).convert("RGB") for file in sample.files[1:]]
    assert [picture.size for picture in pictures] == [(SIDE, SIDE)] * 4
    assert all(one.tobytes() != other.tobytes() for one, other in combinations(pictures, 2))
    summary = json.loads((tmp_path / "out" / "compose.json").read_text())
    assert summary["stand_in"] is False
    assert sample.licence == (accepted[1] if accepted else None)
    assert summary["licence"] == (accepted[1] if accepted else "Apache-2.0")

    before = files(tmp_path / "out")
    (tmp_path / "out" / sample.files[3]).unlink()
    assert main(command) == 0
    assert files(tmp_path / "out") == before

    for reference in (tmp_path / "references").iterdir():
        Image.new("RGB", (64, 64), (250, 40, 10)).save(reference)
    assert main([*options(inpainter, "other"), *accepted]) == 0
    assert (tmp_path / "other" / sample.files[1]).read_bytes() != (tmp_path / "out" / sample.files[1]).read_bytes()


def test_flux_is_refused_before_anything_is_read_without_its_licence(
    options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "models")
    assert main(options("flux-fill")) == 2
    assert "--accept-licence FLUX.1-dev-non-commercial" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_larger_klein_has_another_licence(
    options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "models" / "klein" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"joint_attention_dim": 12288}))
    assert main(options("klein")) == 2
    assert "--accept-licence FLUX-non-commercial" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["pipeline.py", "vae/diffusion_pytorch_model.bin", "transformer/weights.ckpt", "extra.so", "a/b.pkl"]
)
def test_a_folder_with_code_or_pickles_is_refused(
    name: str, options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models" / "klein" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"raise SystemExit('this ran')")
    assert main(options("klein")) == 2
    said = capsys.readouterr().err
    assert f"contains {name}, which may be code or a pickle" in said
    assert not (tmp_path / "out").exists()


def test_an_index_that_names_another_library_is_refused(
    options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "models" / "klein" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["antigravity", "Vae"]}))
    assert main(options("klein")) == 2
    assert "vae is from antigravity, which is not loaded" in capsys.readouterr().err


def test_the_weights_of_another_pipeline_are_refused(
    options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "models" / "klein")
    (tmp_path / "models" / "fill").rename(tmp_path / "models" / "klein")
    assert main(options("klein")) == 2
    assert "contains FluxFillPipeline, and Flux2KleinInpaintPipeline is needed" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--weights", "--redux"])
def test_missing_weights_are_named(
    option: str, options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*options("flux-fill"), *ACCEPTED]
    del command[command.index(option) : command.index(option) + 2]
    assert main(command) == 2
    assert f"{option} is missing" in capsys.readouterr().err


def test_other_weights_are_another_run(
    options: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for product in (tmp_path / "products").iterdir():
        product.write_bytes(b"no picture, so nothing is painted")
    assert main(options("klein")) == 1
    weights = tmp_path / "models" / "klein" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(options("klein")) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_size_that_the_model_would_change_is_refused(
    options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options("klein"), "--size", "1040"]) == 2
    assert "it paints 256 to 1024 in steps of 16" in capsys.readouterr().err


def test_without_the_extra_the_error_says_what_to_install(
    options: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(options("klein")) == 2
    said = capsys.readouterr().err
    assert "needs the package diffusers" in said
    assert "make install (with EXTRA=gpu on" in said


def test_only_errors_of_memory_become_memory_errors() -> None:
    with pytest.raises(MemoryError, match="out of memory"), memory_errors():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        raise RuntimeError("shape mismatch")
    with pytest.raises(ComposeError), memory_errors():
        raise ComposeError("passes through")


@pytest.mark.slow
@pytest.mark.exhaustive  # test_a_pipeline_of_diffusers_paints_four_pictures refuses all connections of its process
def test_a_model_paints_where_there_is_no_network(options: Callable[..., list[str]]) -> None:
    cut_off = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*cut_off, "true"], check=False).returncode:
        pytest.skip("this system makes no network namespaces")
    done = subprocess.run(
        [*cut_off, sys.executable, "-m", "trainer", *options("klein")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "painted by klein" in done.stdout
