"""Out-of-domain scores of the pictures that a vLLM engine reads; see `screening.checkpoint.domain`.

The engine's worker remembers features of each picture that its vision tower has read
(`screening.inference.picture_features`). Here they are asked for by the pictures' names and become scores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from screening.checkpoint.domain import Domain, DomainError
from screening.inference.picture_features import read_features
from service.errors import EngineFailed

AskFeatures = Callable[[list[str]], Awaitable[list[bytes | None]]]
"""Asks the engine's worker for the features of pictures by name; None for a picture that the worker does not know."""


async def score_pictures(
    domain: Domain | None, ask_features: AskFeatures, rendered: Mapping[str, Any]
) -> tuple[float, ...] | None:
    """Score the pictures of a rendered prompt that the engine has read.

    Returns:
        None if the checkpoint has no domain, or the worker does not know one of the pictures.

    Raises:
        EngineLost: the engine died.
        EngineFailed: the features do not fit the checkpoint's domain, or are not finite.
    """
    if domain is None:
        return None
    names = list(rendered["mm_hashes"]["image"])
    features = [read_features(data) for data in await ask_features(names)]
    known = [each for each in features if each is not None]
    if len(known) < len(names):
        return None
    try:
        return domain.scores(known)
    except DomainError as error:
        raise EngineFailed(f"The out-of-domain score cannot be computed: {error}") from error


async def score_while_answering(
    domain: Domain | None, ask_features: AskFeatures, rendered: Mapping[str, Any], answered: asyncio.Event
) -> tuple[float, ...] | None:
    """Score the pictures of a prompt as soon as the engine has read them.

    The engine answers such a call between two steps, so each attempt takes one step, and two suffice as a rule. Asking
    only after the answer would add a step to every request.

    Args:
        answered: set when the engine has answered the prompt, and so must have read the pictures.
    """
    while True:
        is_last = domain is None or answered.is_set()
        scores = await score_pictures(domain, ask_features, rendered)
        if scores is not None or is_last:
            return scores
