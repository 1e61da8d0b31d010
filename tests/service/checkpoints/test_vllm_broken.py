"""Every broken checkpoint we know of, offered to a service on real vLLM while 4 clients screen.

The results are the table in docs/decisions/hot-swap.md: `UPDATE_DOCS=1 python -m pytest THIS_FILE` writes it.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from screening.checkpoint.manifest import read_manifest
from tests.service.damage import DAMAGES, WEIGHTS, describe, flipped_bit_on_disk
from tests.service.swapping import Callers, screen, take_up

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

BEGIN, END = "<!-- written by tests/service/checkpoints/test_vllm_broken.py -->\n", "<!-- end -->\n"
CHANGING = "changes while it is read"
OTHER_PROBES = "probes of another checkpoint (described); the intact one is served afterwards"

rows: dict[str, str] = {}


def results(service: Any) -> dict[str, float]:
    """Swaps so far, by what became of them."""
    return {
        result: service.metric(f'screening_swaps_total{{result="{result}"}}')
        for result in ("refused", "rolled_back", "rolled_back_by_restart")
    }


def offer(service: Any, published: Path, make_sample: Callable[[int], Any], name: str) -> tuple[httpx.Response, str]:
    """Offer a checkpoint while 4 clients screen. Returns the answer and what the service did with its engine."""
    sound = read_manifest(published / "one").digest
    assert take_up(service, "one").status_code == 200
    before = results(service)
    with Callers(service, make_sample, 4, pause=0.25) as callers:
        response = take_up(service, name)
        if response.status_code == 503:  # the engine was lost, which may happen once to a good checkpoint
            response = take_up(service, name)
        assert httpx.get(f"{service.base_url}/readyz").status_code == 200, "ready again"
        assert screen(service, make_sample(99))["checkpoint"]["digest"] == sound
    changed = {result for result, count in results(service).items() if count > before[result]} - {"refused"}
    did = {"rolled_back": "old weights put back", "rolled_back_by_restart": "engine restarted on the old"}
    assert set(callers.digests) == {sound}, "an answer from what was refused"
    # Requests are refused only during an engine restart; all others were answered.
    assert set(callers.statuses) <= ({200, 503} if "rolled_back_by_restart" in changed else {200}), callers.statuses
    return response, " ".join(did[result] for result in changed) or "engine not touched"


FOUND_BY = {
    "manifest": "not a valid manifest|recorded on something else|no probes|larger than",
    "compare": "but different tensors",
    "inspection": r"config\.json|cannot read a question|image\.(size|tokens)|(its|'s) (tokenizer|prompt|architecture)",
}
"""The place where a fault is found, by a part of its reason. All other reasons come from the copy."""


def found_by(reason: str, did: str) -> str:
    if did != "engine not touched":
        return "probes" if "log-probabilities" in reason else "engine"
    return next((where for where, says in FOUND_BY.items() if re.search(says, reason)), "copy")


def readable(reason: str, directory: Path) -> str:
    """The reason without what differs from run to run: paths, digests, sizes and measured numbers."""
    text = reason.replace(f"{directory}/", "").replace(str(directory), "it").replace(directory.name, "it")
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", text)
    text = re.sub(r"\d+ bytes; its manifest says \d+", "… bytes; its manifest says …", text)
    text = re.sub(r"difference is \S+$", "difference is …", text)
    return text.partition("\n")[0].replace("|", "\\|")


def note(what: str, reason: str, did: str, directory: Path) -> None:
    rows[what] = f"| {what} | {found_by(reason, did)} | {readable(reason, directory)} | {did} |"


IN_EVERY_RUN = {
    "truncated file",
    "NaN weights (described)",
    "wrong shape in the MLP (described)",
    "empty configuration (described)",
    "two tensors of equal shape swapped (described)",
    "the sign of one weight flipped (described)",
}
"""One damage for each way in which a fault is found: by hashes, values, tensors, the inspection and the probes; and
the smallest change. `make test-all` tries all of them."""


def tried_damages() -> list[Any]:
    return [
        pytest.param(damage, what, id=what, marks=[] if what in IN_EVERY_RUN else [pytest.mark.exhaustive])
        for damage, what in DAMAGES.items()
    ]


@pytest.mark.parametrize(("damage", "what"), tried_damages())
def test_a_broken_checkpoint_never_answers(vllm_service, published, make_sample, damage, what) -> None:
    name = re.sub("[^a-z0-9]+", "-", what.lower()).strip("-")
    shutil.copytree(published / "two", published / name)
    damage(published / name)
    response, did = offer(vllm_service, published, make_sample, name)
    assert response.status_code == 409, response.text
    note(what, response.json()["detail"], did, published / name)


def test_a_copy_with_other_probes_does_not_poison_the_intact_checkpoint(vllm_service, published, make_sample) -> None:
    bad = shutil.copytree(published / "two", published / "poison")
    probes = read_manifest(published / "one").probes
    describe(bad, read_manifest(bad), probes=probes)
    response, did = offer(vllm_service, published, make_sample, bad.name)
    assert response.status_code == 409, response.text
    note(OTHER_PROBES, response.json()["detail"], did, bad)
    assert take_up(vllm_service, "two").status_code == 200


@pytest.fixture
def restless(published: Path) -> Iterator[str]:
    """A checkpoint one bit of which alternates between right and wrong."""
    directory, stop = published / "restless", threading.Event()
    shutil.copytree(published / "two", directory)

    def change() -> None:
        while not stop.is_set():
            flipped_bit_on_disk(directory)

    thread = threading.Thread(target=change)
    thread.start()
    yield directory.name
    stop.set()
    thread.join()


def test_a_directory_that_changes_while_it_is_read_is_refused_or_served_unchanged(
    vllm_service, published, make_sample, restless
) -> None:
    whole = read_manifest(published / "two").digest
    for _ in range(20):
        response = take_up(vllm_service, restless)
        if response.status_code == 409:
            note(CHANGING, response.json()["detail"], "engine not touched", published / restless)
            break
        # The copy was made between two changes, and the engine passed its probes.
        assert response.status_code == 200 and response.json()["digest"] == whole
        assert take_up(vllm_service, "one").status_code == 200
    else:
        pytest.fail(f"never refused; {WEIGHTS} does not change while it is read")


@pytest.mark.exhaustive
def test_the_table_of_the_docs_states_what_was_found(repository) -> None:
    wanted = [*DAMAGES.values(), OTHER_PROBES, CHANGING]
    if missing := [what for what in wanted if what not in rows]:
        pytest.skip(f"not tried in this run: {', '.join(missing)}")
    head = "| broken in this way | found by | reason given | what happened |\n|---|---|---|---|\n"
    table = head + "".join(f"{rows[what]}\n" for what in wanted)
    path = repository / "docs" / "decisions" / "hot-swap.md"
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(f"{before}{BEGIN}{table}{END}{after}")
    else:
        assert written == table, "what was found is not what the docs say; UPDATE_DOCS=1 writes them"
