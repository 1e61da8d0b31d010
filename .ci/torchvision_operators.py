"""Lets a CUDA build of torchvision be imported beside a CPU torch. Installed by `.ci/install` only where needed.

torchvision is needed by the InternVL code of transformers and vLLM, for stills as well. Some package indexes carry
its CUDA build only. Its compiled half does not load beside a CPU torch, so the operators `torchvision::nms` and
`torchvision::qnms` are never defined, and torchvision's Python half, which registers shape functions for them, fails
with "operator torchvision::nms does not exist". Declaring both operators first is enough: nothing here calls them.

It has to happen in every process, the ones that vLLM spawns included, and before transformers is imported. A `.pth`
file in site-packages is the one hook that runs that early. To keep a plain `python` start fast, it only registers an
import hook; torch is imported when torchvision is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_libraries: list[object] = []  # a torch Library takes its operators with it when it is collected


class _OperatorsFirst(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if not _libraries:
            import torch

            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
        super().exec_module(module)


class _TorchvisionFinder:
    """Finds torchvision where it is, and changes nothing but the loader of its top module."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _OperatorsFirst(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _TorchvisionFinder)
