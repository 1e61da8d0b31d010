"""Annotation against a real HTTP server that plays an OpenAI endpoint: what is asked, kept, refused, retried, written.

Pictures of one colour: red tells the sample, green the place in the question, so the server knows what it is asked.
Time is a fake clock's wherever the code waits, so no test waits for a backoff.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from screening.answer import Answer, Finding, Mode, compose, parse, render
from screening.prompt import STANDARD
from screening.task import NONE, OPTIONS, Dimension
from trainer.__main__ import main
from trainer.annotate.budget import Prices
from trainer.annotate.by_teacher import Order, annotate_by_teacher
from trainer.annotate.endpoint import Asking
from trainer.annotate.errors import AnnotationError, EndpointUnusable
from trainer.annotate.pace import Clock, Pace
from trainer.annotate.pictures import data_url
from trainer.annotate.reading import Fault, read_reasoning, tells
from trainer.annotate.replies import Reply, open_replies
from trainer.records import DataError, read_samples
from trainer.run_directory import RunMismatch

LABELS = ("AC", "N", "B", "ABCD", "D")
SHADOW = frozenset({Dimension.SHADOW})
LAYOUT = frozenset({Dimension.LAYOUT})
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10


# --- the endpoint ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request, as the server saw it."""

    sample: int
    task: str
    """`describe original` …, or `reason`."""
    text: str
    """All text parts."""
    body: dict[str, Any]
    headers: dict[str, str]
    time: int = 0
    """How often the same had been asked before."""

    @property
    def hint(self) -> bool:
        return "could not be used" in self.text


@dataclass
class Say:
    """What the server does with a request."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    finish: str = "stop"
    raw: bytes | None = None
    """The body as it is, in place of a chat completion."""
    usage: bool = True


Speak = Callable[[Asked], Say]


class Endpoint(ThreadingHTTPServer):
    """Listens on a free port of this machine; `asked` holds all requests in order of arrival."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.speak: Speak = honest
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def tasks(self) -> Counter[tuple[int, str]]:
        return Counter((asked.sample, asked.task) for asked in self.asked)

    def note(self, asked: Asked) -> Asked:
        with self._lock:
            asked = replace(asked, time=self.tasks[asked.sample, asked.task])
            self.asked.append(asked)
        return asked

    def count(self, step: int) -> None:
        with self._lock:
            self._at_once += step
            self.most_at_once = max(self.most_at_once, self._at_once)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        self.server.count(+1)
        asked = self.server.note(understood(body, {name.lower(): value for name, value in self.headers.items()}))
        say = self.server.speak(asked)
        self.server.closing.wait(say.delay)
        self.server.count(-1)
        if say.drop:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        data = say.raw if say.raw is not None else json.dumps(completion(say)).encode()
        self.send_response(say.status)
        for name, value in ({"Content-Type": "application/json"} | say.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def completion(say: Say) -> dict[str, Any]:
    if say.status != 200:
        return {"error": {"message": say.text, "type": "some_type", "code": None}}
    message = {"role": "assistant", "content": say.text}
    answer: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher-2026-01",
        "choices": [{"index": 0, "message": message, "finish_reason": say.finish}],
    }
    if say.usage:
        answer["usage"] = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": COMPLETION_TOKENS,
            "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        }
    return answer


def understood(body: dict[str, Any], headers: dict[str, str]) -> Asked:
    """Which sample and task a request is about, read off the colours of its pictures."""
    (message,) = body["messages"]
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    colours = []
    for part in message["content"]:
        if part["type"] == "image_url":
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            with Image.open(BytesIO(base64.b64decode(data))) as image:
                colours.append(image.convert("RGB").getpixel((2, 2)))
    samples = {round(red / 40) for red, _, _ in colours}
    places = [round(green / 50) for _, green, _ in colours]
    assert len(samples) == 1
    if len(places) == 1:
        task = "describe " + ("original", *OPTIONS)[places[0]]
    else:
        assert places == [0, 1, 2, 3, 4]
        task = "reason"
    return Asked(samples.pop(), task, "\n".join(texts), body, headers)


def thought(options: str, wrong: dict[str, frozenset[Dimension]] | None = None) -> str:
    """A whole reasoning: the named options are normal, the others have a wrong shadow, or what `wrong` says."""
    verdicts = {option: frozenset() if option in options else SHADOW for option in OPTIONS} | (wrong or {})
    findings = tuple(Finding(option, verdict, "as one can see") for option, verdict in verdicts.items())
    return render(compose(frozenset(options) - {NONE}, findings), Mode.COT)


def honest(asked: Asked) -> Say:
    """The teacher that is always right."""
    if asked.task != "reason":
        return Say(f"Sample {asked.sample},\n{asked.task.removeprefix('describe ')}.")
    return Say(thought(LABELS[asked.sample]))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


# --- the data and the run -------------------------------------------------------------------------------------------


def make_data(directory: Path, labels: Sequence[str] = LABELS, *, labelled: bool = True) -> Path:
    lines = []
    for number, label in enumerate(labels):
        folder = f"pictures/s{number}"
        (directory / folder).mkdir(parents=True)
        for place, name in enumerate(("original", *"abcd")):
            Image.new("RGB", (40, 30), (number * 40, 50 * place, 0)).save(directory / folder / f"{name}.png")
        generated: list[dict[str, Any]] = [{"file": f"{folder}/{o.lower()}.png", "option": o} for o in OPTIONS]
        record = {
            "id": f"s{number}",
            "product": f"p{number}",
            "original": {"file": f"{folder}/original.png", "attributes": {"colour": "red"}},
            "generated": generated,
        }
        if labelled:
            for picture in generated:
                usable = picture["option"] in label
                picture |= {"usable": usable, "dimensions": [] if usable else [Dimension.SHADOW.value], "severity": 2}
                picture["severity"] = 0 if usable else 2
            record["label"] = label
        lines.append(json.dumps(record) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


class FakeClock(Clock):
    """Sleeping takes no time and moves the clock."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.time = max(self.time, until)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def order(tmp_path: Path, endpoint: Endpoint) -> Order:
    return Order(
        method="progressive",
        data=make_data(tmp_path / "data"),
        out=tmp_path / "out",
        base_url=endpoint.url,
        asking=Asking(model="teacher", reply_tokens=200),
        concurrency=3,
        tries=4,
        timeout=30,
    )


def rejected(report_of: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report_of / "rejected.jsonl").read_text().splitlines()]


def annotation(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "annotation.json").read_text())
    return result


# --- progressive ----------------------------------------------------------------------------------------------------


def test_progressive_describes_each_picture_and_reasons_from_its_own_words(endpoint, order, clock):
    report = annotate_by_teacher(order, clock)

    tasks = [f"describe {place}" for place in ("original", *OPTIONS)] + ["reason"]
    assert endpoint.tasks == Counter({(n, task): 1 for n in range(len(LABELS)) for task in tasks})
    for asked in endpoint.asked:
        assert asked.body["model"] == "teacher"
        assert asked.body["max_tokens"] == 200
        if asked.task == "reason":
            for place in ("original", *OPTIONS):
                assert f"Your description: Sample {asked.sample}, {place}." in asked.text
    samples = read_samples(order.out)
    assert [sample.id for sample in samples] == ["s0", "s1", "s2", "s3", "s4"]
    assert tuple(sample.label for sample in samples) == LABELS
    for number, sample in enumerate(samples):
        assert sample.original.caption == f"Sample {number}, original."
        assert sample.original.attributes == {"colour": "red"}
        assert [picture.caption for picture in sample.generated] == [f"Sample {number}, {o}." for o in OPTIONS]
        assert render(Answer(sample.options, sample.reasoning), Mode.COT) == thought(LABELS[number])
    assert report.annotation.complete
    assert report.annotation.teacher is not None
    assert report.annotation.teacher.models == {"teacher-2026-01": 30}
    assert annotation(order.out)["teacher"]["prompt_tokens"] == 30 * PROMPT_TOKENS
    assert not rejected(order.out)
    assert not clock.slept


def test_the_weak_label_is_the_teachers_own_and_is_compared_with_the_truth(endpoint, order, clock):
    answers = ["A", "N", "BC", "N", "D"]  # right by the paper's rule: s0 (a part of AC), s1 and s4

    def speak(asked: Asked) -> Say:
        if asked.task != "reason":
            return honest(asked)
        answer = answers[asked.sample]
        return Say(thought(answer, {} if "D" in answer else {"D": LAYOUT}))

    endpoint.speak = speak
    annotate_by_teacher(order, clock)

    samples = read_samples(order.out)
    assert [sample.label for sample in samples] == answers
    assert samples[0].generated[3].dimensions == LAYOUT
    agreement = annotation(order.out)["agreement"]
    assert agreement["correct"]["hits"] == 3
    assert agreement["exact"]["hits"] == 2
    assert agreement["correct"]["n"] == 5
    assert agreement["correct"]["low"] < 60 < agreement["correct"]["high"]
    # Of 20 pictures, right are: s0 A B, s1 A B C, s2 A B, s4 A B C D. (D is said to be badly placed, not lit.)
    assert agreement["verdicts"]["hits"] == 11


def test_the_result_gives_sft_its_captions_and_its_reasoning(order, clock):
    from trainer.sft.rows import caption_rows, screening_rows

    annotate_by_teacher(order, clock)
    samples = read_samples(order.out)
    captions = [row["completion"][0]["content"][0]["text"] for row in caption_rows(samples)]
    assert len(captions) == 25
    assert captions[1] == "Sample 0, A."
    rows = screening_rows(samples, STANDARD, direct_share=0, seed=0)
    assert [row["completion"][0]["content"][0]["text"] for row in rows] == [thought(label) for label in LABELS]


def test_pictures_of_the_result_are_the_same_files(order, clock):
    annotate_by_teacher(order, clock)
    for sample in read_samples(order.out):
        for file in sample.files:
            assert (order.out / file).samefile(order.data / file)


def test_pictures_are_copied_where_they_cannot_be_linked(order, clock, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    annotate_by_teacher(order, clock)
    for sample in read_samples(order.out):
        for file in sample.files:
            assert (order.out / file).read_bytes() == (order.data / file).read_bytes()
            assert not (order.out / file).samefile(order.data / file)


def test_samples_without_labels_can_be_annotated_and_are_not_compared(endpoint, order, clock, tmp_path):
    order = replace(order, data=make_data(tmp_path / "unlabelled", labelled=False))
    annotate_by_teacher(order, clock)
    assert tuple(sample.label for sample in read_samples(order.out)) == LABELS
    assert annotation(order.out)["agreement"] is None


def test_an_unreadable_reply_is_asked_for_again_and_at_last_rejected_with_the_reason(endpoint, order, clock):
    def speak(asked: Asked) -> Say:
        if asked.task != "reason":
            return honest(asked)
        if asked.sample == 0:
            return Say("I like picture A best.")
        if asked.sample == 1 and asked.time == 0:
            return Say("<think>I observed <A> normal")
        return honest(asked)

    endpoint.speak = speak
    report = annotate_by_teacher(order, clock)

    assert endpoint.tasks[0, "reason"] == order.attempts == 3
    assert endpoint.tasks[1, "reason"] == 2
    assert endpoint.tasks[0, "describe A"] == 1
    assert [asked.hint for asked in endpoint.asked if asked.task == "reason" and asked.sample == 0] == [
        False,
        True,
        True,
    ]
    assert [sample.id for sample in read_samples(order.out)] == ["s1", "s2", "s3", "s4"]
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"], line["attempts"]) == ("s0", "reason", "no_think", 3)
    assert line["text"] == "I like picture A best."
    assert report.annotation.rejected_reasons == {"no_think": 1}
    assert (report.annotation.accepted.hits, report.annotation.accepted.n) == (4, 5)
    assert report.annotation.complete


def test_a_caption_that_is_empty_cut_or_filtered_is_asked_for_again(endpoint, order, clock):
    bad = [Say(""), Say("A bottle that", finish="length"), Say("A bottle", finish="content_filter")]
    endpoint.speak = lambda asked: (
        bad[asked.sample] if asked.task == "describe B" and asked.sample < 3 else honest(asked)
    )
    annotate_by_teacher(order, clock)
    assert [(line["sample"], line["task"], line["reason"]) for line in rejected(order.out)] == [
        ("s0", "describe B", "empty"),
        ("s1", "describe B", "cut"),
        ("s2", "describe B", "content_filter"),
    ]
    assert endpoint.tasks[0, "describe B"] == 3
    assert not any(asked.task == "reason" and asked.sample < 3 for asked in endpoint.asked)


# --- reading --------------------------------------------------------------------------------------------------------


def said(text: str, **kwargs: Any) -> Reply:
    return Reply(sample="s", task="reason", text=text, **kwargs)


GOOD = thought("AC")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("<C> normal", "<C> shadow"), "self_contradiction"),
        (GOOD.replace("<B> shadow", "<B> normal"), "self_contradiction"),
        (GOOD.replace("chose AC", "chose B"), "self_contradiction"),
        (GOOD.replace("chose AC", "chose A and B"), "self_contradiction"),
        (GOOD.replace("<B> shadow", "<B> the shadow is odd"), "no_verdict"),
        (GOOD.replace("<D> shadow: as one can see", ""), "no_verdict"),
        (GOOD.replace("<answer>AC</answer>", "<answer>AN</answer>"), "contradiction"),
        ("Sure! " + GOOD, "stray_text"),
    ],
)
def test_a_reasoning_must_agree_with_itself(text, reason):
    assert text != GOOD
    fault = read_reasoning(said(text))
    assert isinstance(fault, Fault)
    assert fault.reason == reason


@pytest.mark.parametrize("conclusion", ["AC", "A and C", "A, C", "C, A", "both, A being nicer", "Nothing else", "A C"])
def test_a_conclusion_in_other_words_is_no_contradiction(conclusion):
    answer = read_reasoning(said(GOOD.replace("chose AC", f"chose {conclusion}")))
    assert isinstance(answer, Answer)
    assert answer.options == {"A", "C"}


def test_findings_come_in_the_order_of_the_options_whatever_that_of_the_text():
    text = "<think><D> shadow: x, <B> layout: y, <A> normal: z, <C> normal: w</think><answer>CA</answer>"
    answer = read_reasoning(said(text))
    assert isinstance(answer, Answer)
    assert [finding.option for finding in answer.findings] == ["A", "B", "C", "D"]


def test_a_cut_reasoning_says_so_rather_than_what_is_missing():
    fault = read_reasoning(said(GOOD[:-30], finish="length"))
    assert isinstance(fault, Fault)
    assert fault.reason == "cut"


@pytest.mark.parametrize(
    ("comment", "gives_away"),
    [
        ("this fits the given answer", True),
        ("the ground truth says so", True),
        ("as I was told", True),
        ("the label is the one of the original", False),
        ("the right label and the expected number", False),
    ],
)
def test_a_reasoning_that_speaks_of_the_answer_it_was_given_is_noticed(comment, gives_away):
    answer = parse(GOOD.replace("as one can see", comment, 1), Mode.COT)
    assert isinstance(answer, Answer)
    assert (tells(answer) is not None) == gives_away


# --- answer-driven --------------------------------------------------------------------------------------------------


def test_answer_driven_gives_the_label_and_keeps_the_sample(endpoint, order, clock):
    order = replace(order, method="answer-driven")
    annotate_by_teacher(order, clock)
    assert endpoint.tasks == Counter({(number, "reason"): 1 for number in range(5)})
    for asked in endpoint.asked:
        assert f"the answer is {LABELS[asked.sample]}." in asked.text
        assert "must name exactly" not in asked.text
    for before, after in zip(read_samples(order.data), read_samples(order.out), strict=True):
        assert after.reasoning
        assert after == before.model_copy(update={"reasoning": after.reasoning})


def test_a_reasoning_against_the_label_is_asked_for_again_with_what_was_wrong(endpoint, order, clock):
    def speak(asked: Asked) -> Say:
        if asked.sample == 0 and asked.time == 0:
            return Say(thought("C"))  # picture A is good
        if asked.sample == 1:
            return Say(thought("B"))  # none is
        return honest(asked)

    endpoint.speak = speak
    order = replace(order, method="answer-driven", attempts=2)
    annotate_by_teacher(order, clock)

    again = next(asked for asked in endpoint.asked if asked.sample == 0 and asked.time == 1)
    assert "It called picture A shadow, but that one may be shown." in again.text
    assert endpoint.tasks == Counter({(0, "reason"): 2, (1, "reason"): 2} | {(n, "reason"): 1 for n in (2, 3, 4)})
    (line,) = rejected(order.out)
    assert (line["sample"], line["reason"], line["attempts"]) == ("s1", "against_label", 2)
    assert annotation(order.out)["agreement"]["correct"]["percent"] == 100


def test_issues_are_told_and_demanded_only_on_request(endpoint, order, clock, tmp_path):
    endpoint.speak = lambda a: Say(thought("AC", {"B": LAYOUT})) if a.sample == 0 and not a.hint else honest(a)
    plain = replace(order, method="answer-driven")
    annotate_by_teacher(plain, clock)
    assert endpoint.tasks[0, "reason"] == 1
    assert annotation(plain.out)["agreement"]["verdicts"]["hits"] == 19

    endpoint.asked.clear()
    told = replace(plain, out=tmp_path / "told", reveal_issues=True)
    annotate_by_teacher(told, clock)
    first, second = (asked for asked in endpoint.asked if asked.sample == 0)
    assert "A normal, B shadow, C normal, D shadow" in first.text
    assert "It said layout of picture B, whose issues are shadow alone." in second.text
    assert annotation(told.out)["agreement"]["verdicts"]["hits"] == 20


def test_answer_driven_needs_labels_and_asks_nothing_without(endpoint, order, clock, tmp_path):
    data = make_data(tmp_path / "unlabelled", labelled=False)
    with pytest.raises(AnnotationError, match="s0 has no label"):
        annotate_by_teacher(replace(order, method="answer-driven", data=data), clock)
    assert not endpoint.asked


# --- failures of the endpoint ---------------------------------------------------------------------------------------

PASSING = [
    Say("slow down", status=429),
    Say("oops", status=500),
    Say(status=502, raw=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}),
    Say("overloaded", status=529),
    Say("waited too long for you", status=408),
    Say(drop=True),
    Say(raw=b"<html>who are you</html>", headers={"Content-Type": "text/html"}),
    Say(raw=b'{"half": '),
    Say(raw=b'{"error": {"message": "no provider"}}'),
    Say(raw=b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'),
]


@pytest.mark.parametrize("failure", PASSING, ids=lambda say: f"{say.status}{'-drop' if say.drop else ''}")
def test_what_may_pass_is_asked_again_by_us_alone(endpoint, order, clock, failure):
    endpoint.speak = lambda a: failure if a.sample == 0 and a.task == "reason" and a.time < 3 else honest(a)
    report = annotate_by_teacher(order, clock)
    assert report.annotation.complete
    assert report.annotation.accepted.hits == 5
    assert endpoint.tasks[0, "reason"] == 4
    assert len(endpoint.asked) == 33
    assert len(clock.slept) == 3
    assert all(0 < seconds <= 8 for seconds in clock.slept)
    assert (order.out / "replies.jsonl").read_bytes().count(b"\n") == 30


def test_a_slow_answer_is_given_up_and_asked_for_again(endpoint, order, clock):
    endpoint.speak = lambda a: Say(delay=20) if a.sample == 0 and a.task == "reason" and a.time == 0 else honest(a)
    report = annotate_by_teacher(replace(order, timeout=1.0), clock)
    assert report.annotation.accepted.hits == 5
    assert endpoint.tasks[0, "reason"] == 2


@pytest.mark.parametrize(
    ("headers", "least"), [({"Retry-After": "37"}, 37), ({"retry-after-ms": "4500", "Retry-After": "5"}, 4.5)]
)
def test_retry_after_is_obeyed_for_all(endpoint, order, clock, headers, least):
    times: list[float] = []

    def speak(asked: Asked) -> Say:
        times.append(clock.now())
        return Say("slow down", status=429, headers=headers) if len(endpoint.asked) == 1 else honest(asked)

    endpoint.speak = speak
    annotate_by_teacher(replace(order, concurrency=1), clock)
    assert clock.slept[0] >= least
    assert times[1] - times[0] >= least
    assert len(times) == 31


def test_retry_after_may_be_a_date(endpoint, order, clock):
    dated = Say("later", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    endpoint.speak = lambda asked: dated if len(endpoint.asked) == 1 else honest(asked)
    assert annotate_by_teacher(replace(order, concurrency=1), clock).annotation.complete
    assert len(clock.slept) == 1
    assert clock.slept[0] <= 1  # that date is over; only the jitter is left


def test_a_retry_after_of_hours_ends_the_run_and_the_same_command_goes_on(endpoint, order, clock):
    endpoint.speak = lambda a: (
        honest(a) if len(endpoint.asked) < 10 else Say(status=429, headers={"Retry-After": "7200"})
    )
    with pytest.raises(EndpointUnusable, match="asks to wait 120 minutes"):
        annotate_by_teacher(replace(order, concurrency=1), clock)
    assert len(endpoint.asked) == 10
    assert not clock.slept
    assert not (order.out / "samples.jsonl").exists()

    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.complete
    assert len(endpoint.asked) == 31
    assert max(endpoint.tasks.values()) == 2  # the one that got the 429


@pytest.mark.parametrize("status", [400, 403, 409, 413, 422])
def test_a_refused_request_is_not_repeated_and_rejects_its_sample(endpoint, order, clock, status):
    endpoint.speak = lambda a: (
        Say("bad picture", status=status) if a.sample == 0 and a.task == "describe C" else honest(a)
    )
    report = annotate_by_teacher(replace(order, concurrency=1), clock)
    assert endpoint.tasks[0, "describe C"] == 1
    assert not clock.slept
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"]) == ("s0", "describe C", "refused")
    assert f"status {status}" in line["detail"]
    assert "bad picture" in line["detail"]
    assert report.annotation.complete

    assert annotate_by_teacher(order, clock).annotation.rejected == 1
    assert len(endpoint.asked) == 4 + 4 * 6


def test_refusals_before_the_first_answer_count_only_if_an_answer_follows(endpoint, order, clock):
    endpoint.speak = lambda a: Say("no", status=400) if a.sample < 2 else honest(a)
    report = annotate_by_teacher(replace(order, concurrency=1), clock)
    assert (report.annotation.accepted.hits, report.annotation.rejected) == (3, 2)


def test_an_endpoint_that_refuses_everything_rejects_nothing(endpoint, order, clock):
    endpoint.speak = lambda _: Say("this model takes no pictures", status=400)
    with pytest.raises(EndpointUnusable, match=r"refuses every request .*takes no pictures"):
        annotate_by_teacher(order, clock)
    assert (order.out / "replies.jsonl").read_bytes() == b""

    endpoint.asked.clear()
    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.accepted.hits == 5
    assert len(endpoint.asked) == 30


@pytest.mark.parametrize(("status", "words"), [(401, "key"), (402, "credit"), (404, "no such model")])
def test_what_would_fail_for_all_ends_the_run_at_once(endpoint, order, clock, status, words):
    endpoint.speak = lambda _: Say("no", status=status)
    with pytest.raises(EndpointUnusable, match=words):
        annotate_by_teacher(replace(order, concurrency=1), clock)
    assert len(endpoint.asked) == 1


def test_a_question_without_any_answer_stays_open_and_the_others_are_done(endpoint, order, clock):
    endpoint.speak = lambda a: Say("oops", status=500) if a.sample == 2 and a.task == "reason" else honest(a)
    report = annotate_by_teacher(order, clock)
    assert endpoint.tasks[2, "reason"] == order.tries
    assert not report.annotation.complete
    assert (report.annotation.accepted.hits, report.annotation.unfinished) == (4, 1)
    assert any("s2: status 500: " in line and "asks again" in line for line in report.lines)

    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.complete
    assert endpoint.tasks[2, "reason"] == order.tries + 1
    assert len(endpoint.asked) == 30 + order.tries
    assert [sample.id for sample in read_samples(order.out)] == ["s0", "s1", "s2", "s3", "s4"]


def test_an_endpoint_that_is_not_there_is_given_up(order, clock):
    with pytest.raises(EndpointUnusable, match=r"3 questions in a row got no answer .the connection failed"):
        annotate_by_teacher(replace(order, base_url="http://127.0.0.1:9/v1"), clock)


# --- going on -------------------------------------------------------------------------------------------------------


def test_a_finished_annotation_asks_nothing_and_writes_the_same(endpoint, order, clock):
    annotate_by_teacher(order, clock)
    names = ("samples.jsonl", "rejected.jsonl", "annotation.json")
    before = {name: (order.out / name).read_bytes() for name in names}
    (order.out / "annotation.json").unlink()
    endpoint.asked.clear()
    annotate_by_teacher(replace(order, concurrency=1, requests_per_minute=5, base_url="http://127.0.0.1:9/v1"), clock)
    assert not endpoint.asked
    assert {name: (order.out / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("torn", [b"", b'{"sample":"s4","task":"rea', b'{"sample":"s4"'])
def test_only_what_is_missing_is_asked_after_a_kill(endpoint, order, clock, torn):
    annotate_by_teacher(order, clock)
    whole = {name: (order.out / name).read_bytes() for name in ("samples.jsonl", "annotation.json")}
    log = order.out / "replies.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    kept, lost = lines[:17], lines[17:]
    log.write_bytes(b"".join(kept) + torn)
    for name in whole:
        (order.out / name).unlink()
    endpoint.asked.clear()

    annotate_by_teacher(order, clock)
    missing = [json.loads(line) for line in lost]
    assert endpoint.tasks == Counter((int(reply["sample"][1:]), reply["task"]) for reply in missing)
    assert {name: (order.out / name).read_bytes() for name in whole} == whole


def test_a_damaged_log_is_refused_with_its_line(order, clock):
    annotate_by_teacher(order, clock)
    log = order.out / "replies.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[3:]]))
    with pytest.raises(AnnotationError, match=r"replies\.jsonl, line 4"):
        annotate_by_teacher(order, clock)


@pytest.mark.parametrize(
    "other",
    [
        {"asking": Asking(model="other", reply_tokens=200)},
        {"asking": Asking(model="teacher", reply_tokens=200, temperature=0.5)},
        {"asking": Asking(model="teacher", reply_tokens=200, extra_body={"top_k": 3})},
        {"picture_size": 512},
        {"attempts": 5},
        {"method": "answer-driven"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_annotation_in_the_same_directory_is_refused(endpoint, order, clock, other):
    annotate_by_teacher(order, clock)
    endpoint.asked.clear()
    with pytest.raises(RunMismatch):
        annotate_by_teacher(replace(order, **other), clock)
    assert not endpoint.asked


def test_a_higher_limit_goes_on(endpoint, order, clock):
    assert annotate_by_teacher(replace(order, limit=2), clock).annotation.complete
    assert len(read_samples(order.out)) == 2
    annotate_by_teacher(order, clock)
    assert len(read_samples(order.out)) == 5
    assert set(endpoint.tasks.values()) == {1}


def test_a_directory_that_is_written_by_another_process_is_refused(endpoint, order, clock):
    annotate_by_teacher(order, clock)
    with open_replies(order.out), pytest.raises(AnnotationError, match="written by another annotation"):
        annotate_by_teacher(order, clock)


def test_foreign_directories_are_left_alone(order, clock):
    before = (order.data / "samples.jsonl").read_bytes()
    with pytest.raises(AnnotationError, match="the data directory itself"):
        annotate_by_teacher(replace(order, out=order.data), clock)
    order.out.mkdir()
    (order.out / "thesis.tex").write_text("x")
    with pytest.raises(AnnotationError, match=r"thesis\.tex"):
        annotate_by_teacher(order, clock)
    assert (order.data / "samples.jsonl").read_bytes() == before
    assert sorted(path.name for path in order.out.iterdir()) == ["thesis.tex"]


# --- pace and spending ----------------------------------------------------------------------------------------------


def test_requests_start_at_the_rate_that_is_set_whoever_asks(clock):
    pace = Pace(30, clock)
    starts: list[float] = []

    async def ask() -> None:
        await pace.turn()
        starts.append(clock.now())

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(100)))

    asyncio.run(all_of_them())
    assert len(starts) == 100
    for start in starts:
        assert sum(start <= other < start + 60 for other in starts) <= 30
    assert starts[-1] - starts[0] == pytest.approx(99 * 2)


def test_nothing_starts_while_the_endpoint_asks_to_wait(clock):
    pace = Pace(60, clock)
    starts: list[float] = []

    async def ask(number: int) -> None:
        await pace.turn()
        starts.append(clock.now())
        if number == 2:
            pace.hold(50)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(10)))

    asyncio.run(all_of_them())
    begin = starts[0]
    assert [start - begin for start in starts[:3]] == [0, 1, 2]
    assert all(start - begin >= 52 for start in starts[3:])
    assert all(later - earlier >= 1 for earlier, later in pairwise(starts[3:]))


def test_retries_count_against_the_rate(endpoint, order, clock):
    times: list[float] = []

    def speak(asked: Asked) -> Say:
        times.append(clock.now())
        return Say(status=500) if asked.time == 0 and asked.task == "reason" else honest(asked)

    endpoint.speak = speak
    annotate_by_teacher(replace(order, concurrency=1, requests_per_minute=4), clock)
    assert len(times) == 35
    assert all(later - earlier >= 14.999 for earlier, later in pairwise(times))


def test_no_more_requests_at_once_than_asked_for(endpoint, order, clock):
    endpoint.speak = lambda asked: replace(honest(asked), delay=0.01)
    annotate_by_teacher(replace(order, concurrency=2), clock)
    assert endpoint.most_at_once == 2


def test_a_limit_of_tokens_is_kept_and_a_higher_one_goes_on(endpoint, order, clock):
    each = PROMPT_TOKENS + COMPLETION_TOKENS
    report = annotate_by_teacher(replace(order, max_tokens=each * 13 + 5, concurrency=8), clock)
    assert len(endpoint.asked) == 13
    assert not report.annotation.complete
    assert any("--max-tokens-total" in line for line in report.lines)
    assert annotation(order.out)["unfinished"] >= 3

    annotate_by_teacher(replace(order, max_tokens=each * 13 + 5), clock)
    assert len(endpoint.asked) == 13  # what was spent before counts
    assert annotate_by_teacher(replace(order, max_tokens=each * 30), clock).annotation.complete
    assert len(endpoint.asked) == 30
    assert set(endpoint.tasks.values()) == {1}


def test_a_budget_is_kept_in_the_currency_of_the_prices(endpoint, order, clock):
    prices = Prices(prompt=1000.0, completion=20_000.0)  # 0.1 + 0.2 for each reply
    report = annotate_by_teacher(replace(order, budget=2.75, prices=prices, concurrency=1), clock)
    assert len(endpoint.asked) == 9
    assert report.annotation.teacher is not None
    assert report.annotation.teacher.cost == pytest.approx(2.7)
    assert [sample.id for sample in read_samples(order.out)] == ["s0"]


def test_a_limit_on_tokens_needs_an_endpoint_that_counts_them(endpoint, order, clock):
    endpoint.speak = lambda asked: replace(honest(asked), usage=False)
    with pytest.raises(EndpointUnusable, match="does not report tokens"):
        annotate_by_teacher(replace(order, max_tokens=10_000), clock)
    assert len(endpoint.asked) == 1
    assert annotate_by_teacher(order, clock).annotation.complete


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_sent_upright_in_its_proportions_and_not_enlarged(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to view
    Image.new("RGB", (400, 200), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif)
    for size, expected in ((100, (50, 100)), (1000, (200, 400))):
        url = data_url(tmp_path, "turned.jpg", size)
        with Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            assert (image.format, image.size) == ("JPEG", expected)
            assert not image.getexif()


def test_a_picture_over_a_limit_is_named(tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png: .*the limit is 25 megapixels"):
        data_url(tmp_path, "huge.png", 100)


def test_a_damaged_picture_rejects_its_sample_alone(endpoint, order, clock):
    picture = order.data / "pictures/s1/b.png"
    picture.write_bytes(picture.read_bytes()[:50])
    report = annotate_by_teacher(order, clock)
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"]) == ("s1", "describe B", "picture")
    assert report.annotation.accepted.hits == 4
    asked = len(endpoint.asked)
    assert annotate_by_teacher(order, clock).annotation.complete
    assert len(endpoint.asked) == asked


# --- the command ----------------------------------------------------------------------------------------------------


def words(order: Order, *more: str) -> list[str]:
    return [
        *("annotate", order.method, "--data", str(order.data), "--out", str(order.out)),
        *("--base-url", order.base_url, "--model", "teacher", *more),
    ]


def test_the_command_without_a_key_sends_none(endpoint, order, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(words(order)) == 0
    assert not any("authorization" in asked.headers for asked in endpoint.asked)
    assert "5 of 5 samples accepted" in capsys.readouterr().out


def test_the_command_takes_the_key_from_the_variable_and_writes_it_nowhere(endpoint, order, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-one")
    monkeypatch.setenv("TEACHER_KEY", "secret-4711")
    assert (
        main(words(order, "--api-key-env", "TEACHER_KEY", "--extra-body", '{"top_k": 5}', "--temperature", "0.2")) == 0
    )
    assert {asked.headers["authorization"] for asked in endpoint.asked} == {"Bearer secret-4711"}
    assert {(asked.body["top_k"], asked.body["temperature"]) for asked in endpoint.asked} == {(5, 0.2)}
    for path in order.out.rglob("*.json*"):
        assert "secret-4711" not in path.read_text()


def test_the_command_tells_an_unfinished_run_by_its_status(endpoint, order, capsys):
    assert main(words(order, "--max-tokens-total", "500")) == 1
    assert "run the same command with a higher --max-tokens-total" in capsys.readouterr().out
    endpoint.speak = lambda _: Say("no", status=401)
    assert main(words(order)) == 1
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "3"], "--budget needs --price-prompt"),
        (["--price-prompt", "3"], "give both"),
        (["--budget", "1", "--price-prompt", "0", "--price-completion", "0"], "never reached"),
    ],
)
def test_options_that_need_each_other_are_asked_for(endpoint, order, capsys, more, message):
    assert main(words(order, *more)) == 2
    assert message in capsys.readouterr().err
    assert not endpoint.asked


@pytest.mark.parametrize(
    "more",
    [["--concurrency", "0"], ["--timeout", "0"], ["--extra-body", "[1]"], ["--picture-size", "9"], ["--budget", "nan"]],
)
def test_options_outside_their_range_are_refused(order, more):
    with pytest.raises(SystemExit) as caught:
        main(words(order, *more))
    assert caught.value.code == 2


def test_bad_input_is_one_line_and_status_2(order, capsys, tmp_path):
    assert main(words(replace(order, data=tmp_path / "nowhere"))) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(words(order)) == 0
    assert main(words(order, "--attempts", "9")) == 2
    assert "other settings" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_keeps_what_was_answered_and_the_same_command_goes_on(endpoint, order, repository):
    enough = threading.Event()

    def speak(asked: Asked) -> Say:
        number = endpoint.asked.index(asked)
        if number >= 9:  # both workers wait now, so the first eight replies are written down
            enough.set()
        return Say(delay=60) if number >= 8 else honest(asked)

    endpoint.speak = speak
    command = [sys.executable, "-m", "trainer", *words(order, "--concurrency", "2")]
    with subprocess.Popen(
        command, cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert enough.wait(120)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    answered = [json.loads(line) for line in (order.out / "replies.jsonl").read_text().splitlines()]
    assert len(answered) == 8

    endpoint.speak = honest
    endpoint.asked.clear()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 samples accepted" in done.stdout
    again = {(int(reply["sample"][1:]), reply["task"]) for reply in answered}
    assert not again & endpoint.tasks.keys()
    assert len(endpoint.asked) == 22
