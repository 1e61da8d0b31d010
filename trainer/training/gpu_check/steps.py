"""Measures one task: what it holds, and the parts of its step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.training.gpu_check import flops
from trainer.training.gpu_check.meter import Meter, seconds
from trainer.training.gpu_check.model import (
    Scorer,
    build_model,
    build_reference,
    make_questions,
    packed_inputs,
    random_words,
)
from trainer.training.gpu_check.order import Order, Task, Use
from trainer.training.hcm_grpo.rollout import Sampling, roll_out
from trainer.training.hcm_grpo.shared_prompt import IGNORED, share_prompt
from trainer.training.number_format import computed_in
from trainer.training.plan.shapes import Shapes, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KL_BETA, MAX_NORM = 0.04, 1.0
"""Weight of the KL penalty and limit of the gradient's norm. They change no time."""


@dataclass
class Measured:
    """The result of a task. A task that ran out of memory has the parts before that."""

    title: str
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes by use."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds per optimizer step, by part."""
    flops: dict[str, float] = field(default_factory=dict)
    """Model FLOPs per optimizer step, by part; see `trainer.training.gpu_check.flops`."""
    note: str = ""
    """Reason why parts are missing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share."""

    meter: Meter
    repeats: int
    until: float
    """Time (`time.monotonic`) at which the time budget ends."""

    @property
    def device(self) -> torch.device:
        return self.meter.device

    def time(self, work: Callable[[], Any]) -> float:
        return seconds(self.meter, work, repeats=self.repeats, until=self.until)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which trainings compute on this device."""
        dtype = computed_in(self.device)
        context: AbstractContextManager[Any] = torch.autocast(
            self.device.type, dtype, enabled=dtype is not torch.float32
        )
        return context

    @contextmanager
    def growth(self, memory: dict[str, int], use: str) -> Iterator[None]:
        """Note by how many allocated bytes a block grows."""
        before = self.meter.allocated()
        yield
        memory[use] = self.meter.allocated() - before


def measure(order: Order, task: Task, bench: Bench, measured: Measured) -> None:
    """Measure a task.

    Args:
        measured: gets the results, one by one.

    Raises:
        torch.OutOfMemoryError: the task does not fit.
    """
    torch.manual_seed(0)
    shapes = shapes_of(order.model_config())
    (_measure_sft if task.stage == "sft" else _measure_grpo)(order, task, bench, measured, shapes)


def _measure_sft(order: Order, task: Task, bench: Bench, measured: Measured, shapes: Shapes) -> None:
    with bench.meter.counting():
        with bench.growth(measured.memory, Use.WEIGHTS):
            model = build_model(order, task, bench.device)
        work = sft_pass(model, Scorer(model), task, bench)
        optimizer = _take_first_steps(model, work, task.passes, bench, measured)
    measured.seconds["step"] = bench.time(lambda: take_step(model, optimizer, work, task.passes))
    measured.flops["step"] = flops.sft_step(task, shapes)


def sft_pass(model: PreTrainedModel, scorer: nn.Module, task: Task, bench: Bench) -> Callable[[], None]:
    """Forward and backward pass of one batch of SFT.

    Args:
        scorer: `Scorer` of the model, or a module around it.
    """
    questions = make_questions(model, task.batch_size, task, bench.device)
    answers = random_words(model, (task.batch_size, task.answer), bench.device)
    ids = torch.cat([questions.ids, answers], 1)
    labels = torch.cat([torch.full_like(questions.ids, IGNORED), answers], 1)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # real batches have padding, and the attention then needs a mask

    def work() -> None:
        with bench.autocast():
            scored = scorer(input_ids=ids, attention_mask=mask, pixel_values=questions.pixels, labels=labels)
            loss = -scored.mean()
        loss.backward()

    return work


def _measure_grpo(order: Order, task: Task, bench: Bench, measured: Measured, shapes: Shapes) -> None:
    with bench.meter.counting():
        with bench.growth(measured.memory, Use.WEIGHTS):
            model = build_model(order, task, bench.device)
        reference = None
        if task.reference and not task.adapters:
            with bench.growth(measured.memory, Use.REFERENCE):
                reference = build_reference(order, bench.device)
        questions = make_questions(model, task.questions, task, bench.device)
        sample = partial(_sample, model, questions.ids, questions.pixels, task, bench)
        before = bench.meter.allocated()
        bench.meter.reset_peak()
        completions = sample()
        measured.memory[Use.ROLLOUTS] = bench.meter.peak() - before
        completed = torch.tensor(completions, device=bench.device)
        ids = torch.cat([questions.ids.repeat_interleave(task.group_size, 0), completed], 1)
        score = partial(_score_all, ids, questions.pixels, task, bench)
        refer = torch.no_grad()(partial(_without_adapters, model, task, lambda: score(Scorer(reference or model))))
        learn = partial(_learn, Scorer(model), ids, questions.pixels, refer(), task, bench)
        optimizer = _take_first_steps(model, learn, 1, bench, measured)
    for part, work, count in (
        ("rollouts", sample, flops.rollout(task, shapes)),
        ("reference log-probabilities", refer, flops.scoring(task, shapes, trained=False)),
        ("policy, forward and backward", learn, flops.scoring(task, shapes, trained=True)),
        ("optimizer step", partial(_apply_gradients, model, optimizer), 0.0),
    ):
        measured.seconds[part], measured.flops[part] = bench.time(work), count
    measured.seconds["step"] = sum(measured.seconds.values())
    measured.flops["step"] = sum(measured.flops.values())


def make_optimizer(model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the trained weights, in the form that trainings use."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-6, fused=device.type == "cuda")


def _take_first_steps(
    model: nn.Module, work: Callable[[], None], passes: int, bench: Bench, measured: Measured
) -> torch.optim.Optimizer:
    """Take two steps. The first one allocates gradients and the optimizer's state."""
    optimizer, memory = make_optimizer(model, bench.device), measured.memory
    with bench.growth(memory, Use.GRADIENTS):
        work()
    with bench.growth(memory, Use.OPTIMIZER):
        _apply_gradients(model, optimizer)
    held = sum(memory.get(use, 0) for use in (Use.WEIGHTS, Use.REFERENCE, Use.GRADIENTS, Use.OPTIMIZER))
    bench.meter.reset_peak()
    work()  # with the gradients of the pass before, as in every pass of a step but its first
    memory[Use.STEP] = bench.meter.peak() - held
    optimizer.zero_grad()
    bench.meter.reset_peak()
    take_step(model, optimizer, work, passes)
    memory[Use.PEAK] = max(bench.meter.peak(), held - memory[Use.GRADIENTS] + memory.get(Use.ROLLOUTS, 0))
    if (outside := bench.meter.outside()) is not None:
        memory[Use.OUTSIDE] = outside
    return optimizer


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, work: Callable[[], None], passes: int) -> None:
    """Take one optimizer step."""
    for _ in range(passes):
        work()
    _apply_gradients(model, optimizer)
    optimizer.zero_grad()


def _apply_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()


def _sample(model: PreTrainedModel, ids: Tensor, pixels: Tensor, task: Task, bench: Bench) -> list[list[int]]:
    """The rollouts of a step. None ends early, so that all have the maximum length."""
    temperature, top_k, top_p = task.sampling
    model.eval()
    with bench.autocast():
        completions: list[list[int]] = roll_out(
            model,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels},
            group_size=task.group_size,
            sampling=Sampling(temperature, top_k, top_p),
            max_tokens=task.answer,
            ends=(),
            never=[model.config.image_token_id],
        )
    model.train()
    return completions


def _score_all(ids: Tensor, pixels: Tensor, task: Task, bench: Bench, scorer: Scorer) -> list[Tensor]:
    """Log-probabilities of all completions of a step, pass by pass."""
    return [_score(scorer, *part, task, bench) for part in _parts(ids, pixels, task)]


def _score(scorer: nn.Module, ids: Tensor, pixels: Tensor, task: Task, bench: Bench) -> Tensor:
    rows = share_prompt(ids, torch.ones_like(ids), task.answer, task.group_size)
    with bench.autocast():
        found: Tensor = scorer(**packed_inputs(rows, pixels))
    return found


def _parts(ids: Tensor, pixels: Tensor, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """The completions and pictures of each pass."""
    tiles = flops.PICTURES * task.tiles * task.batch_size // task.group_size
    return zip(ids.split(task.batch_size), pixels.split(tiles), strict=True)


def _learn(scorer: nn.Module, ids: Tensor, pixels: Tensor, before: list[Tensor], task: Task, bench: Bench) -> None:
    """Forward and backward pass of the objective (eqs. 3 to 5), for all passes of a step."""
    for (some, shown), reference in zip(_parts(ids, pixels, task), before, strict=True):
        now = _score(scorer, some, shown, task, bench)
        advantage = torch.randn(len(some), device=now.device).repeat_interleave(task.answer)
        ratio = (now - now.detach()).exp()
        apart = reference - now
        loss = -(ratio * advantage).mean() + KL_BETA * (apart.exp() - apart - 1).mean()
        (loss / task.passes).backward()


def _without_adapters(model: nn.Module, task: Task, work: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Do work with the adapters off: with LoRA, that is the reference model."""
    if not task.adapters:
        return work()
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        return work()
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
