"""What a trainer does with validation scores: log them, save the state of each best one, stop, and load the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from trainer.training.recipe.stages import ValidationRecipe
from trainer.training.saved_states import wait_for_state
from trainer.training.validation.data import Validation
from trainer.training.validation.rule import best_of, must_stop, scores_in
from trainer.training.validation.scoring import Scorer


class Validated:
    """Mixin for trainers: `evaluate` scores the model on the validation samples, if there are any."""

    scorer: Scorer | None = None
    accelerator: Any
    callback_handler: Any
    model: Any
    model_wrapped: Any
    args: Any
    state: Any
    control: Any

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.scorer is None:
            found: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
            return found
        was_training = self.model.training
        self.model.eval()
        try:
            metrics = self.scorer.score(self.accelerator.unwrap_model(self.model_wrapped), self.accelerator)
            self.log(metrics)  # type: ignore[attr-defined]  # in this mode TRL leaves the metrics of training alone
        finally:
            self.model.train(was_training)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class ScoreAndStop(TrainerCallback):
    """Asks for a score every few steps and after the last one, saves the state of each best one, and stops by the rule.

    transformers' `load_best_model_at_end` is not used, because it looks for the best state under the name that it had
    while it was written, and loads it with `strict=False`.
    """

    def __init__(self, settings: ValidationRecipe) -> None:
        self._settings = settings

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self._settings.every_steps == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        scores = scores_in(state.log_history)
        if best_of(scores) == scores[-1]:
            control.should_save = True
        if must_stop(scores, self._settings.patience, self._settings.min_gain):
            control.should_save = control.should_training_stop = True


def add_validation(trainer: Any, scorer: Scorer) -> None:
    """Have a trainer score its model. Its class has the mixin `Validated`."""
    trainer.scorer = scorer
    trainer.add_callback(ScoreAndStop(scorer.validation.settings))


def stopped_early(state: str | None, settings: ValidationRecipe) -> TrainerState | None:
    """The content of a saved state in which the training had decided to stop; None for any other.

    Args:
        state: directory of the state; None if there is none.
    """
    if state is None:
        return None
    found = TrainerState.load_from_json(str(Path(state) / TRAINER_STATE_NAME))
    return found if must_stop(scores_in(found.log_history), settings.patience, settings.min_gain) else None


def load_best(trainer: Any, validation: Validation, processes: PartialState) -> dict[str, Any]:
    """Load the weights of the best step into the trainer's model, in every process.

    Returns:
        Facts about the validation, for the manifest.

    Raises:
        LaunchError: this process does not see the saved state.
    """
    scores = scores_in(trainer.state.log_history)
    best = best_of(scores)
    assert best is not None, "the last step is always scored"
    state = wait_for_state(Path(trainer.args.output_dir) / f"checkpoint-{best.step}", processes)
    trainer._load_from_checkpoint(str(state), trainer.accelerator.unwrap_model(trainer.model))
    stopped = must_stop(scores, validation.settings.patience, validation.settings.min_gain)
    processes.print(
        f"validation: the best score is {best.percent:.1f} % after step {best.step}, whose weights are published; "
        f"the training {'was stopped by its scores' if stopped else 'ended'} after step {trainer.state.global_step}"
    )
    return {
        "digest": validation.digest,
        "samples": len(validation.samples),
        "score": best.percent,
        "step": best.step,
    }
