"""Options of the inpainters that load a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelOptions:
    """What the command line says about a model. `scene` uses none of it."""

    weights: Path | None = None
    """Folder of the model in diffusers' layout."""
    redux: Path | None = None
    """Folder of FLUX.1-Redux, which steers flux-fill by the reference."""
    steps: int | None = None
    """Number of denoising steps; None takes the inpainter's own default."""
    guidance: float | None = None
    """Guidance scale; None takes the inpainter's own default."""
    prompt: str | None = None
    """Text for `klein`; None takes its default."""
    device: str | None = None
    """`cpu`, `cuda` or another device of torch; None takes the GPU if there is one."""
    offload: bool = False
    """Whether to keep only the part of the model that computes on the GPU, which needs less of its memory."""
