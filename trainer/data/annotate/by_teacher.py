"""A complete run of `annotate progressive` or `answer-driven`: ask all open questions, then write the result."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from trainer.data.annotate.answer_driven import AnswerDriven
from trainer.data.annotate.method import Accepted, Method, Rejected, Step
from trainer.data.annotate.output import REJECTED_NAME, Annotation, Teaching, write_output
from trainer.data.annotate.progressive import Progressive
from trainer.data.annotate.prompts import digest
from trainer.data.annotate.replies import Replies, open_replies
from trainer.data.annotate.report import Report, begin, summary
from trainer.data.annotate.teacher import Teacher, Watch, is_settled, progress_of
from trainer.endpoint.budget import Meter
from trainer.endpoint.client import Endpoint
from trainer.endpoint.order import EndpointOrder
from trainer.endpoint.pace import Clock
from trainer.endpoint.workers import Outcome, Workers
from trainer.records import AnySample


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(EndpointOrder):
    """The settings of a run with a teacher."""

    method: str
    reveal_issues: bool = False
    attempts: int = 3
    """Maximum number of replies per question."""

    def origin(self, data_digest: str) -> dict[str, object]:
        """The settings that decide the replies and which of them are used.

        Rate and spending are left out. The address is left out too, because a server may move to another address.
        """
        return {
            "stage": f"annotate-{self.method}",
            "data": data_digest,
            "model": self.asking.model,
            "prompts": digest(),
            "reply_tokens": self.asking.reply_tokens,
            "temperature": self.asking.temperature,
            "extra_body": dict(self.asking.extra_body),
            "picture_size": self.picture_size,
            "attempts": self.attempts,
            "reveal_issues": self.reveal_issues,
        }

    def new_method(self) -> Method:
        """The method, which has no state."""
        if self.method == "progressive":
            return Progressive(self.attempts)
        return AnswerDriven(self.attempts, reveal_issues=self.reveal_issues)


def annotate_by_teacher(order: Order, clock: Clock | None = None) -> Report:
    """Annotate with a teacher, or continue an annotation. A finished one is written again without any request.

    Args:
        clock: replaces the real clock in tests.

    Raises:
        AnnotationError, LogError: OUT cannot be used.
        EndpointUnusable: no request to the endpoint can succeed now; all replies so far are kept.
        DataError: the data directory cannot be used.
        RunMismatch: OUT holds an annotation with other settings.
        KeyboardInterrupt: on Ctrl-C, after all replies so far are on disk.
    """
    questions = begin(order.data, order.out, order.origin, order.limit)
    method = order.new_method()
    with open_replies(order.out) as replies:
        meter = order.new_meter()
        for reply in replies:
            meter.add(reply.prompt_tokens, reply.completion_tokens)
        steps = progress_of(method, questions, replies)  # reports missing labels before the first request
        outcome = asyncio.run(_ask(order, method, questions, steps, replies, meter, clock or Clock()))
        steps = progress_of(method, questions, replies)
        teaching = _teaching(replies, meter)
        annotation = write_output(order.data, order.out, order.method, questions, steps, teacher=teaching)
    return Report(annotation, (*summary(annotation, order.out), *_open_end(annotation, outcome, meter)))


async def _ask(
    order: Order,
    method: Method,
    questions: Sequence[AnySample],
    steps: Mapping[str, Step],
    replies: Replies,
    meter: Meter,
    clock: Clock,
) -> Outcome:
    """Ask all open questions, with a progress bar on the console."""
    todo = [question for question in questions if not is_settled(steps[question.id])]
    if not todo:
        return Outcome()
    answers = sum(reply.refusal is None for reply in replies)
    async with order.connect(clock) as endpoint:
        with _bar(order.method, steps, meter, endpoint) as watch:
            workers = Workers(endpoint, meter, order.concurrency, answers=answers)
            teacher = Teacher(method, workers, replies, data=order.data, picture_size=order.picture_size, watch=watch)
            return await teacher.ask_all(todo)


@contextmanager
def _bar(method: str, steps: Mapping[str, Step], meter: Meter, endpoint: Endpoint) -> Iterator[Watch]:
    from tqdm import tqdm

    accepted = sum(isinstance(step, Accepted) for step in steps.values())
    rejected = sum(isinstance(step, Rejected) for step in steps.values())
    with tqdm(desc=f"annotate {method}", total=len(steps), initial=accepted + rejected, unit="sample") as bar:

        def watch(step: Step) -> None:
            nonlocal accepted, rejected
            accepted += isinstance(step, Accepted)
            rejected += isinstance(step, Rejected)
            bar.set_postfix(
                accepted=accepted, rejected=rejected, tokens=meter.tokens, retries=endpoint.retries, refresh=False
            )
            bar.update(is_settled(step))

        yield watch


def _teaching(replies: Replies, meter: Meter) -> Teaching:
    answered = [reply for reply in replies if reply.refusal is None]
    return Teaching(
        replies=len(answered),
        models=dict(Counter(reply.model for reply in answered).most_common()),
        prompt_tokens=meter.prompt_tokens,
        completion_tokens=meter.completion_tokens,
        cost=meter.cost,
    )


def _open_end(annotation: Annotation, outcome: Outcome, meter: Meter) -> tuple[str, ...]:
    """What is left to do, and how."""
    lines = list(outcome.sentences(meter))
    if outcome.limit_reached:
        lines.append("the samples accepted so far can be used for training")
    if annotation.complete and not annotation.accepted.hits:
        lines.append(f"no sample was accepted; see {REJECTED_NAME}")
    return tuple(lines)
