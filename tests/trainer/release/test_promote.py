"""Promotion: the gate with numbers computed by hand, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.manifest import Decoding
from screening.checkpoint.registry import CANDIDATE, PRODUCTION, Registry
from screening.prompt import COMPACT
from screening.task import Dimension
from tests.screening.checkpoint.test_domain import make_domain
from tests.trainer.published import loosen, make_checkpoint, make_data, make_evaluation
from trainer.__main__ import main
from trainer.evaluation.compare.paired import difference_interval
from trainer.release.promote.gate import Criterion
from trainer.release.promote.moves import read_history
from trainer.release.promote.report import title
from trainer.release.publish.register import register
from trainer.training.export import able_to_locate

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]

OLD_WRONG = range(0, 200, 6)
"""Numbers of 34 samples with wrong answers, spread over all labels."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("promote") / "data")


class Shop:
    """A registry with versions, their directories and evaluations, and the commands on it."""

    def __init__(self, folder: Path, registry: Registry, data: Path) -> None:
        self.folder, self.registry, self.data = folder, registry, data

    def version(
        self,
        name: str,
        trained_on: dict[str, Any] | None = None,
        contract: Mapping[str, Any] = MappingProxyType({}),
        **answers: Any,
    ) -> int:
        """Publish a checkpoint, and write an evaluation with `make_evaluation`."""
        directory = self.folder / "store" / name
        manifest = make_checkpoint(directory, name, data=trained_on or {}, **contract)
        make_evaluation(self.folder / f"evaluation-{name}", self.data, manifest, **answers)
        return register(self.registry, directory, manifest).number

    def promote(self, name: str, version: int | str, *more: str, production: str | None = None) -> int:
        given = ["--candidate-evaluation", str(self.folder / f"evaluation-{name}")]
        if production:
            given += ["--production-evaluation", str(self.folder / f"evaluation-{production}")]
        out = self.folder / f"gate-{version}-{name}"
        gate = ["--data", str(self.data), "--out", str(out), "--by", "ann"]
        return self.run("promote", str(version), *gate, *given, *more)

    def run(self, command: str, *arguments: str) -> int:
        return main([command, *arguments, "--tracking-uri", self.registry.uri])

    def production(self) -> int | None:
        version = self.registry.resolve(PRODUCTION)
        return version.number if version else None

    def gate(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"gate-{name}" / "gate.json").read_text()))


@pytest.fixture
def shop(tmp_path: Path, registry_file: Path, data: Path) -> Shop:
    return Shop(tmp_path, Registry(f"sqlite:///{registry_file}"), data)


def test_the_first_version_is_measured_against_floors_only(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    assert shop.promote("one", 1) == 0
    assert shop.production() == 1
    gate = shop.gate("1-one")
    assert gate["production"] is None and {one["against_production"] for one in gate["criteria"]} == {False}
    assert len(gate["criteria"]) == 10 and all(one["passed"] for one in gate["criteria"])
    printed = capsys.readouterr().out
    assert "no version is in production" in printed and "production: no version → version 1" in printed


def test_a_licence_that_restricts_the_training_data_is_a_warning(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("free", wrong=OLD_WRONG)
    assert shop.promote("free", 1) == 0
    assert "licence" not in capsys.readouterr().err
    shop.version("bound", {"sft-weak": {"licences": ["no-shops"]}}, wrong=range(0, 200, 20))
    assert shop.promote("bound", 2, production="free") == 0
    assert "version 2 was trained on pictures under the licence no-shops" in capsys.readouterr().err


def test_a_version_that_lost_the_places_is_promoted_by_force_only(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = able_to_locate(COMPACT, Decoding())
    shop.version("points", contract=contract, wrong=OLD_WRONG)
    assert shop.promote("points", 1) == 0
    shop.version("silent", wrong=range(0, 200, 20))
    assert shop.promote("silent", 2, production="points") == 1
    assert "not promoted: says where faults are, against production" in capsys.readouterr().err
    assert shop.production() == 1
    assert shop.promote("silent", 2, "--force", "--reason", "nobody asks", production="points") == 0
    assert read_history(shop.registry).last.forced
    shop.version("again", contract=contract, wrong=range(0, 200, 20))
    assert shop.promote("again", 3, production="silent") == 0, "a gained ability needs no force"

    shop.version("last", wrong=range(0, 200, 40))
    shutil.rmtree(shop.folder / "store" / "again")
    assert shop.promote("last", 4, production="again") == 0, "a lost production version can be replaced"
    said = "Whether production can was not checked"
    assert said in capsys.readouterr().out and said in (shop.folder / "gate-4-last" / "gate.md").read_text()
    assert said not in (shop.folder / "gate-3-again" / "gate.md").read_text()
    assert said not in (shop.folder / "gate-2-silent" / "gate.md").read_text()


def test_a_dimension_that_only_production_knows_is_compared_with_production(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("four", wrong=OLD_WRONG)
    assert shop.promote("four", 1) == 0
    three = {"dimensions": tuple(one for one in Dimension if one is not Dimension.EXTENSION)}
    lost = f"score, {Dimension.EXTENSION.title}"
    shop.version("worse", contract=three, wrong=range(0, 200, 4))
    assert shop.promote("worse", 2, production="four") == 1
    assert f"{lost}, against production" in capsys.readouterr().err
    shop.version("better", contract=three, wrong=range(0, 200, 20))
    assert shop.promote("better", 3, production="four") == 0
    named = [title(Criterion(**one)) for one in shop.gate("3-better")["criteria"] if one["name"] == lost]
    assert named == [f"{lost}, against production"]
    said = f"was not trained on these dimensions, and production was: {Dimension.EXTENSION.title}."
    assert said in (shop.folder / "gate-3-better" / "gate.md").read_text()

    shop.version("last", contract=three, wrong=range(0, 200, 40))
    shutil.rmtree(shop.folder / "store" / "better")
    assert shop.promote("last", 4, production="better") == 0, "a lost production version can be replaced"
    assert "It is not known whether production was" in (shop.folder / "gate-4-last" / "gate.md").read_text()


def test_the_store_may_be_mounted_elsewhere_than_where_it_was_published(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("points", contract=able_to_locate(COMPACT, Decoding()), wrong=OLD_WRONG)
    assert shop.promote("points", 1) == 0
    shop.version("silent", wrong=range(0, 200, 20))
    mounted = (shop.folder / "store").rename(shop.folder / "mounted")
    capsys.readouterr()
    assert shop.promote("silent", 2, production="points") == 2
    assert "its store is not mounted" in capsys.readouterr().err
    assert shop.promote("silent", 2, "--store", str(mounted), production="points") == 1
    assert "not promoted: says where faults are, against production" in capsys.readouterr().err
    assert shop.production() == 1


def test_a_better_version_passes_and_the_report_shows_the_flips(shop: Shop) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 12))
    assert shop.promote("two", 2, "--reason", "more data", production="one") == 0
    assert shop.production() == 2
    kept = read_history(shop.registry).moves[-1]
    assert (kept.before, kept.kind, kept.by, kept.reason, kept.forced) == (1, "promote", "ann", "more data", False)
    assert kept.gate is not None and kept.gate.passed and kept.gate.criteria == 21
    page = (shop.folder / "gate-2-two" / "compare-1-2" / "flips.html").read_text()
    assert page.count("<article") == 17 and page.count("data:image/jpeg") == 5 * 17
    table = (shop.folder / "gate-2-two" / "gate.md").read_text()
    assert all(title(Criterion(**one)) in table for one in shop.gate("2-two")["criteria"])


def test_a_worse_version_is_not_promoted_and_says_why(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 4))
    assert shop.promote("two", 2, production="one") == 1
    assert shop.production() == 1 and len(read_history(shop.registry).moves) == 1
    assert "score, against production" in capsys.readouterr().err
    score = next(c for c in shop.gate("2-two")["criteria"] if title(Criterion(**c)) == "score, against production")
    # Wrong before: 0, 6, …; wrong after: 0, 4, …; both: 0, 12, …
    low = difference_interval(133, 33, 17, 17, level=0.9)[0]
    assert score["measured"] == pytest.approx(100 * low) and score["limit"] == -3.0


def test_force_needs_a_reason_and_both_are_kept(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 2))
    assert shop.promote("two", 2, "--force", production="one") == 2
    assert "--reason" in capsys.readouterr().err
    assert shop.promote("two", 2, "--force", "--reason", "the old one shows a recalled product", production="one") == 0
    kept = read_history(shop.registry).moves[-1]
    assert kept.forced and kept.gate is not None and "score, against production" in kept.gate.failed
    assert shop.run("history") == 0
    printed = capsys.readouterr().out
    assert "forced: " in printed and "the old one shows a recalled product" in printed


def test_force_without_a_test_set_measures_nothing_and_says_so(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one")
    assert shop.run("promote", CANDIDATE, "--force", "--reason", "first day") == 0
    assert shop.production() == 1 and read_history(shop.registry).moves[0].gate is None
    shop.run("history")
    assert "forced, not measured" in capsys.readouterr().out


def test_a_test_set_of_labels_alone_is_judged_without_dimensions(
    tmp_path: Path, registry_file: Path, data: Path
) -> None:
    alone = tmp_path / "labels"
    alone.mkdir()
    (alone / "pictures").symlink_to(data / "pictures")
    lines = []
    for line in (data / "samples.jsonl").read_text().splitlines():
        record = json.loads(line)
        generated = [picture["file"] for picture in record["generated"]]
        lines.append(json.dumps({**record, "generated": generated}) + "\n")
    (alone / "samples.jsonl").write_text("".join(lines))
    shop = Shop(tmp_path, Registry(f"sqlite:///{registry_file}"), alone)
    assert shop.promote("v1", shop.version("v1", wrong=OLD_WRONG)) == 0
    assert shop.promote("v2", shop.version("v2"), production="v1") == 0
    gate = shop.gate("2-v2")
    assert not [one["name"] for one in gate["criteria"] if one["name"].startswith("score, ")]
    assert (
        f"so they have no criteria: {Dimension.APPEARANCE.title}, " in (tmp_path / "gate-2-v2" / "gate.md").read_text()
    )
    assert shop.promote("bad", shop.version("bad", wrong=range(200)), production="v2") == 1
    (comparison,) = (tmp_path / "gate-3-bad").glob("compare-*/comparison.json")
    assert {flip["dimensions"] for flip in json.loads(comparison.read_text())["flips"]} == {None}


def test_a_dimension_that_no_sample_shows_has_no_criteria(tmp_path: Path, registry_file: Path, data: Path) -> None:
    partly = tmp_path / "without-extension"
    partly.mkdir()
    (partly / "pictures").symlink_to(data / "pictures")
    text = (data / "samples.jsonl").read_text().replace(Dimension.EXTENSION.value, Dimension.SHADOW.value)
    (partly / "samples.jsonl").write_text(text)
    shop = Shop(tmp_path, Registry(f"sqlite:///{registry_file}"), partly)
    assert shop.promote("v1", shop.version("v1", wrong=OLD_WRONG)) == 0
    named = {one["name"] for one in shop.gate("1-v1")["criteria"]}
    assert f"score, {Dimension.SHADOW.title}" in named and f"score, {Dimension.EXTENSION.title}" not in named
    assert f"have no criteria: {Dimension.EXTENSION.title}." in (tmp_path / "gate-1-v1" / "gate.md").read_text()


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path, data: Path) -> Shop:
    """Version 1 is in production, and version 2 is published. For commands that move nothing."""
    folder = tmp_path_factory.mktemp("two-versions")
    shop = Shop(folder, Registry(f"sqlite:///{shutil.copy(empty_registry, folder)}"), data)
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=OLD_WRONG)
    (folder / "bad.yaml").write_text("margins: {overal: 5}\n")
    return shop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.promote("two", 3), "version 3 does not exist"),
        (lambda s: s.promote("one", 2, production="one"), "is an evaluation of sha256"),
        (lambda s: s.promote("two", 2, "--mode", "direct", production="one"), "in mode cot"),
        (lambda s: s.promote("two", "two"), "is not a version"),
        (lambda s: s.run("promote", "2"), "--data is missing"),
        (lambda s: s.promote("two", 2, "--limits", str(s.folder / "no.yaml"), production="one"), "no.yaml"),
        (lambda s: s.promote("two", 2, "--limits", str(s.folder / "bad.yaml"), production="one"), "margins.overal"),
        (lambda s: s.run("rollback", "--reason", "x"), "no version was in production before version 1"),
    ],
)
def test_wrong_input_is_said_and_moves_nothing(
    change: Callable[[Shop], int], message: str, two_versions: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change(two_versions) == 2
    assert message in capsys.readouterr().err
    assert two_versions.production() == 1 and len(read_history(two_versions.registry).moves) == 1


def test_data_that_no_split_has_frozen_are_named(shop: Shop) -> None:
    shop.version("one", wrong=range(0, 200, 60))
    shop.promote("one", 1)
    assert "not a frozen test set of `trainer split`" in (shop.folder / "gate-1-one" / "gate.md").read_text()


def test_limits_can_be_set(shop: Shop) -> None:
    shop.version("one", wrong=range(0, 200, 60))
    (shop.folder / "limits.yaml").write_text("floors: {calibration: 0.001}\n")
    assert shop.promote("one", 1, "--limits", str(shop.folder / "limits.yaml")) == 1
    assert shop.gate("1-one")["limits"]["floors"]["calibration"] == 0.001


def test_part_of_the_data_training_data_and_unproved_checkpoints_are_refused(
    shop: Shop, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.data_directory import data_digest, read_samples
    from trainer.evaluation.evaluate.result import EvaluatedData

    digest = data_digest(data, read_samples(data))
    shop.version("part", data=EvaluatedData(digest=digest, samples=210, evaluated=200))
    assert shop.promote("part", 1) == 2 and "a part of the samples" in capsys.readouterr().err
    seen = make_checkpoint(shop.folder / "store" / "seen", "seen", data={"sft": {"digest": digest}})
    make_evaluation(shop.folder / "evaluation-seen", data, seen)
    register(shop.registry, shop.folder / "store" / "seen", seen)
    assert shop.promote("seen", 2) == 2 and "trained on the data of --data" in capsys.readouterr().err
    fitted = {Mode.COT: Calibration(method="platt", answers=9, data=(digest,))}
    sure = make_checkpoint(shop.folder / "store" / "sure", "sure", calibration=fitted)
    make_evaluation(shop.folder / "evaluation-sure", data, sure)
    register(shop.registry, shop.folder / "store" / "sure", sure)
    assert shop.promote("sure", 3) == 2 and "was fitted on the data of --data" in capsys.readouterr().err
    plain = make_domain()
    domain = plain.model_copy(update={"calibration": plain.calibration.model_copy(update={"data": (digest,)})})
    described = make_checkpoint(shop.folder / "store" / "described", "described", domain=domain)
    make_evaluation(shop.folder / "evaluation-described", data, described)
    number = register(shop.registry, shop.folder / "store" / "described", described).number
    assert shop.promote("described", number) == 2
    assert "its domain was fitted on the data of --data" in capsys.readouterr().err
    validated = {"sft": {"digest": "sha256:0", "validation": {"digest": digest}}}
    chosen = make_checkpoint(shop.folder / "store" / "chosen", "chosen", data=validated)
    make_evaluation(shop.folder / "evaluation-chosen", data, chosen)
    register(shop.registry, shop.folder / "store" / "chosen", chosen)
    assert shop.promote("chosen", 5) == 2 and "weights were chosen on the data of --data" in capsys.readouterr().err
    unproved = make_checkpoint(shop.folder / "store" / "unproved", "unproved", proved=False)
    register(shop.registry, shop.folder / "store" / "unproved", unproved)
    assert shop.run("promote", "6", "--force", "--reason", "x") == 2 and "no probes" in capsys.readouterr().err
    (shop.folder / "store" / "part" / "model.safetensors").write_text("changed")
    assert shop.promote("part", 1) == 2 and "bytes" in capsys.readouterr().err
    assert shop.production() is None


def test_a_version_that_was_changed_after_it_was_published_is_not_promoted(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("one", wrong=OLD_WRONG)
    loosen(shop.folder / "store" / "one")
    for command in (lambda: shop.promote("one", 1), lambda: shop.run("promote", "1", "--force", "--reason", "x")):
        assert command() == 2
        said = capsys.readouterr().err
        assert f"{shop.folder / 'store' / 'one'}: " in said and "recorded on something else" in said
    assert shop.production() is None


def test_the_commands_say_where_the_registry_should_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["history"]) == 2
    assert "--tracking-uri" in capsys.readouterr().err
    assert main(["history", "--store", str(tmp_path / "store")]) == 2
    assert "mlflow.db: there is no such file" in capsys.readouterr().err
    assert main(["history", "--tracking-uri", "none"]) == 2
    assert "needs a registry" in capsys.readouterr().err
