"""Prometheus metrics of the service. All names begin with `screening_`.

docs/monitoring.md lists every metric, and a test enforces that. Every app has its own registry, so that several apps
can run in one process; `exposition` appends the registry of the process, which holds vLLM's metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from screening.answer import Mode, Reason
from screening.task import NONE, OPTIONS
from service.engines.protocol import Engine, LoadedCheckpoint

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
_RESTART_SECONDS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_DOMAIN_SCORES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
_PROBABILITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "screening_requests", "Requests to /screen by HTTP status and outcome.", ["status", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "screening_stage_seconds", "Duration of each request stage: body, fetch, queue, decode, engine, total.",
            ["stage"], registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "screening_in_flight", "Admitted requests to /screen: uploading, waiting or running.", registry=registry
        )
        self.queue_length = Gauge(
            "screening_queue_length", "Admitted requests that do not hold a slot yet.", registry=registry
        )
        self.running = Gauge("screening_engine_running", "Requests in the engine.", registry=registry)
        self.capacity = Gauge("screening_capacity", "Maximum number of admitted requests.", registry=registry)
        self.ready = Gauge("screening_ready", "1 while the service accepts requests, otherwise 0.", registry=registry)
        self.engine_alive = Gauge(
            "screening_engine_alive", "1 while the engine is healthy, otherwise 0.", registry=registry
        )
        self.rejected = Counter(
            "screening_rejected",
            "Requests refused at admission, by reason: queue_full, not_ready, unauthenticated, insufficient_scope.",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.keys_file_errors = Counter(
            "screening_keys_file_errors",
            "Reads of the keys file that found it missing or wrong; the previous keys stayed valid.", registry=registry,
        )  # fmt: skip
        self.aborted = Counter(
            "screening_aborted", "Aborted requests, by reason: client_gone, deadline.", ["reason"], registry=registry
        )
        self.unreadable = Counter(
            "screening_unreadable_answers", "Model outputs that could not be parsed, by reason.", ["reason", "mode"],
            registry=registry,
        )  # fmt: skip
        self.choices = Counter(
            "screening_choices", "Answers by chosen option; N means none.", ["option", "mode"], registry=registry
        )
        self.boxes = Counter(
            "screening_boxes",
            "Boxes of faults in answers that were asked for them, by result: given, dropped (malformed, out of range, "
            "in the padding or too many).", ["result"], registry=registry,
        )  # fmt: skip
        self.confidence = Histogram(
            "screening_confidence", "Confidence of readable answers.", registry=registry, buckets=_PROBABILITY
        )
        self.needs_review = Counter(
            "screening_needs_review", "Answers that a person should review.", registry=registry
        )  # fmt: skip
        self.out_of_domain = Counter(
            "screening_out_of_domain",
            "Answers with a warning about the domain, by code: out-of-domain for pictures unlike the training data of "
            "the checkpoint, domain-unknown where this could not be determined.", ["code"], registry=registry,
        )  # fmt: skip
        self.domain_score = Histogram(
            "screening_domain_score", "Highest out-of-domain score among the pictures of a request; 1 and above is "
            "out of domain.",
            registry=registry, buckets=_DOMAIN_SCORES,
        )  # fmt: skip
        self.decisions = Counter(
            "screening_decisions", "Decisions handed to the store by result: stored, dropped, erased.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.decision_queue_bytes = Gauge(
            "screening_decision_queue_bytes", "Bytes of the decisions that wait to be stored.", registry=registry
        )
        self.tokens = Counter(
            "screening_tokens", "Tokens by kind: prompt, completion.", ["kind"], registry=registry
        )  # fmt: skip
        self.checkpoint = Gauge(
            "screening_checkpoint_info", "1 for the checkpoint that the service serves.",
            ["name", "version", "digest", "engine"], registry=registry,
        )  # fmt: skip
        self.answers = Counter(
            "screening_answers", "Answers by source: engine, shared, cache, replay.", ["source"], registry=registry
        )
        self.cache_entries = Gauge(
            "screening_cache_entries", "Entries in a cache, by kind: answers, replies.", ["kind"], registry=registry
        )
        self.cache_bytes = Gauge(
            "screening_cache_bytes", "Memory used by a cache in bytes.", ["kind"], registry=registry
        )
        self.evictions = Counter(
            "screening_evictions", "Entries removed from a cache, by reason: full, expired.", ["kind", "reason"],
            registry=registry,
        )  # fmt: skip

        self.reviews = Counter(
            "screening_reviews", "Stored reviews, by task: review, label.", ["task"], registry=registry
        )
        self.review_queue = Gauge(
            "screening_review_queue", "Review tasks, by reason and state: open, leased, done.", ["reason", "state"],
            registry=registry,
        )  # fmt: skip
        self.review_queue_age = Gauge(
            "screening_review_queue_age_seconds", "Age of the oldest review task that is not done, by reason.",
            ["reason"], registry=registry,
        )  # fmt: skip

        self.swaps = Counter(
            "screening_swaps",
            "Checkpoints offered to the service, by result: in_place, restarted, unchanged, refused; and rollbacks: "
            "rolled_back, rolled_back_by_restart.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.swap_pause = Histogram(
            "screening_swap_pause_seconds", "Time during a swap in which no request ran or could start.",
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip

        self.registry_polls = Counter(
            "screening_registry_polls", "Polls of the model registry, by outcome.", ["outcome"], registry=registry
        )
        self.registry_reachable = Gauge(
            "screening_registry_reachable", "1 while the model registry answers, otherwise 0.", registry=registry
        )
        self.registry_behind = Gauge(
            "screening_registry_behind",
            "1 while the service serves another checkpoint than the registry names, otherwise 0.", registry=registry,
        )  # fmt: skip
        self.store_hanging = Gauge(
            "screening_store_reads_hanging", "Reads of a checkpoint store that timed out and have not returned yet.",
            registry=registry,
        )  # fmt: skip
        self.restarts = Counter(
            "screening_engine_restarts",
            "Engine restarts, by cause (swap, rollback, died, hung) and result (ok, failed).", ["cause", "result"],
            registry=registry,
        )  # fmt: skip
        self.restart_seconds = Histogram(
            "screening_engine_restart_seconds", "Time to stop the engine, start another one and verify its weights.",
            registry=registry, buckets=_RESTART_SECONDS,
        )  # fmt: skip

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Expose the counters of rare events from the start.

        Otherwise the first event of a kind creates its series, and Prometheus sees no increase from nothing to 1.
        """
        known: list[tuple[Counter, Iterable[tuple[str, ...]]]] = [
            (self.rejected, product(("queue_full", "not_ready", "unauthenticated", "insufficient_scope"))),
            (self.aborted, product(("client_gone", "deadline"))),
            (self.unreadable, product(Reason, Mode)),
            (self.choices, product((*OPTIONS, NONE), Mode)),
            (self.out_of_domain, product(("out-of-domain", "domain-unknown"))),
            (self.boxes, product(("given", "dropped"))),
            (self.decisions, product(("stored", "dropped", "erased"))),
            (self.reviews, product(("review", "label"))),
            (self.answers, product(("engine", "shared", "cache", "replay"))),
            (
                self.swaps,
                product(("in_place", "restarted", "unchanged", "refused", "rolled_back", "rolled_back_by_restart")),
            ),
            (self.restarts, product(("swap", "rollback", "died", "hung"), ("ok", "failed"))),
        ]
        for counter, labels in known:
            for values in labels:
                counter.labels(*values)

    def serves(self, checkpoint: LoadedCheckpoint, engine: Engine) -> None:
        """Record the checkpoint that the service serves now, in place of the previous one."""
        self.checkpoint.clear()
        self.checkpoint.labels(checkpoint.name, checkpoint.version, checkpoint.digest, engine.name).set(1)

    def exposition(self) -> bytes:
        """All metrics in Prometheus text format: those of the app first, then those of the process and the engine."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
