"""A retraining that collects what people reviewed: nothing is asked twice, and what is erased leaves every part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.trainer.data.collect.reviews import KEY, Reviews, serve
from tests.trainer.published import LABELS, make_data
from tests.trainer.release.retrain.shop import ALL_NEW, SAMPLES, Shop

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]


@pytest.fixture
def reviews() -> Iterator[Reviews]:
    server = Reviews()
    server.page = 50
    for number in range(SAMPLES):
        server.add(number, LABELS[number % len(LABELS)])
    thread = serve(server)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def reviewed(shop: Shop, reviews: Reviews, tmp_path: Path) -> Shop:
    """A shop whose labels come from reviews alone."""
    (tmp_path / "key").write_text(KEY)
    shares = shop.config["data"]["shares"]
    shop.config["data"] = {"collect": {"service": reviews.url, "key_file": str(tmp_path / "key")}, "shares": shares}
    return shop


OTHERS = ("before collect", "before split", "after split")


def labels_in(directory: Path) -> dict[str, str]:
    lines = map(json.loads, (directory / "samples.jsonl").read_text().splitlines())
    return {line["id"]: line["label"] for line in lines}


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def result(shop: Shop, stage: str) -> dict[str, object]:
    run = shop.state.run
    assert run is not None
    return run.stages[stage].result


def test_deciding_reads_the_reviews_and_fetches_no_picture(
    reviewed: Shop, reviews: Reviews, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reviewed.call("--decide-only") == 0
    assert json.loads(capsys.readouterr().out) == {
        "decision": "run",
        "reason": ALL_NEW,
    }
    assert not reviews.fetched and not reviews.exports
    assert not (reviewed.work / "runs").exists()
    reviews.items.clear()
    assert reviewed.call("--decide-only") == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "skip"


def test_reviews_are_collected_trained_on_and_new_once(reviewed: Shop, reviews: Reviews) -> None:
    assert reviewed.call() == 0
    run = reviewed.state.run
    assert run is not None and run.outcome == "promoted", run
    assert len(labels_in(reviewed.work / "runs" / run.id / "reviews")) == SAMPLES
    assert [len(one["tasks"]) for one in reviews.exports] == [SAMPLES]
    assert reviewed.call() == 0  # nothing is new
    assert reviewed.state.run == run
    decision = reviewed.state.decision
    assert decision is not None and decision.decision == "skip" and decision.new_labels == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after collect", *(pytest.param(m, marks=pytest.mark.exhaustive) for m in OTHERS)])
def test_a_killed_run_ends_with_the_digest_of_an_unbroken_one(moment: str, reviewed: Shop, reviews: Reviews) -> None:
    assert reviewed.killed(moment) != 0
    reviews.items[0] |= {"at": "2026-12-01T00:00:00Z"}  # a review after the snapshot belongs to the next run
    before = reviews.fetched
    assert reviewed.call() == 0
    run = reviewed.state.run
    assert run is not None and run.outcome == "promoted"
    if moment != "before collect":
        assert reviews.fetched == before and len(reviews.exports) == 1
        assert "2026-12" not in (reviewed.work / "runs" / run.id / "reviews" / "samples.jsonl").read_text()


@pytest.mark.slow
def test_a_test_sample_that_is_reviewed_again_keeps_its_label(reviewed: Shop, reviews: Reviews) -> None:
    assert reviewed.call() == 0
    frozen = labels_in(reviewed.work / "split" / "testing")
    for item in reviews.items:
        if item["letters"] == "A":
            item |= {"letters": "AB", "at": "2026-12-01T00:00:00Z"}
            item["pictures"][1] |= {"usable": True, "dimensions": {}}
    reviewed.config["when"] |= {"new_labels": 1, "new_products": 1}
    assert reviewed.call() == 0
    assert labels_in(reviewed.work / "split" / "testing") == frozen
    run, kept = reviewed.state.run, list(frozen.values()).count("A")
    assert kept and result(reviewed, "collect")["changed_in_test_set"] == kept
    assert "A" not in labels_in(reviewed.work / "split" / "training").values()
    new = sum(item["letters"] == "AB" for item in reviews.items) - kept
    assert run is not None and run.reason == f"{new} new labels of {new} products"
    assert reviewed.call() == 0  # a label that is not taken is not new again
    decision = reviewed.state.decision
    assert decision is not None and decision.decision == "skip" and decision.new_labels == 0
    assert reviewed.state.run == run


def test_a_question_whose_picture_cannot_be_used_is_new_once(reviewed: Shop, reviews: Reviews) -> None:
    digest = sha256(b"no picture").hexdigest()
    reviews.pictures[digest] = b"no picture"
    reviews.add(SAMPLES, "A")["files"][3]["sha256"] = digest
    assert reviewed.call() == 0
    run = reviewed.state.run
    assert run is not None and run.reason == f"{SAMPLES + 1} new labels of {SAMPLES + 1} products"
    assert result(reviewed, "collect")["samples"] == SAMPLES
    assert reviewed.call() == 0
    decision = reviewed.state.decision
    assert decision is not None and decision.decision == "skip" and decision.new_labels == 0


@pytest.mark.slow
def test_what_is_erased_leaves_every_part_and_no_product_moves(reviewed: Shop, reviews: Reviews) -> None:
    assert reviewed.call() == 0
    parts = ("training", "testing", "pseudo-label", "exploration")
    before = {part: set(labels_in(reviewed.work / "split" / part)) for part in parts}
    erased = {min(ids) for ids in before.values()}
    gone = {file["sha256"] for item in reviews.items if item["decision"] in erased for file in item["files"]}
    for task in [item["task"] for item in reviews.items if item["decision"] in erased]:
        reviews.erase(task)
    for number in range(200, 260):
        reviews.add(number, LABELS[number % len(LABELS)])
    assert reviewed.call() == 0
    after = {part: set(labels_in(reviewed.work / "split" / part)) for part in parts}
    assert all(ids - erased == {one for one in after[part] if one < "scr_200"} for part, ids in before.items())
    assert result(reviewed, "collect")["gone"] == 4
    run = reviewed.state.run
    assert run is not None and run.outcome in ("promoted", "refused")
    for folder in (reviewed.work / "split", reviewed.work / "runs" / run.id):
        for path in folder.rglob("*.png"):
            assert sha256(path.read_bytes()).hexdigest() not in gone


def test_a_service_that_is_down_is_asked_again_by_the_same_command(
    reviewed: Shop, reviews: Reviews, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.data.collect.service.TRIES", 1)
    reviews.fault = lambda _: (503, {})
    assert reviewed.call() == 1
    assert "status 503" in capsys.readouterr().out
    reviews.fault = lambda _: (403, {})
    assert reviewed.call() == 2
    assert "scope admin" in capsys.readouterr().out


def test_reviews_and_directories_together(shop: Shop, reviews: Reviews, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    shop.config["data"]["collect"] = {"service": reviews.url, "key_file": str(tmp_path / "key")}
    assert shop.call() == 0
    assert result(shop, "collect")["samples"] == 2 * SAMPLES


def test_a_directory_that_is_missing_beside_reviews_is_no_erasure(
    shop: Shop, reviews: Reviews, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY)
    shop.config["data"] |= {"collect": {"service": reviews.url, "key_file": str(tmp_path / "key")}}
    shop.config["data"]["directories"] = [str(tmp_path / "labels-*")]
    (tmp_path / "labels-1").symlink_to(labels)
    more = make_data(tmp_path / "labels-2", SAMPLES + 10)
    assert shop.call() == 0
    split = shop.work / "split"
    divided, tested = contents(split), labels_in(split / "testing")
    moved = more.rename(tmp_path / "moved")
    reviews.erase("tsk_000")
    shop.config["when"] |= {"new_labels": 0, "new_products": 0}
    assert shop.call() == 2
    run = shop.state.run
    assert run is not None and run.outcome == "failed", run
    assert "10 samples of earlier runs are missing" in run.message and "'s60'" in run.message
    assert contents(split) == divided
    moved.rename(more)
    assert shop.call() == 0
    assert result(shop, "collect")["gone"] == 1, "what people erased is still taken for erased"
    assert "s61" in tested and labels_in(split / "testing").keys() == tested.keys() - {"scr_000"}
    assert result(shop, "split")["held_back"] == 0
