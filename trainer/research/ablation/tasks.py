"""The tasks: trainer commands, each with the file that shows that it is finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import MANIFEST_NAME
from trainer.evaluation.evaluate.result import SCORES_NAME
from trainer.research.ablation.variants import COLD_STARTS, NO_COLD_START, VARIANTS, of_table, write_recipe
from trainer.training.hard_cases.record import RECORD_NAME


@dataclass(frozen=True, slots=True)
class Task:
    """One trainer command. Tasks are listed in order of importance."""

    name: str
    command: tuple[str, ...]
    result: Path
    """File that the command writes last, so it exists only if the task is finished."""
    needs: tuple[Path, ...] = ()
    """Results of earlier tasks that this task needs."""

    @property
    def done(self) -> bool:
        return self.result.exists()


@dataclass(frozen=True, slots=True)
class Ablation:
    """Inputs and settings of an ablation, from which its tasks follow."""

    out: Path
    recipe: str
    base: Path
    training: Path
    pseudo_label: Path
    test: Path
    start: str
    """Cold start before stage 2."""
    seeds: Sequence[int]
    """Seeds of tables 5 to 7. The first one is that of table 4 and of the cold start before stage 2."""
    tables: Sequence[int]
    questions: Path | None = None
    """Data directory with the questions of stage 2; None means the training data."""
    variants: Sequence[str] = tuple(VARIANTS)
    """Variants of tables 6 and 7 that are trained."""

    def tasks(self) -> list[Task]:
        """All tasks: the start and stage 2 with the first seed, the other starts, the other seeds, table 7, table 4."""
        first, *others = self.seeds
        found: list[Task] = []
        if 6 in self.tables or 7 in self.tables:
            found += self._row_5(self.start, first)
            found.append(self._hard_cases())
        if 6 in self.tables:
            found += self._rows(6, first)
        if 5 in self.tables:
            found += chain.from_iterable(self._row_5(name, first) for name in COLD_STARTS)
        for seed in others:
            if 6 in self.tables:
                found += self._rows(6, seed)
            if 5 in self.tables:
                found += chain.from_iterable(self._row_5(name, seed) for name in COLD_STARTS)
        if 7 in self.tables:
            found += chain.from_iterable(self._rows(7, seed) for seed in self.seeds)
        if 4 in self.tables:
            found += self._no_cold_start()
        return list({task.name: task for task in found}.values())  # the tables share rows

    @property
    def _from_base(self) -> Ablation:
        """The same ablation with stage 2 from the base model, for table 4."""
        return replace(self, start="none")

    def checkpoint(self, cold_start: str, seed: int | None = None) -> Path:
        """Path of the checkpoint of a row of table 5, existing or not. The seed is by default the first."""
        return self.base if cold_start == "none" else self.out / f"sft-{self._start(cold_start, seed)}" / "checkpoint"

    def start_scores(self, cold_start: str, seed: int | None = None) -> Path:
        """Path of the evaluation of a row of table 5. The seed is by default the first."""
        return self.out / "scores" / self._start(cold_start, seed)

    def trained(self, name: str, seed: int) -> Path:
        """Path of the checkpoint of a variant of stage 2, existing or not."""
        return self.out / self._run(name, seed) / "checkpoint"

    def scores(self, name: str, seed: int) -> Path:
        """Path of the evaluation of a variant of stage 2."""
        return self.out / "scores" / self._run(name, seed)

    def _start(self, cold_start: str, seed: int | None) -> str:
        """Name of a row of table 5. The base model and the first seed have no number."""
        first = cold_start == "none" or seed is None or seed == self.seeds[0]
        return cold_start if first else f"{cold_start}-seed-{seed}"

    def _run(self, name: str, seed: int) -> str:
        """Name of a run of stage 2. It includes the cold start, so that runs from different starts do not collide."""
        return f"{name}-from-{self.start}-seed-{seed}"

    @property
    def _asked(self) -> Path:
        return self.questions or self.training

    @property
    def _hard(self) -> Path:
        return self.out / f"hard-cases-{self.start}"

    def _row_5(self, name: str, seed: int) -> Iterator[Task]:
        yield from self._cold_start(name, seed)
        yield self._score(self._start(name, seed), self.checkpoint(name, seed))

    def _rows(self, table: int, seed: int) -> Iterator[Task]:
        return chain.from_iterable(self._stage_2(name, seed) for name, _ in of_table(table) if name in self.variants)

    def without_cold_start(self, name: str) -> tuple[Path, Path]:
        """Paths of the evaluation and of the checkpoint of a row of table 4, existing or not."""
        if name == "grpo":
            return self._from_base.scores(name, self.seeds[0]), self._from_base.trained(name, self.seeds[0])
        return self.out / "scores" / name, self.out / name / "checkpoint" if name == "sft-direct" else self.base

    def _no_cold_start(self) -> Iterator[Task]:
        settings = {"direct_share": 1.0, "seed": self.seeds[0]}
        recipe = write_recipe(self.out / "recipes" / "sft-direct.yaml", self.recipe, sft_answer=settings)
        command = ("sft", "--stage", "answer-driven", "--recipe", str(recipe), "--data", str(self.training))
        yield self._training("sft-direct", command, self.base, ())
        yield self._from_base._hard_cases()
        yield from self._from_base._stage_2("grpo", self.seeds[0])
        for name, (_, mode, _) in NO_COLD_START.items():
            scores, checkpoint = self.without_cold_start(name)
            yield self._score(scores.name, checkpoint, mode)

    def _cold_start(self, name: str, seed: int) -> Iterator[Task]:
        if name == "none":
            return
        if name == "all":
            yield from self._cold_start("captions-weak", seed)
        if name in ("answer-driven", "all"):
            stage, data, sections = "answer-driven", self.training, {"sft_answer": {"seed": seed}}
            parent = self.checkpoint("captions-weak" if name == "all" else "none", seed)
        else:
            stage, data, parent = "weak", self.pseudo_label, self.base
            sections = {"sft_weak": {"captions": name == "captions-weak", "seed": seed}}
        run = f"sft-{self._start(name, seed)}"
        recipe = write_recipe(self.out / "recipes" / f"{run}.yaml", self.recipe, **sections)
        needs = () if parent == self.base else (parent / MANIFEST_NAME,)
        command = ("sft", "--stage", stage, "--recipe", str(recipe), "--data", str(data))
        yield self._training(run, command, parent, needs)

    def _hard_cases(self) -> Task:
        parent, out = self.checkpoint(self.start), self._hard
        command = ("hard-cases", "--checkpoint", str(parent), "--data", str(self._asked), "--out", str(out))
        return Task(out.name, command, out / RECORD_NAME, self._start_needs())

    def _stage_2(self, name: str, seed: int) -> Iterator[Task]:
        variant = VARIANTS[name]
        beginning = self._run("first-epochs", seed)
        if variant.shares_beginning:
            yield self._hcm_grpo(beginning, seed=seed, reward=variant.reward, last_epochs=0)
        run = self._run(name, seed)
        settings = {"seed": seed, "reward": variant.reward, "last_parts": list(variant.last_parts)}
        yield self._hcm_grpo(run, after=beginning if variant.shares_beginning else None, **settings)
        yield self._score(run, self.trained(name, seed))

    def _hcm_grpo(self, run: str, after: str | None = None, **settings: object) -> Task:
        recipe = write_recipe(self.out / "recipes" / f"{run}.yaml", self.recipe, hcm_grpo=settings)
        needs = [*self._start_needs(), self._hard / RECORD_NAME]
        command = ["hcm-grpo", "--recipe", str(recipe), "--data", str(self._asked)]
        command += ["--hard-cases", str(self._hard)]
        if after:
            command += ["--after", str(self.out / after)]
            needs.append(self.out / after / "checkpoint" / MANIFEST_NAME)
        return self._training(run, command, self.checkpoint(self.start), needs)

    def _training(self, run: str, command: Sequence[str], parent: Path, needs: Sequence[Path]) -> Task:
        out = self.out / run
        tail = ("--checkpoint", str(parent), "--out", str(out), "--tracking-uri", "none")
        return Task(run, (*command, *tail), out / "checkpoint" / MANIFEST_NAME, tuple(needs))

    def _score(self, name: str, checkpoint: Path, mode: Mode = Mode.COT) -> Task:
        out = self.out / "scores" / name
        command = ("evaluate", "--mode", mode.value, "--checkpoint", str(checkpoint), "--data", str(self.test))
        return Task(f"scores/{name}", (*command, "--out", str(out)), out / SCORES_NAME, (checkpoint / MANIFEST_NAME,))

    def _start_needs(self) -> tuple[Path, ...]:
        return (self.checkpoint(self.start) / MANIFEST_NAME,)
