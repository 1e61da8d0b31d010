"""Divide a benchmark into two halves that are nearly equal in every subtask, without leaks, and reproducibly.

Questions that show the same picture, or are variants of each other, form one group and stay together, because a model
that is trained on one of them knows the other. Groups are assigned one by one, from large to small. Each goes to the
half that keeps its subtasks most equal; if both are equal, to the half with fewer questions, and then to training.
Groups of the same size are in random order by seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.research.benchmarks.questions import HALVES, Part


@dataclass(frozen=True, slots=True)
class Tied:
    """The facts that decide a question's half."""

    id: str
    subtask: str
    ties: tuple[str, ...]
    """Names of its pictures and variants; questions that share one stay together."""


def groups_of(questions: Iterable[Tied]) -> list[list[Tied]]:
    """Questions that must stay together, in the order of their first ids."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = parents[parent]
            name = parents[name]
        return name

    everything = sorted(questions, key=lambda question: question.id)
    for question in everything:
        for tie in question.ties:
            parents[root(tie)] = root(_own(question.id))
    groups: defaultdict[str, list[Tied]] = defaultdict(list)
    for question in everything:
        groups[root(_own(question.id))].append(question)
    return list(groups.values())


def halve(groups: Sequence[Sequence[Tied]], seed: int) -> dict[str, Part]:
    """Assign a half to each question, by id. The same groups and seed give the same halves."""

    def draw(group: Sequence[Tied]) -> bytes:
        return hashlib.sha256(f"{seed}\n{group[0].id}".encode()).digest()

    placed: dict[str, Part] = {}
    lead: Counter[str] = Counter()  # per subtask: questions in training minus questions in testing
    for group in sorted(groups, key=lambda group: (-len(group), draw(group))):
        sizes = Counter(question.subtask for question in group)
        part = min(HALVES, key=lambda half: _imbalance(lead, sizes, half))
        lead.update(_signed(sizes, part))
        placed.update((question.id, part) for question in group)
    return placed


def _imbalance(lead: Counter[str], sizes: Counter[str], part: Part) -> tuple[int, int]:
    moved = _signed(sizes, part)
    return sum(abs(lead[subtask] + move) for subtask, move in moved.items()), abs(lead.total() + sum(moved.values()))


def _signed(sizes: Mapping[str, int], part: Part) -> dict[str, int]:
    return {subtask: size if part is Part.TRAIN else -size for subtask, size in sizes.items()}


def _own(name: str) -> str:
    """A name that only this question and its variants share."""
    return f"question {name}"
