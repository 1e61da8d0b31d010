"""The reward of HCM-GRPO: r = r_fmt + r_acc (paper, eq. 6), as pure functions of a completion's text and a label.

With R the set of options that the completion names and L the label's set, and |·| the length of the written answer,
in which `N` has length one:

    r_fmt = 1                if the completion is `<think>…</think><answer>…</answer>` and nothing else, else 0
    r_acc = |R| / |L|        if R is in L, else 0      DPA, dynamic proportional accuracy (eq. 7)
    r_acc = 1                if R = L,     else 0      exact, plain GRPO (table 6, first row)

`N` is an option of its own here: {N} is in {N} and in nothing else, so `N` for label `N` earns 1/1, `N` for `AC` earns
0 and `A` for `N` earns 0. The score of the evaluation (`trainer.judged.correct`) is another rule on purpose.

What the paper leaves open, decided from the formulas (docs/training/deviations.md has everything else):

- Options are a set. `AAC`, `ca` and `A, C` are {A, C}; by the letter of eq. 7 `AAC` would earn 3/2 of the label `AC`.
- A completion that cannot be read names nothing: |R| = 0, so r_acc = 0. Nothing is guessed from untagged text;
  otherwise the reward would count letters that the service cannot parse.
- r_fmt looks at the form alone. `<answer></answer>`, `<answer>E</answer>` and `<answer>AN</answer>` have the form and
  earn r_fmt = 1, r_acc = 0, as a wrong answer does: r_acc scores what stands between the tags.
- White space around and between the two parts is form too, and allowed, as the parser of the service allows it.
- Length, and what the reasoning says, earn nothing.

`REWARDS` is the table of what a recipe may name as r_acc. docs/how-to/add-a-reward.md says how to add one.

The last part gives rewards the signature that TRL's GRPOTrainer calls. TRL logs each under its `__name__`
(`rewards/dpa_reward/mean`) and adds them up; its `multi_objective_aggregation` must stay `sum_then_normalize`, or the
sum of eq. 6 is not what the group's advantage is made of (eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from screening.answer import Answer, Mode, Reason, Unreadable, parse, parse_options
from screening.errors import UserError
from screening.runtime.extensions import find
from screening.task import Options
from trainer.records import Sample

Reward = Callable[[str, Sample], float]
"""r_acc of one completion: from its whole text and the sample that it answers. By eq. 6 it lies between 0 and 1."""

Completion = str | Sequence[Mapping[str, Any]]
"""What TRL hands over: the text, or for conversational data sets a list of messages."""

RewardFunction = Callable[..., list[float]]
"""`(completions=…, label=…, **others) -> one reward per completion`."""

_FORM_HOLDS = frozenset({Reason.EMPTY_ANSWER, Reason.UNKNOWN_OPTION, Reason.CONTRADICTION})
"""The parser reports these only of a text that has both parts: the form is right, the options are not."""


def score_format(text: str) -> float:
    """r_fmt of eq. 6: 1 if the text has the form `<think>…</think><answer>…</answer>`, else 0."""
    result = parse(text, Mode.COT)
    return float(isinstance(result, Answer) or result.reason in _FORM_HOLDS)


def score_dpa(text: str, label: str) -> float:
    """r_acc of eq. 7, between 0 and 1: the share of the label that was found, 0 if any option is wrong.

    Args:
        text: the whole completion.
        label: letters of the usable options, or `N`.

    Raises:
        ValueError: the label is not a set of options.
    """
    return proportion(_named(text), _label(label))


def proportion(named: Options | None, truth: Options) -> float:
    """r_acc of eq. 7 of options that were read already.

    Args:
        named: the answer; the empty set is `N`, None an unreadable text.
        truth: the label; the empty set is `N`.
    """
    if named is None:
        return 0.0
    if not named or not truth:  # `N` on a side is in the other only if that is `N` as well
        return float(named == truth)
    return len(named) / len(truth) if named <= truth else 0.0


def score_exact(text: str, label: str) -> float:
    """r_acc of plain GRPO: 1 if the completion names the label's set and nothing else, 0 otherwise.

    Raises:
        ValueError: the label is not a set of options.
    """
    return float(_named(text) == _label(label))


REWARDS: Mapping[str, Reward] = {
    "dpa": lambda text, sample: score_dpa(text, sample.label),
    "exact": lambda text, sample: score_exact(text, sample.label),
}
"""Name in a recipe → r_acc."""


def score(text: str, label: str, kind: Literal["dpa", "exact"] = "dpa") -> float:
    """r of eq. 6, between 0 and 2.

    Raises:
        ValueError: the label is not a set of options.
    """
    return score_format(text) + (score_dpa if kind == "dpa" else score_exact)(text, label)


def format_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """r_fmt for TRL. See `score_format`."""
    return [score_format(completion_text(completion)) for completion in completions]


def reward_functions(name: str, samples: Mapping[str, Sample]) -> list[RewardFunction]:
    """What to give GRPOTrainer as `reward_funcs`: r_fmt and r_acc as separate functions, so that each is logged; TRL
    adds them up.

    Args:
        name: an entry of `REWARDS`, or `package.module:name`.
        samples: by the id that the data set's column `id` holds.

    Returns:
        The two functions. The second one raises a UserError if the reward is not a number between 0 and 1.

    Raises:
        ExtensionError: there is no such reward.
    """
    reward = find(name, REWARDS, "reward")

    def accuracy_reward(completions: Sequence[Completion], id: Sequence[str], **_: Any) -> list[float]:  # noqa: A002 - a column
        return [_checked(reward(completion_text(c), samples[i]), name, i) for c, i in zip(completions, id, strict=True)]

    accuracy_reward.__name__ = f"{name.rpartition(':')[2].removesuffix('_reward')}_reward"
    return [format_reward, accuracy_reward]


def _checked(value: Any, name: str, sample: str) -> float:
    """r_acc as a number. One NaN would change the advantages of its group, and then all weights, without a message.

    Raises:
        UserError: the value is not a number between 0 and 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= round(number, 6) <= 1:  # a sum of floats may exceed 1 by its rounding
        raise UserError(
            f"reward {name!r} gave {value!r} for a completion of sample {sample!r}, which is not a number between 0 "
            "and 1. Fix the reward"
        )
    return number


def completion_text(completion: Completion) -> str:
    """The assistant's text of one completion as TRL hands it over.

    Raises:
        TypeError: it is neither text nor a list of messages with text; a reward of 0 would hide a broken pipeline.
    """
    if isinstance(completion, str):
        return completion
    texts = [_content_text(message["content"]) for message in completion if message.get("role") == "assistant"]
    if not texts:
        raise TypeError(f"a completion without a message of the assistant: {completion!r}")
    return "".join(texts)


def _content_text(content: Any) -> str:
    """Text of a message: plain, or as a list of typed parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        return "".join(str(part["text"]) for part in content)
    raise TypeError(f"the content of a completion is not text: {content!r}")


def _named(text: str) -> Options | None:
    """The options that a completion names; empty for `N`, None when it cannot be read."""
    result = parse(text, Mode.COT)
    return result.options if isinstance(result, Answer) else None


def _label(label: str) -> Options:
    options = parse_options(label)
    if isinstance(options, Unreadable):
        raise ValueError(f"the label {label!r} is not a set of options: {options.detail}")
    return options
