"""Our metrics, all under `screening_`. docs/operations.md has the table; a test holds it.

Every app has its own registry, so that several can live in one process; `exposition` appends the process-wide one,
where vLLM puts its own.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.engines.protocol import Contract, Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
_REBUILD_SECONDS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_DOMAIN_SCORES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
_PROBABILITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "screening_requests", "Requests to /screen by HTTP status and outcome.", ["status", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "screening_stage_seconds", "Time of a request by stage: body, fetch, queue, decode, engine, total.",
            ["stage"], registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "screening_in_flight", "Requests to /screen past the door: reading, waiting or running.", registry=registry
        )
        self.queue_length = Gauge(
            "screening_queue_length", "Requests past the door that have no slot yet.", registry=registry
        )
        self.running = Gauge("screening_engine_running", "Requests inside the engine.", registry=registry)
        self.capacity = Gauge(
            "screening_capacity", "Requests that may be past the door at a time.", registry=registry
        )  # fmt: skip
        self.ready = Gauge("screening_ready", "1 when new requests are welcome.", registry=registry)
        self.engine_alive = Gauge("screening_engine_alive", "1 while the engine can be trusted.", registry=registry)
        self.rejected = Counter(
            "screening_rejected", "Requests refused at the door by reason.", ["reason"], registry=registry
        )
        self.aborted = Counter(
            "screening_aborted", "Requests given up by reason: client_gone, deadline.", ["reason"], registry=registry
        )
        self.unreadable = Counter(
            "screening_unreadable_answers", "Answers that could not be understood, by reason.", ["reason", "mode"],
            registry=registry,
        )  # fmt: skip
        self.choices = Counter(
            "screening_choices", "Answers by the option chosen, N for none.", ["option", "mode"], registry=registry
        )
        self.confidence = Histogram(
            "screening_confidence", "Confidence of readable answers.", registry=registry, buckets=_PROBABILITY
        )
        self.needs_review = Counter(
            "screening_needs_review", "Answers that a person should look at.", registry=registry
        )  # fmt: skip
        self.out_of_domain = Counter(
            "screening_out_of_domain",
            "Answers about pictures unlike those that the checkpoint was trained on, and those for which that is "
            "unknown, by code: out-of-domain, domain-unknown.", ["code"], registry=registry,
        )  # fmt: skip
        self.domain_score = Histogram(
            "screening_domain_score", "Highest out-of-domain score of a question's pictures; 1 and above is flagged.",
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
            "screening_checkpoint_info", "1 for the checkpoint served.", ["name", "version", "digest", "engine"],
            registry=registry,
        )  # fmt: skip
        self.answers = Counter(
            "screening_answers", "Answers by where they came from: engine, shared, cache, replay.", ["source"],
            registry=registry,
        )  # fmt: skip
        self.kept_entries = Gauge(
            "screening_kept_entries", "What is kept to be given again, by kind: answers, replies.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.kept_bytes = Gauge("screening_kept_bytes", "Memory of what is kept.", ["kind"], registry=registry)
        self.evictions = Counter(
            "screening_evictions", "What was kept and is no longer, by reason: full, expired.", ["kind", "reason"],
            registry=registry,
        )  # fmt: skip

        self.swaps = Counter(
            "screening_swaps",
            "Checkpoints offered, by what became of them: in_place, rebuilt, unchanged, refused; and roll-backs: "
            "rolled_back, rebuilt_back.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.swap_closed = Histogram(
            "screening_swap_closed_seconds", "Time of a swap in which nothing ran and nobody was let in.",
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip

        self.registry_polls = Counter(
            "screening_registry_polls", "Questions to the registry by what came of them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.registry_reachable = Gauge(
            "screening_registry_reachable", "1 while the registry answers.", registry=registry
        )  # fmt: skip
        self.registry_behind = Gauge(
            "screening_registry_behind", "1 while another checkpoint is served than the registry names.",
            registry=registry,
        )  # fmt: skip
        self.store_hanging = Gauge(
            "screening_store_reads_hanging", "Reads of a checkpoint store that were given up and have not returned.",
            registry=registry,
        )  # fmt: skip
        self.rebuilds = Counter(
            "screening_engine_rebuilds",
            "Engines built anew, by cause (swap, roll_back, died, hung) and result (ok, failed).", ["cause", "result"],
            registry=registry,
        )  # fmt: skip
        self.rebuild_seconds = Histogram(
            "screening_engine_rebuild_seconds", "Time to stop an engine, start another and prove it.",
            registry=registry, buckets=_REBUILD_SECONDS,
        )  # fmt: skip

    def serves(self, contract: Contract, engine: Engine) -> None:
        """Record the checkpoint served; only one at a time."""
        self.checkpoint.clear()
        self.checkpoint.labels(contract.name, contract.version, contract.digest, engine.name).set(1)

    def exposition(self) -> bytes:
        """Prometheus text: ours, then the process's and the engine's."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
