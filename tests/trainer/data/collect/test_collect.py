"""Collecting reviews: the labels of people, an immutable snapshot, and nothing of what was erased."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Finding, compose
from screening.task import Dimension
from tests.trainer.data.collect.reviews import AGREEMENT, KEY, Reviews, serve
from trainer.__main__ import main
from trainer.data.collect.errors import CollectError
from trainer.data.collect.service import ReviewService
from trainer.data.collect.snapshot import Snapshot, collect, unusable_tasks
from trainer.data_directory import data_digest, read_samples
from trainer.records import Sample
from trainer.runs.run_directory import RunMismatch


@pytest.fixture
def reviews() -> Iterator[Reviews]:
    server = Reviews()
    thread = serve(server)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    return file


def collected(reviews: Reviews, out: Path) -> Snapshot:
    with ReviewService(reviews.url, KEY, sleep=lambda _: None) as service:
        return collect(service, out)


def samples(out: Path) -> dict[str, Sample]:
    return {sample.id: sample for sample in read_samples(out)}


def everything(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def reasoning(letters: str, **wrong: str) -> str:
    """A reasoning with these verdicts; `wrong` names the issue of a picture."""
    findings = tuple(
        Finding(option, frozenset({Dimension(wrong[option])} if option in wrong else ()), "seen") for option in "ABCD"
    )
    return compose(frozenset(letters), findings).reasoning or ""


def test_the_labels_are_those_of_people(reviews: Reviews, tmp_path: Path) -> None:
    for number, letters in enumerate(("AC", "N", "ABCD", "D")):
        reviews.add(number, letters)
    manifest = collected(reviews, tmp_path / "s")
    found = samples(tmp_path / "s")
    assert {name: sample.label for name, sample in found.items()} == {
        "scr_000": "AC",
        "scr_001": "N",
        "scr_002": "ABCD",
        "scr_003": "D",
    }
    third = found["scr_001"].generated[2]
    assert (third.usable, third.severity, third.comment) == (False, 3, "wrong")
    assert {one: third.severity_of(one) for one in third.dimensions} == {Dimension.SHADOW: 1, Dimension.LAYOUT: 3}
    one = found["scr_000"]
    assert one.product == "product 0" and one.weight == 4
    assert one.provenance and one.provenance.model_dump(mode="json", exclude_none=True) == {
        "task": "tsk_000", "job": "review", "decision": "scr_000", "reason": "audit", "inclusion_probability": 0.25,
        "checkpoint": "sha256:" + "c" * 64, "decided": "agreed", "reviewers": 2,
        "reviews": ["review-a-0", "review-b-0"], "at": "2026-11-01T12:00:00Z",
    }  # fmt: skip
    for file, stated in zip(one.files, reviews.items[0]["files"], strict=True):
        assert sha256((tmp_path / "s" / file).read_bytes()).hexdigest() == stated["sha256"]
    assert manifest.digest == data_digest(tmp_path / "s", list(found.values()))
    assert manifest.agreement == AGREEMENT and manifest.service == reviews.url
    assert (manifest.samples, manifest.products, manifest.reviews, manifest.weighted) == (4, 4, 8, 4)
    assert (manifest.first, manifest.last) == ("2026-11-01T12:00:00+00:00", "2026-11-01T15:00:00+00:00")
    assert reviews.exports == [{"digest": manifest.digest, "tasks": ["tsk_000", "tsk_001", "tsk_002", "tsk_003"]}]


def test_an_imported_sample_keeps_its_id_and_product(reviews: Reviews, tmp_path: Path) -> None:
    label: dict[str, Any] = {"job": "label", "decision": None, "reason": "label", "inclusion_probability": None}
    label |= {"checkpoint": None, "model": None}
    reviews.add(1, "B", **label, sample="tea-7", batch="first", product="tea tin")
    reviews.add(2, "C", **label, sample="tea-7", batch="second", product=None)
    collected(reviews, tmp_path / "s")
    found = samples(tmp_path / "s")
    assert {name: (one.label, one.product, one.weight) for name, one in found.items()} == {
        "tea-7": ("B", "tea tin", None),
        "tea-7@tsk_002": ("C", "", None),  # other pictures under the same id
    }
    assert [one.provenance.batch for one in found.values() if one.provenance] == ["first", "second"]


def test_a_verdict_without_dimensions_is_a_label_with_a_comment(reviews: Reviews, tmp_path: Path) -> None:
    item = reviews.add(1, "ABC")
    item["pictures"][3] |= {"dimensions": {}, "comment": "a watermark"}
    collected(reviews, tmp_path / "s")
    fourth = samples(tmp_path / "s")["scr_001"].generated[3]
    assert (fourth.usable, fourth.dimensions_known, fourth.comment) == (False, False, "a watermark")


def test_gold_repeats_and_older_verdicts_are_left_out(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    reviews.add(2, "B", reason="gold")
    reviews.add(3, "C", reason="repeat")
    newer = reviews.add(4, "D")
    reviews.add(5, "N", decision=newer["decision"], files=newer["files"], at="2026-10-01T00:00:00Z")
    manifest = collected(reviews, tmp_path / "s")
    assert {name: one.label for name, one in samples(tmp_path / "s").items()} == {"scr_001": "A", "scr_004": "D"}
    assert sorted(manifest.left_out.values()) == [1, 1, 1]
    left_out = [json.loads(line) for line in (tmp_path / "s" / "left-out.jsonl").read_text().splitlines()]
    assert [one["task"] for one in left_out] == ["tsk_002", "tsk_003", "tsk_005"]
    assert "gold" in left_out[0]["reason"] and "older" in left_out[2]["reason"]
    assert len(list((tmp_path / "s" / "pictures").iterdir())) == 10


@pytest.mark.parametrize(
    ("acceptable", "text", "kept"),
    [
        ("AC", reasoning("AC", B="extension_rationality", D="placement_layout"), True),
        ("AC", "Both bottles look right.", True),
        ("A", reasoning("A", B="extension_rationality", C="physical_shadow", D="placement_layout"), False),
        ("AC", reasoning("AC", B="appearance_deformation", D="placement_layout"), False),
        ("AC", reasoning("ABC", D="placement_layout"), False),
        ("AC", "<answer>AC</answer>", False),
        ("AC", None, False),
    ],
    ids=["agrees", "says nothing", "other label", "other dimension", "other verdict", "tags", "none"],
)
def test_reasoning_is_kept_only_where_it_contradicts_no_verdict(
    acceptable: str, text: str | None, kept: bool, reviews: Reviews, tmp_path: Path
) -> None:
    reviews.add(1, "AC", model={"acceptable": list(acceptable), "reasoning": text})
    assert collected(reviews, tmp_path / "s").with_reasoning == kept
    assert samples(tmp_path / "s")["scr_001"].reasoning == (text if kept else "")


@pytest.mark.slow
def test_the_same_reviews_give_the_same_digest(reviews: Reviews, tmp_path: Path) -> None:
    for number in range(7):
        reviews.add(number, "ABCD"[number % 4])
    digests = set()
    for page in (1, 2, 100):
        reviews.page = page
        for item in reviews.items:
            for name in ("pictures", "files", "reviews"):
                random.Random(page).shuffle(item[name])
        digests.add(collected(reviews, tmp_path / f"{page}").digest)
    assert len(digests) == 1
    reviews.items[0]["letters"] = "B"
    for verdict in reviews.items[0]["pictures"]:
        usable = verdict["option"] == "B"
        verdict |= {"usable": usable, "dimensions": {} if usable else {"physical_shadow": 1}}
    assert collected(reviews, tmp_path / "changed").digest not in digests


def test_a_snapshot_never_changes(
    reviews: Reviews, tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews.add(1, "A")
    reviews.add(2, "B")
    order = ["collect", "--service", reviews.url, "--key-file", str(key_file), "--out", str(tmp_path / "s")]
    assert main(order) == 0
    before = everything(tmp_path / "s")
    digest = json.loads(before["collect.json"])["digest"]
    assert digest in capsys.readouterr().out
    assert main(order) == 0  # the same reviews: nothing to do
    reviews.items[0] |= {"letters": "N", "at": "2026-12-01T00:00:00Z"}
    reviews.items[0]["pictures"][0] |= {"usable": False, "dimensions": {"physical_shadow": 1}}
    assert main(order) == 2
    assert "the reviews have changed since" in capsys.readouterr().err
    assert everything(tmp_path / "s") == before
    assert main([*order[:-1], str(tmp_path / "new")]) == 0
    assert [one.label for one in samples(tmp_path / "new").values()] == ["N", "B"]


def test_an_erasure_while_it_collects_is_collected_again(reviews: Reviews, tmp_path: Path) -> None:
    for number in range(4):
        reviews.add(number, "A")
    erased = {file["sha256"] for file in reviews.items[2]["files"]}
    reviews.erased = {"tsk_002"}
    collected(reviews, tmp_path / "s")
    assert list(samples(tmp_path / "s")) == ["scr_000", "scr_001", "scr_003"]
    assert not {path.stem for path in (tmp_path / "s" / "pictures").iterdir()} & erased
    assert reviews.fetched.most_common(1)[0][1] == 1


def test_a_picture_that_disappears_while_it_collects_is_collected_again(reviews: Reviews, tmp_path: Path) -> None:
    for number in range(4):
        reviews.add(number, "A")
    stale = [dict(item) for item in reviews.items]
    reviews.erase("tsk_001")
    kept, reviews.items = reviews.items, stale

    def fault(path: str) -> None:
        if path.startswith("/review/export/pictures/"):
            reviews.items = kept  # the next reading of the export no longer holds the task

    reviews.fault = fault
    assert collected(reviews, tmp_path / "s").samples == 3
    assert all("scr_001" not in text.decode("latin-1") for text in everything(tmp_path / "s").values())


@pytest.mark.slow
def test_a_killed_run_goes_on_without_asking_for_a_picture_twice(
    reviews: Reviews, tmp_path: Path, key_file: Path, wait_until: Any
) -> None:
    for number in range(6):
        reviews.add(number, "A")
    killed = threading.Event()

    def fault(path: str) -> None:
        if "/pictures/" in path and len(reviews.fetched) > 14:
            killed.wait(300)

    reviews.fault = fault
    order = ["collect", "--service", reviews.url, "--key-file", str(key_file), "--out", str(tmp_path / "s")]
    process = subprocess.Popen([sys.executable, "-m", "trainer", *order], stderr=subprocess.DEVNULL)
    partial = tmp_path / ".s.partial" / "pictures"
    wait_until(lambda: partial.is_dir() and len(list(partial.glob("[!.]*"))) >= 11)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed.set()
    assert not (tmp_path / "s").exists()
    there = {path.stem for path in partial.glob("[!.]*")}
    reviews.fault = lambda _: None
    reviews.asked.clear()
    digest = collected(reviews, tmp_path / "s").digest
    assert not there & set(reviews.fetched) and len(reviews.fetched) == 30 - len(there)
    assert digest == collected(reviews, tmp_path / "unbroken").digest
    assert everything(tmp_path / "s").keys() == everything(tmp_path / "unbroken").keys()


def test_an_empty_directory_may_be_a_link(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    (tmp_path / "s").mkdir()
    (tmp_path / "link").symlink_to("s")
    collected(reviews, tmp_path / "link")
    assert list(samples(tmp_path / "s")) == ["scr_001"]
    assert (tmp_path / "link").is_symlink()


def test_a_partial_picture_is_asked_for_again(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    folder = tmp_path / ".s.partial" / "pictures"
    folder.mkdir(parents=True)
    digest = reviews.items[0]["files"][0]["sha256"]
    (folder / f"{digest}.png").write_bytes(b"half")  # as after a power cut
    collected(reviews, tmp_path / "s")
    assert reviews.fetched[digest] == 1


def test_a_picture_that_cannot_be_decoded_leaves_its_sample_out(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    item = reviews.add(2, "A")
    digest = sha256(b"no picture").hexdigest()
    reviews.pictures[digest] = b"no picture"
    item["files"][3]["sha256"] = digest
    manifest = collected(reviews, tmp_path / "s")
    assert list(samples(tmp_path / "s")) == ["scr_001"]
    (reason,) = manifest.left_out
    assert reason.startswith("a picture cannot be used: ")
    assert reviews.exports[0]["tasks"] == ["tsk_001"]
    assert len(list((tmp_path / "s" / "pictures").iterdir())) == 5, "nothing that the service does not know of"


def test_the_tasks_that_a_picture_leaves_out_are_known_later(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    reviews.add(2, "B", reason="gold")
    digest = sha256(b"no picture").hexdigest()
    reviews.pictures[digest] = b"no picture"
    reviews.add(3, "A")["files"][3]["sha256"] = digest
    assert unusable_tasks(tmp_path / "s") == set()
    collected(reviews, tmp_path / "s")
    assert unusable_tasks(tmp_path / "s") == {"tsk_003"}
    for damaged in ("{", "[]", '{"task": "tsk_003"}'):
        (tmp_path / "s" / "left-out.jsonl").write_text(damaged)
        with pytest.raises(RunMismatch, match=r"left-out\.jsonl is damaged"):
            unusable_tasks(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "said", "status"),
    [
        (lambda r: r.items.clear(), "no reviewed question", 2),
        (lambda r: r.items[0].update(letters="B"), "task tsk_001 contradicts itself", 2),
        (lambda r: r.items[0]["pictures"][1]["dimensions"].update(glare=1), "unknown dimension 'glare'", 2),
        (lambda r: r.items[0]["files"][1].update(sha256="../x"), "items.0.files.1.sha256", 2),
        (lambda r: r.items[0]["files"][1].update(media_type="image/gif"), "media type 'image/gif'", 2),
        (lambda r: r.pictures.update({r.items[0]["files"][2]["sha256"]: b"other"}), "gave other bytes", 2),
        (lambda r: setattr(r, "fault", lambda _: (403, {})), "lacks the scope admin", 2),
        (lambda r: setattr(r, "fault", lambda _: (404, {})), "there is no review here", 2),
        (lambda r: setattr(r, "fault", lambda _: (503, {})), "status 503, 6 times", 1),
    ],
    ids=["nothing", "letters", "dimension", "path", "format", "bytes", "scope", "off", "down"],
)
def test_what_cannot_be_used_is_said(change: Any, said: str, status: int, reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    change(reviews)
    with pytest.raises(CollectError, match=said) as raised:
        collected(reviews, tmp_path / "s")
    assert raised.value.exit_status == status
    assert not (tmp_path / "s").exists()


def test_a_busy_service_is_asked_again_after_the_time_that_it_names(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    reviews.fault = lambda path: (429, {"Retry-After": "7"}) if reviews.asked[path] == 1 else None
    slept: list[float] = []
    with ReviewService(reviews.url, KEY, sleep=slept.append) as service:
        assert collect(service, tmp_path / "s").samples == 1
    assert slept and min(slept) >= 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must hold one key"),
        ("two keys", "must hold one key"),
        (None, "cannot be read"),
        ("wrong", "missing or unknown"),
    ],
)
def test_a_key_that_cannot_be_used_is_said(
    content: str | None, said: str, reviews: Reviews, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    order = ["collect", "--service", reviews.url, "--key-file", str(tmp_path / "key"), "--out", str(tmp_path / "s")]
    assert main(order) == 2
    assert said in capsys.readouterr().err


def test_a_secret_in_the_address_is_not_stored(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    with ReviewService(reviews.url.replace("//", "//user:secret@"), KEY) as service:
        collect(service, tmp_path / "s")
    assert all(b"secret" not in content for content in everything(tmp_path / "s").values())


@pytest.mark.slow
def test_other_files_and_another_process_are_left_alone(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(1, "A")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").touch()
    with pytest.raises(RunMismatch, match="other files"):
        collected(reviews, tmp_path / "s")
    holder = (
        "import sys; from pathlib import Path; from trainer.data.collect.snapshot import _locked\n"
        "with _locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / ".t.partial")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "locked\n"
        with pytest.raises(RunMismatch, match="another process"):
            collected(reviews, tmp_path / "t")
        other.communicate("")
    assert collected(reviews, tmp_path / "t").samples == 1
