"""A whole run of `annotate progressive` or `answer-driven`: what is open is asked, then the result is written."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trainer.annotate.answer_driven import AnswerDriven
from trainer.annotate.budget import Meter, Prices
from trainer.annotate.endpoint import Asking, Endpoint
from trainer.annotate.method import Accepted, Method, Rejected, Step
from trainer.annotate.output import REJECTED_NAME, Annotation, Teaching, write_output
from trainer.annotate.pace import Clock, Pace
from trainer.annotate.progressive import Progressive
from trainer.annotate.prompts import digest
from trainer.annotate.questions import Question
from trainer.annotate.replies import Replies, open_replies
from trainer.annotate.report import Report, begin, summary
from trainer.annotate.teacher import Outcome, Teacher, Watch, is_settled, progress_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A teacher's run; the options of the command line, in their order there."""

    method: str
    data: Path
    out: Path
    base_url: str
    asking: Asking
    api_key: str | None = field(default=None, repr=False)
    reveal_issues: bool = False
    attempts: int = 3
    picture_size: int = 768
    limit: int | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    tries: int = 6
    timeout: float = 120.0
    max_tokens: int | None = None
    budget: float | None = None
    prices: Prices | None = None

    def origin(self, data_digest: str) -> dict[str, object]:
        """What decides a reply and whether it is used. How fast and for how much is not in it, nor where the endpoint
        is: a server that comes back at another address is the same teacher."""
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
        """The method, without any state."""
        if self.method == "progressive":
            return Progressive(self.attempts)
        return AnswerDriven(self.attempts, reveal_issues=self.reveal_issues)


def annotate_by_teacher(order: Order, clock: Clock | None = None) -> Report:
    """Annotate with a teacher, or go on with it. A finished annotation asks nothing and is written again.

    Args:
        clock: real time unless a test brings its own.

    Raises:
        AnnotationError: OUT cannot be used, or (EndpointError) the endpoint is of no use.
        DataError: the data directory cannot be used.
        RunMismatch: OUT holds an annotation with other settings.
        KeyboardInterrupt: on Ctrl-C, after what was answered is on disk.
    """
    questions = begin(order.data, order.out, order.origin, order.limit)
    method = order.new_method()
    with open_replies(order.out) as replies:
        meter = Meter(max_tokens=order.max_tokens, budget=order.budget, prices=order.prices)
        for reply in replies:
            meter.add(reply)
        steps = progress_of(method, questions, replies)  # complains of missing labels before anything is asked
        outcome = asyncio.run(_ask(order, method, questions, steps, replies, meter, clock or Clock()))
        steps = progress_of(method, questions, replies)
        teaching = _teaching(replies, meter, order.prices)
        annotation = write_output(order.data, order.out, order.method, questions, steps, teacher=teaching)
    return Report(annotation, (*summary(annotation, order.out), *_open_end(annotation, outcome, meter)))


async def _ask(
    order: Order,
    method: Method,
    questions: Sequence[Question],
    steps: Mapping[str, Step],
    replies: Replies,
    meter: Meter,
    clock: Clock,
) -> Outcome:
    """Ask about every question that is open, with a bar on the console."""
    todo = [question for question in questions if not is_settled(steps[question.id])]
    if not todo:
        return Outcome()
    pace = Pace(order.requests_per_minute, clock)
    async with Endpoint(
        order.base_url,
        order.api_key,
        order.asking,
        pace=pace,
        clock=clock,
        tries=order.tries,
        timeout=order.timeout,
    ) as endpoint:
        with _bar(order.method, steps, meter, endpoint) as watch:
            teacher = Teacher(
                method,
                endpoint,
                replies,
                meter,
                data=order.data,
                picture_size=order.picture_size,
                concurrency=order.concurrency,
                watch=watch,
            )
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


def _teaching(replies: Replies, meter: Meter, prices: Prices | None) -> Teaching:
    answered = [reply for reply in replies if reply.refusal is None]
    return Teaching(
        replies=len(answered),
        models=dict(Counter(reply.model for reply in answered).most_common()),
        prompt_tokens=meter.prompt_tokens,
        completion_tokens=meter.completion_tokens,
        cost=prices.cost(meter.prompt_tokens, meter.completion_tokens) if prices else None,
    )


def _open_end(annotation: Annotation, outcome: Outcome, meter: Meter) -> tuple[str, ...]:
    """What is still to be done, and how."""
    lines = []
    if outcome.unanswered:
        name, why = next(iter(outcome.unanswered.items()))
        lines.append(f"no answer about {len(outcome.unanswered)} samples ({name}: {why}); the same command asks again")
    if outcome.limit_reached:
        lines.append(
            f"stopped at the limit after {meter.tokens} tokens; to go on, run the same command with a higher "
            "--max-tokens-total or --budget. What is accepted so far can be trained on."
        )
    if annotation.complete and not annotation.accepted.hits:
        lines.append(f"no sample was accepted; see {REJECTED_NAME}")
    return tuple(lines)
