"""`report.html`: the report as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from screening.answer import Answer, Mode, parse
from screening.task import OPTIONS, options_text
from trainer.runs.html import CLOSING, embedded, figure, opening
from trainer.training.report.curves import Panel
from trainer.training.report.run import Training
from trainer.training.tracking.examples import PICTURES_NAME, Completion, Example
from trainer.training.tracking.mlflow_run import flat
from trainer.training.validation.rule import best_of

SHOWN = 60
"""Maximum number of examples on the page, spread over the training; each takes about 50 KB."""

_STYLE = """
.curves { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; background: #fff; }
th, td { border: 1px solid var(--line); padding: .15rem .6rem; text-align: left; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(training: Training, panels: Sequence[Panel], curves: bytes, examples: Sequence[Example]) -> str:
    """The page as HTML.

    Args:
        curves: the panels as a PNG.
        examples: in the order of steps.
    """
    return "".join(_page(training, panels, curves, examples))


def _page(training: Training, panels: Sequence[Panel], curves: bytes, examples: Sequence[Example]) -> Iterator[str]:
    yield opening(f"Training: {training.stage}", _STYLE)
    yield f'<p class="soft">{escape(str(training.directory))}: {escape(training.progress)}.</p>\n'
    if best := best_of(training.scores):
        yield (
            f"<p>The best validation score is {best.percent:.1f} %, after step {best.step}: the checkpoint gets these "
            "weights.</p>\n"
        )
    yield f'<h2>Curves</h2>\n<img class="curves" alt="Training curves" src="{embedded(curves, "png")}">\n'
    yield "<h2>First and last values</h2>\n" + _values(panels)
    if examples:
        yield from _examples(training.directory, examples)
    yield "<h2>Settings and inputs</h2>\n" + _origin(training)
    yield CLOSING


def _values(panels: Sequence[Panel]) -> str:
    rows = [
        f"<tr><td>{escape(panel.title)}</td><td>{escape(curve.label.replace('_', ' '))}</td>"
        f'<td class="number">{curve.values[0]:.4g}</td><td class="number">{curve.values[-1]:.4g}</td></tr>\n'
        for panel in panels
        for curve in panel.curves
    ]
    return f"<table><tr><th></th><th></th><th>first</th><th>last</th></tr>\n{''.join(rows)}</table>\n"


def _origin(training: Training) -> str:
    checkpoint = {"checkpoint": training.checkpoint} if training.checkpoint else {}
    rows = [
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>\n"
        for name, value in flat({**training.origin, **checkpoint})
    ]
    return f"<table>{''.join(rows)}</table>\n"


def _examples(directory: Path, examples: Sequence[Example]) -> Iterator[str]:
    yield (
        "<h2>Example decisions</h2>\n"
        f'<p class="soft">Each example is one question with a group of answers. The training kept '
        f"{len(examples)}{f', of which {SHOWN} are shown' if len(examples) > SHOWN else ''}. Usable pictures have a "
        "green frame. The reward is the sum "
        "of its parts; the model learns nothing from a group whose rewards are all equal.</p>\n"
    )
    last = len(examples) - 1
    for place in sorted({round(number * last / (SHOWN - 1)) for number in range(SHOWN)}):
        yield _article(directory / PICTURES_NAME, examples[place])


def _article(pictures: Path, example: Example) -> str:
    answers = [_options(completion) for completion in example.group]
    named = Counter(letter for answer in answers if answer for letter in answer)
    figures = []
    for name, file, truth in zip_longest(("original", *OPTIONS), example.pictures, ("", *example.truth)):
        caption = f"{truth} · named by {named[name]} of {len(answers)}" if named[name] else truth
        figures.append(figure((pictures / file).read_bytes(), name, caption, usable=truth == "usable"))
    sections = [_answer(completion, answer) for completion, answer in zip(example.group, answers, strict=True)]
    return (
        f"<article><h3>step {example.step} · {escape(example.id)} · label {escape(example.label)}</h3>\n"
        f'<div class="pictures">{"".join(figures)}</div>\n<div class="answers">{"".join(sections)}</div></article>\n'
    )


def _answer(completion: Completion, answer: str | None) -> str:
    parts = ", ".join(f"{name.removesuffix('_reward')} {value:.2f}" for name, value in completion.rewards.items())
    return (
        f'<section><p><b>{escape(answer or "unreadable")}</b> <span class="soft">reward {completion.reward:.2f} '
        f"({escape(parts)}), {completion.tokens} tokens</span></p><p>{escape(completion.text)}</p></section>"
    )


def _options(completion: Completion) -> str | None:
    """The letters of an answer, `N` if it names none, None if it is unreadable."""
    result = parse(completion.text, Mode.COT)
    return options_text(result.options) if isinstance(result, Answer) else None
