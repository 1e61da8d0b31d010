"""Work in daemon threads, which an end of the process does not wait for."""

from __future__ import annotations

import threading

import pytest

from screening.runtime.daemon_thread import for_each


def test_each_item_is_worked_on_once_by_a_few_daemon_threads() -> None:
    together, done = threading.Barrier(3), []

    def work(item: int) -> None:
        together.wait(60)  # three at the same time
        done.append((item, threading.current_thread()))

    for_each(work, range(9), threads=3, name="test")
    assert sorted(item for item, _ in done) == list(range(9))
    threads = {thread for _, thread in done}
    assert len(threads) == 3 and all(thread.daemon for thread in threads)
    for_each(work, [], threads=3, name="test")


def test_the_first_error_is_raised_and_no_further_item_begins() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 2"):
        for_each(work, range(9), threads=1, name="test")
    assert begun == [0, 1, 2]
