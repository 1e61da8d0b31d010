"""Registers a published checkpoint as a version of the model and as the candidate for production."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from screening import __version__
from screening.checkpoint.manifest import Manifest
from screening.checkpoint.registry import CANDIDATE, Registry, Version
from screening.runtime.digests import json_digest


def register(registry: Registry, directory: Path, manifest: Manifest) -> Version:
    """Register a directory of the store and point the alias `candidate` to it.

    Raises:
        RegistryError: the registry does not answer.
    """
    version = registry.register(directory, manifest.digest, dict(version_tags(manifest)))
    registry.point(CANDIDATE, version.number)
    return version


def version_tags(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The facts of a checkpoint that the registry's page shows. The manifest has all of them."""
    yield "name", manifest.name
    yield "version", manifest.version
    yield "created", manifest.created
    for key, value in (("parent", manifest.parent), ("base", manifest.base)):
        if value is not None:
            yield key, value
    yield "prompt", manifest.prompt.version
    yield "recipe", str(manifest.recipe.get("name", ""))
    yield "recipe_digest", json_digest(manifest.recipe)
    for stage, facts in manifest.data.items():
        if isinstance(facts, dict):
            yield f"data.{_key(stage)}", str(facts.get("digest") or json_digest(facts))
    for mode, scores in manifest.scores.items():
        for name, percent in _percents(scores):
            yield f"score.{_key(mode)}.{name}", f"{percent:.2f}"
        yield f"score.{_key(mode)}.data", str(scores.get("data", {}).get("digest", ""))
    yield "published_by", f"screening {__version__}"


def _percents(scores: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and percentages of the scores of one mode, as `trainer card` wrote them."""
    rows = [("overall", scores.get("overall")), *scores.get("dimensions", {}).items()]
    for name, row in rows:
        percent = (row or {}).get("correct", {}).get("percent")
        if percent is not None:
            yield _key(name), percent


def _key(text: str) -> str:
    """A tag name that MLflow accepts. It refuses commas, which stages such as `pretrain x, read to step 1750` have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)
