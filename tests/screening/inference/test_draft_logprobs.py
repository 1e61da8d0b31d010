"""Log-probabilities of steps that check drafts, with vLLM's own samplers: each row against the logits themselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from screening.inference.draft_logprobs import DraftedLogprobs
from screening.inference.worker_extension import WorkerExtension

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_op`:FutureWarning")]

VOCABULARY = 40


@pytest.fixture
def runner():
    """The parts of vLLM's model runner that the extension uses."""
    from vllm.platforms import current_platform

    # As vLLM's worker does at its start: on a CPU, C++ functions replace the Triton kernels.
    current_platform.import_kernels()
    current_platform.register_triton_kernel_overrides()
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler

    return SimpleNamespace(rejection_sampler=RejectionSampler(Sampler()))


def sampling(watched):
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    return SamplingMetadata(
        temperature=None, all_greedy=True, all_random=False, top_p=None, top_k=None, generators={},
        max_num_logprobs=None, no_penalties=True, prompt_token_ids=None, frequency_penalties=torch.tensor([]),
        presence_penalties=torch.tensor([]), repetition_penalties=torch.tensor([]), output_token_ids=[],
        allowed_token_ids_mask=None, bad_words_token_ids={}, logitsprocs=LogitsProcessors(),
        logprob_token_ids=watched,
    )  # fmt: skip


def step(runner, likeliest, drafts, watched, forbidden=()):
    """One step of a batch: the model's token at each place of each request, and the drafted tokens.

    Args:
        forbidden: (row, token), as a grammar forbids them.
    """
    import torch
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(sum(map(len, likeliest)), VOCABULARY, generator=generator)
    for row, token in enumerate(token for tokens in likeliest for token in tokens):
        logits[row, token] = 9.0
    for place in forbidden:
        logits[place] = float("-inf")
    counts = torch.tensor([len(draft) for draft in drafts], dtype=torch.int32)
    ends = (counts + 1).cumsum(0, dtype=torch.int32)
    checked = [int(end) - 1 - count + i for end, count in zip(ends, counts.tolist(), strict=True) for i in range(count)]
    metadata = SpecDecodeMetadata(
        draft_token_ids=torch.tensor([token for draft in drafts for token in draft], dtype=torch.int32),
        num_draft_tokens=counts.tolist(),
        cu_num_draft_tokens=counts.cumsum(0, dtype=torch.int32),
        cu_num_sampled_tokens=ends,
        target_logits_indices=torch.tensor(checked, dtype=torch.long),
        bonus_logits_indices=ends.long() - 1,
        logits_indices=torch.arange(len(logits)),
    )
    output = runner.rejection_sampler(metadata, None, logits.clone(), sampling(watched))
    return logits, output


BATCHES = {
    # the model's tokens and the drafted ones: one wrong, none, all right, the only one right
    "drafts of all kinds": ([[7, 8, 9], [4], [1, 2, 3, 5], [6, 6]], [[7, 0], [], [1, 2, 3], [6]]),
    "no drafts at all": ([[7], [4], [1], [6]], [[], [], [], []]),
    "one draft, and it is wrong": ([[7, 8], [4], [1], [6]], [[0], [], [], []]),
}
WATCHED = {0: [11, 12, 13], 1: [11, 12, 13], 3: [30, 31]}
"""The third request watches nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("forbidden", [(), [(0, 11), (0, 12), (0, 30)]], ids=["free", "grammar"])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_generated_token_has_its_own_and_the_watched_log_probabilities(batch, forbidden, runner) -> None:
    import torch
    from vllm.v1.sample.rejection_sampler import RejectionSampler

    WorkerExtension.watch_drafts(SimpleNamespace(model_runner=runner))
    assert isinstance(runner.rejection_sampler, DraftedLogprobs)
    likeliest, drafts = BATCHES[batch]
    logits, output = step(runner, likeliest, drafts, WATCHED, forbidden)
    tokens, lists = RejectionSampler.parse_output(
        output.sampled_token_ids, VOCABULARY, logprobs_tensors=output.logprobs_tensors
    )
    if batch == "drafts of all kinds":
        assert tokens == [[7, 8], [4], [1, 2, 3, 5], [6, 6]]
    expected = torch.log_softmax(logits, -1)
    row = 0
    for request, said in enumerate(tokens):
        found = lists.slice_request(request, len(said))
        for place, token in enumerate(said):
            ids = [token, *WATCHED.get(request, ())]
            assert found.logprob_token_ids[place][: len(ids)].tolist() == ids
            values = found.logprobs[place]
            assert values[: len(ids)] == pytest.approx(expected[row + place, ids].tolist(), abs=1e-5)
            assert (values[len(ids) :] == float("-inf")).all()
            assert found.sampled_token_ranks[place] == 1
        row += len(likeliest[request])


def test_without_watched_tokens_nothing_changes(runner) -> None:
    likeliest, drafts = [[7, 8, 9]], [[7, 0]]
    _, before = step(runner, likeliest, drafts, None)
    WorkerExtension.watch_drafts(SimpleNamespace(model_runner=runner))
    _, after = step(runner, likeliest, drafts, None)
    assert after.logprobs_tensors is None and after.sampled_token_ids.tolist() == before.sampled_token_ids.tolist()


def test_vllm_alone_gives_none(runner) -> None:
    """When this fails, vLLM has learned it, and the extension can go."""
    _, output = step(runner, [[7, 8, 9]], [[7, 0]], {0: [11]})
    assert output.logprobs_tensors is None
