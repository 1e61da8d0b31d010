"""The question, as chat messages (paper, appendix B, in our own words).

A checkpoint carries the texts it was trained with in its manifest, from which the service reads them. New training runs
use the texts in this module.

The instruction comes first, so that all requests share a prefix that the engine can cache. The original and A-D follow.
Each picture is one `{"type": "image"}` item, which the processor fills in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from screening.answer import Mode
from screening.task import DIMENSIONS, OPTIONS, STANDARD_DIMENSIONS, Dimension

PICTURES_PER_SAMPLE = 1 + len(OPTIONS)

Form = tuple[Mode, bool]
"""How a checkpoint is asked: the mode, and whether it is to say where the issues are."""


class Prompt(BaseModel):
    """Instruction texts of one prompt version; part of a checkpoint's contract."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(max_length=1000)
    """Changes with every change of a text."""
    cot: str = Field(max_length=100_000)
    """Instruction for think-then-answer."""
    direct: str = Field(max_length=100_000)
    """Instruction for letters only."""
    locate: str | None = Field(None, max_length=100_000, exclude_if=lambda text: text is None)
    """Instruction for think-then-answer with the box of every issue; None if the checkpoint cannot point at issues.
    Left out of the manifest if it is None, so that such a checkpoint keeps its digest."""

    def text(self, mode: Mode, locate: bool = False) -> str:
        """The instruction of a mode.

        Raises:
            ValueError: `locate` is set, and there is no such instruction for this mode.
        """
        if not locate:
            return self.cot if mode is Mode.COT else self.direct
        if self.locate is None or mode is not Mode.COT:
            raise ValueError(f"the prompt {self.version} has no instruction to locate issues in mode {mode}")
        return self.locate

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in which the checkpoint can be asked."""
        return *((mode, False) for mode in Mode), *([(Mode.COT, True)] if self.locate is not None else [])


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_TASK = """\
You review product pictures for an online shop, with an expert's knowledge of how goods are presented and an artist's \
eye. You see the original photo of a product, then four generated pictures of it, named A, B, C and D. Decide which of \
them may be shown to customers.

A picture must meet two requirements.
1. It shows the product of the original and nothing made up. If the look, shape, colour, lettering or number of the \
product differs, or parts or objects were added that the original gives no ground for, the picture is out, however \
pretty it is. This requirement comes before all others.
2. It could have been taken by a camera. Light and shadow agree with each other, the product stands on something and \
does not float, sink or lean without support, and the composition is sound.

Issues have {count} names: {names}. A picture without any is normal.
"""

_COT = """
Go through the pictures in order and note changes of the product, then light, then placement. Write exactly
<think>I observed <A> …, <B> …, <C> …, <D> …, so I ultimately chose X.</think><answer>X</answer>
where each … is `normal` or the names of the issues joined by +, then a colon and one short sentence, and X is the \
letter of every picture that may be shown, in order, the best included; N if there is none."""

_DIRECT = """
Answer with the letters of the pictures that may be shown, in order, and nothing else; N if there is none."""


def standard_prompt(dimensions: Sequence[Dimension]) -> Prompt:
    """The standard texts for these dimensions; the version names those that the standard four lack."""
    count = _NUMBERS[len(dimensions)] if len(dimensions) < len(_NUMBERS) else str(len(dimensions))
    task = _TASK.format(count=count, names=", ".join(f"{one.short} ({one.meaning})" for one in dimensions))
    version = "".join(["standard-1", *(f"+{one.short}" for one in dimensions if one not in STANDARD_DIMENSIONS)])
    return Prompt(version=version, cot=task + _COT, direct=task + _DIRECT)


STANDARD = standard_prompt(DIMENSIONS)
"""For base models that understand instructions."""

COMPACT = Prompt(
    version="compact-1",
    cot="Compare A to D with the original. Think, then answer.",
    direct="Compare A to D with the original. Answer only.",
)
"""For the tiny checkpoint, which learns the task from examples. A short prompt makes each training step cheaper."""

PROMPTS = {"standard": STANDARD, "compact": COMPACT}


_LOCATE = """
After the sentence of a picture with issues, write one box per issue, in the order of the names above:
<box>[[x1, y1, x2, y2]]</box>, its left, top, right and bottom edge in thousandths of the picture's side."""

_LOCATE_COMPACT = " Point at each fault."  # the text is part of published checkpoints


def locating(prompt: Prompt) -> Prompt:
    """The prompt of a checkpoint that learns to point at issues: the same texts, and one that asks for boxes."""
    if prompt.locate is not None:
        return prompt
    ask = _LOCATE_COMPACT if prompt.version == COMPACT.version else _LOCATE
    return prompt.model_copy(update={"version": f"{prompt.version}+locate", "locate": prompt.cot + ask})


def messages(prompt: Prompt, mode: Mode, locate: bool = False) -> list[dict[str, Any]]:
    """Chat messages of one question with five image items, in the form that chat templates of VLMs take.

    Raises:
        ValueError: see `Prompt.text`.
    """
    content: list[dict[str, str]] = [{"type": "text", "text": prompt.text(mode, locate)}]
    for name in ("Original", *OPTIONS):
        content += [{"type": "text", "text": f"{name}:"}, {"type": "image"}]
    return [{"role": "user", "content": content}]
