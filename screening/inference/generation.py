"""How a checkpoint is asked: what the service and the trainer's evaluation must do alike, as pure functions.

Both give the returned keywords to vLLM (`EngineArgs`/`AsyncEngineArgs`, `SamplingParams`). This module imports neither
vllm nor torch: it decides, they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.prompt import PICTURES_PER_SAMPLE, Prompt, messages
from screening.runtime.cpus import engine_threads
from screening.task import NONE, NORMAL, OPTIONS

SEED = 0
"""Fixed: the same question gets the same answer, but for near ties, which turn on what else is in a step."""

KV_CACHE_BYTES_ON_CPU = 512 * 2**20
"""vLLM on the CPU otherwise reserves a share of the machine's memory and refuses to start when it is not free."""

CpuWorker = Literal["inside", "apart"]
"""Where vLLM's worker runs on a CPU."""

DRAFTED_ON_CPU = 12
"""Tokens that `screening.inference.speculative_drafter` may guess ahead of each request on a CPU. On a GPU none: there
vLLM schedules a step while the last one computes, which drafts from outside the GPU would end, and what is worth more
has not been measured.
"""

_AS_FITS = -1
_INSIDE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_DRAFTER = "screening.inference.speculative_drafter.HabitDrafter"
_WORKER_EXTENSION = "screening.inference.worker_extension.WorkerExtension"

WATCH_DRAFTS = "watch_drafts"
"""What an engine with a `speculative_config` is told (`collective_rpc`) before its first request."""

WATCH_PICTURES = "watch_pictures"
"""What an engine is told (`collective_rpc`) before its first request, so that it remembers features of pictures."""

PICTURE_FEATURES = "picture_features"
"""Asks an engine (`collective_rpc`) for the features of pictures by name; see
`screening.inference.picture_features`."""

QUIET_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""To be set before vllm is imported: a checkpoint is a directory, nothing is looked up or reported elsewhere."""

FINISHED = ("stop", "length")
"""Any other `finish_reason` is a failure that `generate` often reports without raising (`abort`, `error`)."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: Any, **kwargs: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Watched:
    """Tokens whose log-probability is asked for at every step.

    `letters` maps `A`-`D` and `N` to the token that spells the letter; a letter that is no single token is left out.
    `normal` holds every token that can begin the verdict word `normal`.
    """

    letters: Mapping[str, int]
    normal: frozenset[int]

    @property
    def ids(self) -> list[int]:
        """All of them, sorted, for `SamplingParams.logprob_token_ids`."""
        return sorted({*self.letters.values(), *self.normal})


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token: its text, its id, and natural log-probabilities of the watched tokens and of itself."""

    piece: str
    token_id: int
    logprobs: Mapping[int, float]


class _Logprob(Protocol):
    logprob: float


def watched(tokenizer: Tokenizer) -> Watched:
    """Find the tokens that carry the decision (see `screening.confidence`)."""
    letters: dict[str, int] = {}
    for letter in (*OPTIONS, NONE):
        ids = tokenizer.encode(letter, add_special_tokens=False)
        if len(ids) == 1:
            letters[letter] = ids[0]
    normal: set[int] = set()
    for spelling in (f" {NORMAL}", NORMAL):
        # A tokenizer may spell the blank as a token of its own: the first token with a letter in it decides.
        for token_id in tokenizer.encode(spelling, add_special_tokens=False):
            if tokenizer.decode([token_id]).strip():
                normal.add(token_id)
                break
    return Watched(letters, frozenset(normal))


def engine_arguments(
    checkpoint_dir: Path | str,
    manifest: Manifest,
    *,
    device: Literal["cpu", "cuda"],
    cpu_worker: CpuWorker = "inside",
    draft_tokens: int | None = None,
) -> dict[str, Any]:
    """Keywords of vLLM's engine arguments that make it ask as the checkpoint was trained.

    Args:
        cpu_worker: `inside`, in the engine core's process, needs `cpu_environment` in the environment; `apart`, in one
            of its own, is what vLLM does by default. The core then turns in a loop while the worker computes, which
            takes a whole core of the CPU (docs/experiments/2026-11-21-swaps-under-load.md).
        draft_tokens: tokens guessed ahead (`screening.inference.speculative_drafter`); 0: none; None: `DRAFTED_ON_CPU`
        there, else none.
    """
    arguments: dict[str, Any] = {
        "model": str(checkpoint_dir),
        "served_model_name": manifest.name,  # the label of the engine's metrics; otherwise the directory
        "seed": SEED,
        "limit_mm_per_prompt": {"image": PICTURES_PER_SAMPLE},
        "mm_processor_kwargs": tiling_arguments(manifest),
        # The checkpoint's generation_config.json must not change sampling behind our back.
        "generation_config": "vllm",
        "worker_extension_cls": _WORKER_EXTENSION,
    }
    if manifest.decoding.mode == "grammar":
        # The guidance backend refuses the tags of our grammar.
        arguments["structured_outputs_config"] = {"backend": "xgrammar"}
    if device == "cpu":
        # Compiling makes the start 40 s instead of 15 s and saves nothing on a model that runs on a CPU.
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = KV_CACHE_BYTES_ON_CPU
        arguments["max_model_len"] = _AS_FITS  # a large model's own length would not fit into that cache
        # The free-memory check at start still reads this share, although the cache above has a fixed size.
        arguments["gpu_memory_utilization"] = 0.1
        if cpu_worker == "inside":
            # As a path: `uni`, the short name, is refused on a CPU, where vLLM sets up threads in the worker's process.
            arguments["distributed_executor_backend"] = _INSIDE
    if draft_tokens is None:
        draft_tokens = DRAFTED_ON_CPU if device == "cpu" else 0
    if draft_tokens:
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": _DRAFTER,
            "num_speculative_tokens": draft_tokens,
        }
    return arguments


def cpu_environment() -> dict[str, str]:
    """For an engine on a CPU, unless the environment says otherwise: one usable CPU is left for everything else."""
    return {"OMP_NUM_THREADS": str(engine_threads())}


def tiling_arguments(manifest: Manifest) -> dict[str, Any]:
    """InternVL's processor cuts pictures into tiles unless told otherwise, whatever its configuration file says."""
    if manifest.image.max_patches == 1:
        return {"crop_to_patches": False}
    return {"crop_to_patches": True, "max_patches": manifest.image.max_patches}


def prompt_text(tokenizer: Tokenizer, prompt: Prompt, mode: Mode) -> str:
    """The question as the model's template writes it, with one image placeholder per picture; vLLM expands each."""
    text = tokenizer.apply_chat_template(messages(prompt, mode), tokenize=False, add_generation_prompt=True)
    return str(text)


def sampling_arguments(manifest: Manifest, mode: Mode, watch_ids: Sequence[int]) -> dict[str, Any]:
    """Keywords of vLLM's `SamplingParams`, without the grammar: see `answer_regex` for that."""
    decoding = manifest.decoding
    return {
        "temperature": 0.0,
        "seed": SEED,
        "max_tokens": decoding.max_tokens_cot if mode is Mode.COT else decoding.max_tokens_direct,
        # Log-probabilities of exactly these tokens, and of the one generated: `logprobs` must stay unset for that.
        "logprob_token_ids": list(watch_ids) or None,
        # vLLM would spell every watched token at every step, a tenth of the service's work: see `Spelling`.
        "detokenize": False,
    }


def probe_sampling_arguments() -> dict[str, Any]:
    """Keywords of vLLM's `SamplingParams` for the log-probabilities of a prompt's own tokens."""
    # One token must be generated. No likeliest others beside the prompt's own: 0.
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def last_log_probabilities(
    token_ids: Sequence[int] | None, logprobs: Sequence[Mapping[int, _Logprob] | None] | None, count: int
) -> list[float]:
    """Natural log-probabilities of a prompt's last tokens.

    Args:
        token_ids, logprobs: `prompt_token_ids` and `prompt_logprobs` of vLLM's `RequestOutput`.
        count: how many tokens, at least 1.

    Returns:
        As many, in the prompt's order, or fewer of a shorter prompt; NaN where vLLM gave none, as for a first token.

    Raises:
        ValueError: vLLM gave no entry for some token.
    """
    pairs = zip((token_ids or ())[-count:], (logprobs or ())[-count:], strict=True)
    return [entry[token].logprob if entry else math.nan for token, entry in pairs]


def answer_regex(manifest: Manifest, mode: Mode) -> str | None:
    """The grammar for constrained decoding; None when the checkpoint decodes freely.

    The thinking is bounded, or a model that never stops fills the token limit. The option sets are listed, because
    `A?B?C?D?` also matches nothing.
    """
    if manifest.decoding.mode == "free":
        return None
    sets = ["".join(chosen) for size in range(1, 1 + len(OPTIONS)) for chosen in combinations(OPTIONS, size)]
    options = "(" + "|".join([*sets, NONE]) + ")"
    if mode is Mode.DIRECT:
        return options
    sentences = "".join(f"<{option}>[^<]{{1,240}}" for option in OPTIONS)
    return f"<think>[^<]{{1,400}}{sentences}</think><answer>{options}</answer>"


class Spelling:
    """From the token ids of a finished answer to text. A tokenizer's pieces are looked up once each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def text(self, token_ids: Sequence[int]) -> str:
        """The whole, without special tokens, and without the part of a character at which it was cut off."""
        ids = list(token_ids)
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).rstrip("\ufffd")

    def steps(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, _Logprob] | None] | None
    ) -> tuple[Step, ...]:
        """`CompletionOutput.token_ids` and `.logprobs` of vLLM in this module's form; empty without logprobs."""
        if logprobs is None:
            return ()
        return tuple(
            Step(self._piece(token_id), token_id, {key: value.logprob for key, value in (entry or {}).items()})
            for token_id, entry in zip(token_ids, logprobs, strict=True)
        )

    def _piece(self, token_id: int) -> str:
        """A token alone, special ones too; one that holds part of a character only is spelled with U+FFFD."""
        if (piece := self._pieces.get(token_id)) is None:
            piece = self._pieces[token_id] = str(self._tokenizer.decode([token_id]))
        return piece
