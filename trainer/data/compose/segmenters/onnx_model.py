"""The segmenter `onnx:FILE`: a salient-object model such as BiRefNet in the ONNX format.

An ONNX file is data: onnxruntime runs its graph, and no Python code comes with it. The file is named by the user and is
never downloaded.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from screening.runtime.digests import file_sha256
from trainer.data.compose.extra import need
from trainer.data.compose.failures import ComposeError, Failed, Reason
from trainer.data.compose.licences import UNSTATED, Licence
from trainer.data.compose.segmenters.matte import with_soft_mask
from trainer.data.compose.white import on_white

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""Statistics of ImageNet, on which these models were trained."""
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""What computes, best first. onnxruntime lists others too, one of which calls a web service."""
_SIDE = 1024
"""Side of the model's input in pixels if the file leaves it open; that of BiRefNet."""


class OnnxModel:
    """A segmentation model in a file."""

    licence: Licence = UNSTATED

    def __init__(self, file: str) -> None:
        self._path = Path(file)
        if not file or not self._path.is_file():
            raise ComposeError(
                f"--segmenter: {file or 'onnx'} names no file; write onnx:FILE, for example onnx:birefnet.onnx"
            )

    @cached_property
    def identity(self) -> str:
        return f"onnx sha256:{file_sha256(self._path)}"

    @cached_property
    def _session(self) -> Any:
        runtime = need("onnxruntime")
        providers = [name for name in _PROVIDERS if name in runtime.get_available_providers()]
        try:
            return runtime.InferenceSession(str(self._path), providers=providers)
        except Exception as error:  # a boundary: onnxruntime's errors have no common base
            raise ComposeError(f"--segmenter: {self._path} cannot be loaded as an ONNX model: {error}") from error

    def cut(self, photo: Image.Image) -> Image.Image:
        """Cut the product out.

        Raises:
            ComposeError: the file is not a segmentation model.
            Failed: the model found nothing.
        """
        rgb = on_white(photo)
        alpha = self._mask(rgb)
        if float(alpha.max()) < 0.5:
            raise Failed(Reason.EMPTY, "the model finds no object in the photo")
        return with_soft_mask(rgb, alpha)

    def _mask(self, rgb: Image.Image) -> NDArray[np.float32]:
        """The model's mask at the size of the photo, from 0 to 1."""
        taken = self._session.get_inputs()[0]
        height, width = (side if isinstance(side, int) else _SIDE for side in taken.shape[-2:])
        pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR), np.float32) / np.float32(255)
        pixels = ((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
        half = taken.type == "tensor(float16)"
        given = self._session.run(None, {taken.name: pixels.astype(np.float16 if half else np.float32)})[0]
        mask = np.squeeze(np.asarray(given, np.float32))
        if mask.ndim != 2 or not np.isfinite(mask).all():
            raise ComposeError(
                f"--segmenter: {self._path} returns an array of shape {np.shape(given)}, and a segmentation model "
                "returns one mask of finite numbers"
            )
        if mask.min() < 0 or mask.max() > 1:  # logits; some exports end with a sigmoid and some do not
            mask = np.asarray(1 / (1 + np.exp(-np.clip(mask, -30, 30))), np.float32)
        return np.asarray(Image.fromarray(mask).resize(rgb.size, Image.Resampling.BILINEAR))
