"""From a decision to a training: screen, review over HTTP, collect, split, train, review again, erase."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from screening.task import OPTIONS, options_text
from tests.service.conftest import Process, launch
from tests.trainer.conftest import small_checkpoint  # noqa: F401 - a fixture
from trainer.__main__ import main
from trainer.data.collect import service as client
from trainer.data_directory import read_samples
from trainer.records import Sample

QUESTIONS, TASKS = 50, 40
ERRORS = 0.05
LEAD = "lead-key"
PEOPLE = ("ann", "ben", "cal")
Letters = str


@dataclass
class Person:
    """A reviewer who recognises pictures by their bytes, and errs on one in twenty of them."""

    name: str
    http: httpx.Client
    truth: dict[str, Any]
    """SHA-256 of a generated picture → what the renderer did to it."""
    said: dict[str, dict[str, Letters]]
    """Bytes of the original, as SHA-256 → name → letters; all people share it."""
    draw: random.Random = field(default_factory=random.Random)
    last: dict[str, Any] = field(default_factory=dict)
    errors: float = ERRORS

    def work(self) -> int:
        """Review all tasks that this person can get; returns their number."""
        for count in range(10_000):
            answer = self.http.post("/review/leases", json={"count": 1}).raise_for_status().json()
            if not answer["leases"]:
                return count
            self.review(answer["leases"][0])
        raise AssertionError("the queue does not end")

    def review(self, lease: dict[str, Any]) -> None:
        original = self._bytes(lease["original"]["url"])
        verdicts, letters = [], set()
        for shown in lease["pictures"]:
            truth = self.truth[self._bytes(shown["url"])]
            usable = truth.usable != (self.draw.random() < self.errors)
            dimensions = dict.fromkeys(sorted(truth.dimensions) or ["physical_shadow"], max(1, truth.severity))
            verdicts.append({"number": shown["number"], "usable": usable, "dimensions": {} if usable else dimensions})
            letters |= {truth.option} if usable else set()
        self.last = {"lease": lease["lease"], "verdicts": verdicts, "original": original, "letters": letters}
        self.send(verdicts)
        self.said.setdefault(original, {})[self.name] = options_text(letters)

    def send(self, verdicts: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        self.last["id"] = str(uuid.uuid4())
        body = {"id": self.last["id"], "lease": self.last["lease"], "verdicts": verdicts, "active_seconds": 2} | fields
        stored: dict[str, Any] = self.http.post("/review/reviews", json=body).raise_for_status().json()
        return stored

    def _bytes(self, url: str) -> str:
        return sha256(self.http.get(url).raise_for_status().content).hexdigest()


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("products") / "data"
    order = ["render", "--count", str(QUESTIONS), "--seed", "41", "--size", "96", "--workers", "1", "--out", str(out)]
    assert main(order) == 0
    return out


@pytest.fixture(
    params=[
        pytest.param("scripted", marks=pytest.mark.slow),
        pytest.param(
            "vllm", marks=[pytest.mark.vllm, pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(1800)]
        ),
    ]
)
def service(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Process]:
    """A service that keeps its decisions and lets three people review them."""
    keys = {name: sha256(name.encode()).hexdigest() for name in (*PEOPLE, LEAD)}
    variables = {
        "SCREENING_DECISIONS": f"sqlite:///{tmp_path / 'decisions.db'}",
        "SCREENING_PICTURES": str(tmp_path / "pictures"),
        "SCREENING_REVIEW": "true",
        # An admin may review too.
        "SCREENING_ADMIN_KEYS": ",".join(f"{name}:{digest}" for name, digest in keys.items()),
    }
    engine = ["--engine", "scripted", "--scripted-latency-ms", "1"]
    if request.param == "vllm":
        # It is sure of every answer, and without doubtful ones each question would have two reviewers.
        engine = ["--checkpoint", str(tiny_checkpoint), "--review-below", "1"]
    with launch(tmp_path, *engine, variables=variables) as process:
        yield process


@pytest.fixture
def keyed(service: Process) -> Iterator[Callable[[str], httpx.Client]]:
    """Makes a client that sends a key."""
    with ExitStack() as opened:
        yield lambda key: opened.enter_context(
            httpx.Client(base_url=service.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=120)
        )


def screen(process: Process, products: Path, samples: list[Sample]) -> dict[str, str]:
    """Screen all samples; returns the id of the decision by the SHA-256 of the original."""

    def ask(sample: Sample) -> tuple[str, str]:
        data = [(products / file).read_bytes() for file in sample.files]
        names = ("original", *["generated"] * 4)
        files = [(name, ("p.jpg", one, "image/jpeg")) for name, one in zip(names, data, strict=True)]
        metadata = {"metadata": json.dumps({"product": f"SKU {sample.id}"})}
        answer = http.post("/screen", files=files, data=metadata).raise_for_status().json()
        return sha256(data[0]).hexdigest(), answer["id"]

    with httpx.Client(base_url=process.base_url, timeout=300) as http, ThreadPoolExecutor(8) as pool:
        return dict(pool.map(ask, samples))


def consensus(said: dict[str, Letters]) -> Letters:
    """The label that follows from what people said: the majority, picture by picture."""
    return options_text(one for one in OPTIONS if 2 * sum(one in letters for letters in said.values()) > len(said))


def labels(out: Path) -> dict[str, Letters]:
    return {sample.id: sample.label for sample in read_samples(out)}


def content(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }


def digest_of(out: Path) -> str:
    return str(json.loads((out / "collect.json").read_text())["digest"])


def small_recipe(path: Path) -> str:
    stage = "{epochs: 1, batch_size: 8, learning_rate: 0.001, captions: false}"
    path.write_text(f"name: small\nprompt: compact\nmax_tokens_cot: 256\nsft_weak: {stage}\nsft_answer: {stage}\n")
    return str(path)


def test_what_people_say_is_what_the_next_model_learns(
    service: Process,
    products: Path,
    small_checkpoint: Path,  # noqa: F811
    tmp_path: Path,
    keyed: Callable[[str], httpx.Client],
    wait_until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered = read_samples(products)
    decisions = screen(service, products, rendered)
    wait_until(lambda: service.metric('screening_decisions_total{result="stored"}') == QUESTIONS)
    lead = keyed(LEAD)
    made = lead.post("/review/tasks", json={"count": TASKS, "seed": 3}).raise_for_status().json()["made"]
    assert sum(made.values()) == TASKS

    truth = {
        sha256((products / one.file).read_bytes()).hexdigest(): one for sample in rendered for one in sample.generated
    }
    said: dict[str, dict[str, Letters]] = {}
    people = [Person(name, keyed(name), truth, said, random.Random(number)) for number, name in enumerate(PEOPLE)]
    while sum(person.work() for person in people):  # a third review is asked for where two differ
        pass

    def collect(name: str) -> Path:
        (tmp_path / "key").write_text(LEAD)
        out = tmp_path / name
        order = ["--service", service.base_url, "--key-file", str(tmp_path / "key"), "--out", str(out)]
        assert main(["collect", *order]) == 0
        return out

    first = collect("first")
    expected = {decisions[original]: consensus(letters) for original, letters in said.items()}
    assert labels(first) == expected and len(expected) == TASKS
    true = {f"SKU {sample.id}": sample.label for sample in rendered}
    wrong = sum(sample.label != true[sample.product] for sample in read_samples(first))
    assert 0 < wrong < TASKS / 3, "people err now and then"
    for sample in read_samples(first):
        provenance = sample.provenance
        assert provenance and sample.weight and provenance.inclusion_probability
        assert sample.weight == pytest.approx(1 / provenance.inclusion_probability) and sample.weight >= 1
        assert provenance.checkpoint and len(provenance.reviews) == provenance.reviewers
    manifest = json.loads((first / "collect.json").read_text())
    assert manifest["samples"] == manifest["weighted"] == TASKS
    assert manifest["reasons"] == {reason: count for reason, count in made.items() if count}
    assert "usable" in {one["dimension"] for one in manifest["agreement"]}
    monkeypatch.setattr(client, "PAGE", 7)
    assert digest_of(collect("again")) == digest_of(first)
    before = content(first)

    divided = tmp_path / "split"
    split = ["split", "--out", str(divided), "--shares", "0.6,0.4,0,0", "--data", str(first)]
    assert main(split) == 0
    assert labels(divided / "training") | labels(divided / "testing") == expected
    annotated, trained = tmp_path / "annotated", tmp_path / "sft"
    assert main(["annotate", "ground-truth", "--data", str(divided / "training"), "--out", str(annotated)]) == 0
    assert labels(annotated) == labels(divided / "training")
    recipe = small_recipe(tmp_path / "small.yaml")
    order = ["--recipe", recipe, "--stage", "answer-driven", "--checkpoint", str(small_checkpoint)]
    assert main(["sft", *order, "--data", str(annotated), "--out", str(trained), "--tracking-uri", "none"]) == 0
    assert (trained / "checkpoint" / "screening.json").exists()

    # Ann has second thoughts about a question that she alone reviewed.
    ann, frozen = people[0], labels(divided / "testing")
    again = correct(ann, lead)
    second = collect("second")
    assert content(first) == before, "a snapshot never changes"
    assert labels(second) == expected | again and digest_of(second) != digest_of(first)
    assert main([*split, str(second)]) == 0
    assert labels(divided / "testing") == frozen
    assert labels(divided / "training") == {name: (expected | again)[name] for name in expected if name not in frozen}

    erased = min(expected)
    (sku,) = (sample.product for sample in read_samples(first) if sample.id == erased)
    gone = {sha256((first / file).read_bytes()).hexdigest()
            for sample in read_samples(first) if sample.id == erased for file in sample.files}  # fmt: skip
    assert lead.delete(f"/decisions/{erased}").status_code == 204
    third = collect("third")
    assert labels(third).keys() == expected.keys() - {erased}
    assert not gone & set(content(third).values())
    stored = {path: path.read_bytes() for path in third.rglob("*") if path.is_file()}
    assert not any(word.encode() in data for data in stored.values() for word in (erased, f'"{sku}"', *gone))
    assert not list(tmp_path.glob(".*.partial"))
    with closing(sqlite3.connect(tmp_path / "decisions.db")) as rows:
        assert not any(f"'{sku}'" in line or f'"{sku}"' in line for line in rows.iterdump())
    assert not gone & set(content(tmp_path / "pictures").values())


@pytest.mark.slow
def test_a_folder_that_people_label_on_their_own_machine_becomes_data(products: Path, tmp_path: Path) -> None:
    truth = {sample.id: sample for sample in read_samples(products)[:4]}
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    (unlabelled / "pictures").symlink_to(products / "pictures")
    lines = ({"id": one.id, "product": one.product, "original": one.original.file,
              "generated": [picture.file for picture in one.generated]} for one in truth.values())  # fmt: skip
    (unlabelled / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    variables = {
        "SCREENING_DECISIONS": f"sqlite:///{tmp_path / 'decisions.db'}",
        "SCREENING_PICTURES": str(tmp_path / "pictures"),
        "SCREENING_REVIEW": "true",
    }
    with launch(tmp_path, "--engine", "scripted", variables=variables) as process:
        command = [sys.executable, "-m", "service", "review", "import", str(unlabelled), "--batch", "shop-1"]
        subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
        by_picture = {
            sha256((products / one.file).read_bytes()).hexdigest(): one
            for sample in truth.values()
            for one in sample.generated
        }
        with httpx.Client(base_url=process.base_url, timeout=60) as http:  # without a key
            assert Person("local", http, by_picture, {}, errors=0).work() == 4
        assert main(["collect", "--service", process.base_url, "--out", str(tmp_path / "labelled")]) == 0
    found = {sample.id: sample for sample in read_samples(tmp_path / "labelled")}
    assert {name: (one.label, one.product) for name, one in found.items()} == {
        name: (one.label, one.product) for name, one in truth.items()
    }
    for name, sample in found.items():
        assert [one.dimensions for one in sample.generated] == [one.dimensions for one in truth[name].generated]
        assert sample.weight is None and sample.provenance and sample.provenance.batch == "shop-1"


def correct(person: Person, lead: httpx.Client) -> dict[str, Letters]:
    """Supersede the person's last review that was the only one; returns the new label by decision."""
    alone = {one["reviews"][0]: one for one in pages(lead) if one["reviewers"] == 1}
    mine = person.http.get("/review/reviews", params={"mine": True, "limit": 200}).raise_for_status().json()["reviews"]
    review = next(one for one in mine if one["id"] in alone)
    task = alone[review["id"]]
    usable = [verdict["number"] for verdict in review["verdicts"] if verdict["usable"]]
    verdicts = [
        {"number": number, "usable": not usable, "dimensions": {} if not usable else {"placement_layout": 2}}
        for number in range(1, 5)
    ]
    person.last["lease"] = review["lease"]
    person.send(verdicts, supersedes=review["id"])
    return {task["decision"]: "N" if usable else "ABCD"}


def pages(lead: httpx.Client) -> list[dict[str, Any]]:
    found, cursor = [], None
    while True:
        query = {"limit": 50} | ({"cursor": cursor} if cursor else {})
        page = lead.get("/review/export", params=query).raise_for_status().json()
        found += page["items"]
        if (cursor := page["next"]) is None:
            return found
