"""One sample with the answer of a model, and the rule by which the answer is correct (paper, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

from screening.answer import Answer, Unreadable
from screening.task import NONE, Dimension, Options
from trainer.products import product_of
from trainer.records import Sample


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample and the parsed answer of the model."""

    sample: Sample
    result: Answer | Unreadable
    choice: str | None = None
    """The single option that the service would choose (`screening.confidence`), or `N`; None if it is unknown."""

    @property
    def product(self) -> str:
        """The product of the sample; see `trainer.products.product_of`."""
        return product_of(self.sample)

    @property
    def options(self) -> Options | None:
        """The answer as a set; None if it is unreadable."""
        return self.result.options if isinstance(self.result, Answer) else None

    @property
    def correct(self) -> bool:
        return correct(self.options, self.sample.options)

    @property
    def choice_correct(self) -> bool:
        """Whether the chosen picture may be shown, or `N` is the label."""
        return self.choice is not None and correct(frozenset(self.choice) - {NONE}, self.sample.options)

    def verdict(self, option: str) -> frozenset[Dimension] | None:
        """The dimensions that the reasoning names for one picture; None if it states no verdict."""
        findings = self.result.findings if isinstance(self.result, Answer) else ()
        return next((finding.dimensions for finding in findings if finding.option == option), None)


def correct(options: Options | None, label: Options) -> bool:
    """Whether an answer is correct (paper, section 5.1): it names at least one option, and only options of the label.

    Args:
        options: the answer; the empty set means `N`, None an unreadable text.
        label: the truth; the empty set means `N`. The answer `N` is correct only for this label.
    """
    if options is None:
        return False
    return options <= label if options else not label
