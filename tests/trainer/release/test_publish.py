"""Publishing with fake engines: store, probes, domain and registry. test_publish_vllm.py uses the real engine."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.domain import Domain, DomainProbe
from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest
from screening.checkpoint.registry import CANDIDATE, PRODUCTION, Registry
from screening.checkpoint.seal import check_seal, sealed
from screening.checkpoint.weights import read_tensors
from screening.inference.generation import probe_sampling_arguments
from tests.trainer.published import make_checkpoint, make_prober
from trainer.__main__ import main
from trainer.release.publish.command import UNREGISTERED, published_name, put
from trainer.release.publish.probing import Prober, open_prober, record, with_exact
from trainer.release.publish.register import register, version_tags

pytestmark = pytest.mark.slow


@pytest.fixture
def registry(registry_file: Path) -> Registry:
    return Registry(f"sqlite:///{registry_file}")


def make_published(store: Path, name: str, value: float) -> Path:
    """Make a directory like one that `publish` wrote, so that publishing it again needs no engine."""
    manifest = make_checkpoint(store / "new", name)
    save_file({"a": np.full((2, 2), value, np.float32)}, store / "new" / "model.safetensors")
    manifest = write_manifest(store / "new", **manifest.model_dump(exclude={"files", "created", "format"}))
    manifest = sealed(manifest.model_copy(update={"tensors": read_tensors(store / "new", manifest)}))
    store_manifest(manifest, store / "new")
    return (store / "new").rename(store / published_name(manifest))


def publish(checkpoint: Path, store: Path, uri: str) -> int:
    return main(["publish", "--checkpoint", str(checkpoint), "--store", str(store), "--tracking-uri", uri])


def test_a_published_checkpoint_is_a_version_and_the_candidate(
    tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    one, two = make_published(store, "one", 1.0), make_published(store, "two", 2.0)
    assert publish(one, store, registry.uri) == 0
    assert "registered: version 1 of screening in sqlite" in capsys.readouterr().out
    assert publish(two, store, registry.uri) == 0
    assert publish(two, store, registry.uri) == 0
    candidate = registry.resolve(CANDIDATE)
    assert candidate is not None and (candidate.number, candidate.directory) == (2, two)
    assert candidate.digest == read_manifest(two).digest
    assert registry.resolve(PRODUCTION) is None, "only `promote` moves production"
    publish(one, store, registry.uri)
    candidate = registry.resolve(CANDIDATE)
    assert candidate is not None and candidate.number == 1


def test_again_replaces_a_damaged_copy_and_records_its_probes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def prober(_checkpoint: Path, _manifest: Manifest, dtype: str = "bfloat16") -> Iterator[Any]:
        yield make_prober(-1.0 if dtype == "bfloat16" else -1.0625)

    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)
    monkeypatch.setattr("screening.inference.inspection.inspect", lambda *_: None)  # it has no architecture
    store = tmp_path / "store"
    published = make_published(store, "one", 1.0)
    source = shutil.copytree(published, tmp_path / "source")
    command = ["publish", "--checkpoint", str(source), "--store", str(store), "--tracking-uri", "none"]
    weights = (published / "model.safetensors").read_bytes()
    (published / "model.safetensors").write_bytes(weights[:-1])
    assert main(command) == 2
    assert "Replace it with --again" in capsys.readouterr().err

    assert main([*command, "--again"]) == 0
    assert list(store.iterdir()) == [published]
    check_seal(read_manifest(published))
    probes = verify(published).probes
    assert probes is not None and (probes.rounding, probes.machine) == (0.0625, "this machine")
    assert (probes.questions[0].logprobs, probes.questions[0].exact) == ((-1.0,), (-1.0625,))


@pytest.mark.parametrize("change", ["calibration", "probes"])
def test_a_directory_that_was_changed_by_hand_is_not_taken_for_the_published_one(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    published = make_published(store, "one", 1.0)
    source = shutil.copytree(published, tmp_path / "source")
    changes: dict[str, Any] = {"calibration": {Mode.COT: Calibration()}, "probes": None}
    store_manifest(read_manifest(published).model_copy(update={change: changes[change]}), published)
    command = ["publish", "--checkpoint", str(source), "--store", str(store), "--tracking-uri", "none"]
    assert main(command) == 2
    assert "changed by hand. Replace it with --again" in capsys.readouterr().err


def test_a_failed_replacement_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "target", tmp_path / "copy"
    for directory in (old, new):
        directory.mkdir()
        (directory / "name").write_text(directory.name)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(5, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "rename", rename)
        put(new, old, tmp_path / ".replaced")
    assert (old / "name").read_text() == "target"
    put(new, old, tmp_path / ".replaced")
    assert (old / "name").read_text() == "copy"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_replacement_that_was_killed_halfway_is_undone_by_the_next_one(tmp_path: Path) -> None:
    store = tmp_path / "store"
    published = make_published(store, "one", 1.0)
    source = shutil.copytree(published, tmp_path / "source")
    published.rename(store / f".replaced-{published.name}")
    assert main(["publish", "--checkpoint", str(source), "--store", str(store), "--tracking-uri", "none"]) == 0
    assert list(store.iterdir()) == [published]


@pytest.mark.parametrize(
    ("rounds", "message"),
    [([[math.nan]] * 4, "not finite"), ([[-1.0], [-1.3], [-1.0], [-1.0]], "too much to prove which weights")],
)
def test_a_checkpoint_is_not_published_if_the_engine_does_not_repeat_its_numbers(
    rounds: list[list[float]], message: str
) -> None:
    left = iter(rounds)
    values: list[float] = []

    def ask(questions: Any) -> list[list[float]]:
        if len(questions) > 1 or not values:
            values[:] = next(left)
        return [list(values)] * len(questions)

    with pytest.raises(ValueError, match=message):
        record(ask, "this machine")


def test_an_engine_that_dies_while_it_answers_is_reported(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    class Dead(Exception):
        """Like vLLM's EngineDeadError, which is not a RuntimeError."""

    def generate(_: Any, sampling: Any, **__: Any) -> Any:
        assert sampling == probe_sampling_arguments()
        raise Dead

    tokenizer = SimpleNamespace(apply_chat_template=lambda *_, **__: "")
    engine = SimpleNamespace(get_tokenizer=lambda: tokenizer, generate=generate)
    platform = SimpleNamespace(is_cpu=lambda: True)
    for name, content in {
        "vllm": {"SamplingParams": dict, "__version__": "0"},
        "vllm.v1.engine.exceptions": {"EngineDeadError": Dead},
        "vllm.platforms": {"current_platform": platform},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setattr("trainer.release.publish.probing.start_llm", lambda *_: nullcontext(engine))
    with (
        open_prober(tiny_checkpoint, read_manifest(tiny_checkpoint)) as prober,
        pytest.raises(RuntimeError, match="the engine died while it answered"),
    ):
        prober.ask([(0, Mode.COT, "x")])


def test_a_difference_that_rounding_does_not_explain_is_not_published() -> None:
    """The engine in float32 and the one that serves must have loaded the same weights."""
    probes = record(lambda questions: [[-1.0, -2.0]] * len(questions), "this machine")
    near = with_exact(probes, lambda questions: [[-1.1, -2.0]] * len(questions))
    assert near.rounding == pytest.approx(0.0707, abs=1e-4)
    for far in (-1.5, math.nan):
        with pytest.raises(ValueError, match="rounding explains at most"):
            with_exact(probes, lambda questions, far=far: [[far, -2.0]] * len(questions))


def test_the_same_digest_in_another_store_stays_where_it_was_registered(
    tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_published(tmp_path / "store", "one", 1.0)
    other = make_published(tmp_path / "other", "one", 1.0)
    publish(one, tmp_path / "store", registry.uri)
    assert publish(other, tmp_path / "other", registry.uri) == 0
    assert f"registered earlier, and stays at {one}" in capsys.readouterr().err


def test_a_registry_that_does_not_answer_leaves_the_copy_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_published(tmp_path / "store", "one", 1.0)
    assert publish(one, tmp_path / "store", "http://127.0.0.1:9") == UNREGISTERED == 3
    said = capsys.readouterr()
    assert f"published: {one}" in said.out and "published but not registered" in said.err


def test_an_engine_that_does_not_start_is_an_error_and_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path
) -> None:
    @contextmanager
    def prober(_checkpoint: Path, _manifest: Manifest, dtype: str) -> Iterator[Any]:
        assert dtype == "bfloat16"
        raise RuntimeError("Engine core initialization failed.")
        yield

    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)
    assert publish(tiny_checkpoint, tmp_path / "store", "none") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tiny_checkpoint} is not published: vLLM failed on it (Engine core init")
    assert "run the same command again" in said
    assert not list((tmp_path / "store").iterdir())


def scores_of_other_weights(_domain: Domain, probe: DomainProbe) -> tuple[float, ...]:
    return tuple(1.5 * score for score in probe.scores)


def features_of_another_width(domain: Domain, _probe: DomainProbe) -> tuple[float, ...]:
    return domain.scores([np.zeros(domain.statistics.width + 1)])


@pytest.mark.parametrize(
    ("domain_scores", "message"),
    [(scores_of_other_weights, "the domain's scores"), (features_of_another_width, "do not fit statistics of width")],
)
def test_a_domain_that_belongs_to_other_weights_is_not_published(
    domain_scores: Any,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
) -> None:
    @contextmanager
    def prober(*_: Any, **__: Any) -> Iterator[Prober]:
        yield replace(make_prober(), domain_scores=domain_scores)

    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)
    assert publish(tiny_checkpoint, tmp_path / "store", "none") == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(("uri", "status"), [("none", 0), ("somewhere", 2)])
def test_the_registry_can_be_left_out_but_not_misspelt(
    uri: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_published(tmp_path / "store", "one", 1.0)
    assert publish(one, tmp_path / "store", uri) == status
    assert "registered" not in capsys.readouterr().out


def test_the_tags_of_the_shipped_checkpoint_are_ones_that_mlflow_takes(
    registry: Registry, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(tiny_checkpoint)
    version = register(registry, tmp_path, manifest)
    tags = version.tags
    assert tags == dict(version_tags(manifest)) | {"digest": manifest.digest}
    assert tags["parent"] == manifest.parent
    assert float(tags["score.cot.overall"]) == pytest.approx(
        manifest.scores["cot"]["overall"]["correct"]["percent"], abs=0.01
    )
    assert tags["data.sft-answer-driven"] == manifest.data["sft-answer-driven"]["digest"]
    assert tags["recipe_digest"].startswith("sha256:")
