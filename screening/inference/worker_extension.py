"""Methods that this project adds to vLLM's worker (`worker_extension_cls`), called by `collective_rpc`."""

from __future__ import annotations

from typing import Any

from screening.inference.draft_logprobs import DraftedLogprobs
from screening.inference.picture_features import FeatureCache, install


class WorkerExtension:
    """A mixin of vLLM's worker."""

    model_runner: Any
    _feature_cache: FeatureCache

    def watch_drafts(self) -> None:
        """Report log-probabilities of watched tokens in spite of drafts. Call this once, before the first request."""
        runner = self.model_runner
        runner.rejection_sampler = DraftedLogprobs(runner.rejection_sampler)

    def watch_pictures(self, tokens_per_picture: int) -> None:
        """Keep the features of pictures. Call this once, before the first request."""
        self._feature_cache = install(self.model_runner, tokens_per_picture)

    def picture_features(self, names: list[str]) -> list[bytes | None]:
        """See `FeatureCache.features`."""
        return self._feature_cache.features(names)
