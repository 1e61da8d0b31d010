"""Idempotency keys: to whom they belong, which requests are replayed, and which are refused."""

from __future__ import annotations

import pytest

from service.errors import IdempotencyKeyReused
from service.metrics import Metrics
from service.pipeline.bounded_cache import BoundedCache
from service.pipeline.idempotency import Idempotency, KeptReply, Reply, size_of

ONE, OTHER = b"one request", b"another request"


def idempotency(**bounds: object) -> Idempotency:
    fixed = {"max_entries": 100, "max_bytes": 10**6, "max_seconds": 3600, "size_of": size_of}
    return Idempotency(BoundedCache[KeptReply]("replies", Metrics(), **(fixed | bounds)))  # type: ignore[arg-type]


def reply(answer_id: str) -> Reply:
    return Reply(answer_id, "answered", answer_id.encode())


def test_the_first_answer_is_kept_for_its_key_and_its_request() -> None:
    keys = idempotency()
    with keys.claim("", "k", ONE, "scr_1") as claim:
        assert claim.reply is None and claim.answer_id == "scr_1"
        assert keys.settle(claim, reply("scr_1")).id == "scr_1"
    with keys.claim("", "k", ONE, "scr_2") as claim:
        assert claim.reply == reply("scr_1")


def test_another_request_with_the_key_is_refused_while_in_flight_and_afterwards() -> None:
    keys = idempotency()
    with keys.claim("", "k", ONE, "scr_1") as claim:
        with pytest.raises(IdempotencyKeyReused), keys.claim("", "k", OTHER, "scr_2"):
            pass
        keys.settle(claim, reply("scr_1"))
    with pytest.raises(IdempotencyKeyReused), keys.claim("", "k", OTHER, "scr_3"):
        pass


def test_those_in_flight_with_one_key_have_one_id_and_get_the_first_answer() -> None:
    keys = idempotency()
    with keys.claim("", "k", ONE, "scr_1") as first, keys.claim("", "k", ONE, "scr_2") as second:
        assert second.answer_id == first.answer_id == "scr_1"
        fast, slow = Reply("scr_1", "answered", b"fast"), Reply("scr_1", "answered", b"slow")
        assert keys.settle(second, fast) is fast
        assert keys.settle(first, slow) is fast


@pytest.mark.parametrize("bounds", [{"max_entries": 0}, {"max_bytes": 1}])
def test_those_in_flight_agree_even_when_nothing_can_be_kept(bounds) -> None:
    keys = idempotency(**bounds)
    with keys.claim("", "k", ONE, "scr_1") as first, keys.claim("", "k", ONE, "scr_2") as second:
        kept = keys.settle(first, reply("scr_1"))
        assert keys.settle(second, reply("scr_1")) is kept
    with keys.claim("", "k", OTHER, "scr_3") as claim:
        assert claim.reply is None


def test_a_key_whose_requests_all_failed_is_free_and_its_last_holder_frees_it() -> None:
    keys = idempotency()
    with pytest.raises(ValueError), keys.claim("", "k", ONE, "scr_1"):
        with pytest.raises(ValueError), keys.claim("", "k", ONE, "scr_2"):
            raise ValueError
        with pytest.raises(IdempotencyKeyReused), keys.claim("", "k", OTHER, "scr_3"):
            pass
        raise ValueError
    with keys.claim("", "k", OTHER, "scr_4") as claim:
        assert claim.answer_id == "scr_4"


def test_callers_do_not_share_keys() -> None:
    keys = idempotency()
    with keys.claim("me", "k", ONE, "scr_1") as claim:
        keys.settle(claim, reply("scr_1"))
    with keys.claim("you", "k", OTHER, "scr_2") as claim:
        assert claim.reply is None and claim.answer_id == "scr_2"


def test_requests_without_a_key_share_nothing() -> None:
    keys = idempotency()
    with keys.claim("", None, ONE, "scr_1") as claim:
        keys.settle(claim, reply("scr_1"))
        with keys.claim("", None, ONE, "scr_2") as other:
            assert other.answer_id == "scr_2" and other.reply is None


def test_a_reply_is_forgotten_after_its_time() -> None:
    now = 0.0
    keys = idempotency(max_seconds=60, clock=lambda: now)
    with keys.claim("", "k", ONE, "scr_1") as claim:
        keys.settle(claim, reply("scr_1"))
    now = 59.0
    with keys.claim("", "k", ONE, "scr_2") as claim:
        assert claim.reply is not None
    now = 60.0
    with keys.claim("", "k", OTHER, "scr_3") as claim:
        assert claim.reply is None
