# SPDX-License-Identifier: Apache-2.0
"""Which blocks are chosen, apart from attention: hand-made cases first, then backend against reference."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, select_blocks, selection
from hylora_kernels.hashing import hashed_scores
from hylora_kernels.options import SUMMARIES
from tests.kernels.inputs import random_inputs

BACKENDS = ["reference", "torch"]


def test_a_seed_of_any_size_gives_a_landmark():
    tensors = random_inputs(1, 2, 2, 24)
    for seed in (2**64 + 1, -(2**70)):
        chosen = select_blocks(*tensors, block_size=4, chunk_size=8, summary="landmark", seed=seed)
        assert (chosen[0][:, 0] == -1).all()
        assert (chosen[0][:, 1, 0] >= 0).all()


def chosen_by_mean_key(block_keys, query_values, backend, **options):
    """One head of width 1: a key value for each block, a query value for each token."""
    block_size = options["block_size"]
    length = len(query_values)
    key = torch.zeros(1, 1, length, 1)
    for block, value in enumerate(block_keys):
        key[0, 0, block * block_size : (block + 1) * block_size] = value
    query = torch.tensor(query_values, dtype=torch.float32).reshape(1, 1, length, 1)
    (blocks,) = select_blocks(query, key, key, summary="mean_key", backend=backend, **options)
    return blocks[0].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_best_past_blocks_come_first(backend):
    blocks = chosen_by_mean_key([3, 1, 2, 9], [1] * 8, backend, block_size=2, chunk_size=4, top_k=2)
    assert blocks == [[-1, -1], [0, 1]]
    blocks = chosen_by_mean_key([1, 3, 2, 9, 9, 9], [1] * 12, backend, block_size=2, chunk_size=4, top_k=3)
    assert blocks == [[-1, -1, -1], [1, 0, -1], [3, 1, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_earlier_block(backend):
    blocks = chosen_by_mean_key([2, 5, 2, 5, 2, 5], [1] * 12, backend, block_size=1, chunk_size=6, top_k=4)
    assert blocks[1] == [1, 3, 5, 0]
    # All scores equal: 40 candidates make an unstable sort show itself.
    blocks = chosen_by_mean_key([7] * 40, [0] * 80, backend, block_size=1, chunk_size=40, top_k=5)
    assert blocks[1] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_summaries_are_rounded_to_the_nearest_and_ties_among_them_to_even(backend):
    step = 2.0**-7  # between neighbours from 1 to 2
    options = {"block_size": 1, "chunk_size": 2, "top_k": 1}

    def better(one, other, summary_dtype):
        return chosen_by_mean_key([one, other], [1] * 4, backend, summary_dtype=summary_dtype, **options)[1][0]

    for one, other in ((1, 1 + step / 2), (1, 1 + step / 4), (1 + 2 * step, 1 + 9 / 4 * step)):
        assert better(one, other, "float32") == 1
        assert better(one, other, "bfloat16") == 0  # equal, and the earlier comes first
    for other in (1 + 3 / 4 * step, 1 + 3 / 2 * step):
        assert better(1, other, "bfloat16") == 1
    assert better(1 + step, 1 + 3 / 2 * step, "bfloat16") == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_products_with_bfloat16_summaries_are_not_rounded(dtype, backend):
    """Queries that bfloat16 does not tell from 1 and from -1."""
    key, query = torch.zeros(1, 1, 4, 2, dtype=dtype), torch.zeros(1, 1, 4, 2, dtype=dtype)
    key[0, 0, 0], key[0, 0, 1] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    query[0, 0, 2], query[0, 0, 3] = torch.tensor([1.0, 1 + 2**-9]), torch.tensor([-1.0, -1 - 2**-9])
    options = {"block_size": 1, "chunk_size": 2, "top_k": 1, "selection": "token", "summary_dtype": "bfloat16"}
    (blocks,) = select_blocks(query, key, key, summary="mean_key", backend=backend, **options)
    assert blocks[0, 2:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_that_reaches_into_the_chunk_is_no_candidate(backend):
    blocks = chosen_by_mean_key([1, 2, 3, 4], [1] * 14, backend, block_size=4, chunk_size=6, top_k=3)
    # Chunks start at 6 and 12: one complete block before the first, three before the second.
    assert blocks == [[-1, -1, -1], [0, -1, -1], [2, 1, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_selects_with_the_sum_of_its_queries(backend):
    queries = [0, 0, 0, 0, 5, 5, 5, -16]
    blocks = chosen_by_mean_key([1, -1], queries, backend, block_size=2, chunk_size=4, top_k=1)
    assert blocks[1] == [1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_causal_group_selects_with_the_group_before_it(backend):
    queries = [0, 0, -1, -1, 1, 1, -1, 3, 9, 9]
    options = {"block_size": 2, "chunk_size": 4, "top_k": 1, "selection": "causal", "query_group": 2}
    blocks = chosen_by_mean_key([1, -1, 0, 0, 0], queries, backend, **options)
    # Groups 2 and 3 lie in the second chunk and see blocks 0, 1; group 4 also sees the blocks of that chunk.
    assert blocks == [[-1], [-1], [1], [0], [0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_queries_select_with_themselves(backend):
    options = {"block_size": 2, "chunk_size": 4, "top_k": 1, "selection": "causal", "query_group": 1}
    blocks = chosen_by_mean_key([1, -1], [0, 0, 0, 0, 1, -1, 1], backend, **options)
    assert blocks == [[-1]] * 4 + [[0], [1], [0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_query_heads_of_a_group_vote_together(backend):
    key = torch.tensor([1.0, -1.0, 0.0, 0.0]).reshape(1, 1, 4, 1)
    query = torch.zeros(1, 2, 4, 1)
    query[0, 0, 2:], query[0, 1, 2:] = 1.0, -3.0
    (blocks,) = select_blocks(
        query, key, key, block_size=1, chunk_size=2, top_k=1, summary="mean_key", backend=backend
    )
    assert blocks.tolist() == [[[-1], [1]]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("seed", range(4))
def test_scores_follow_their_formulas(seed, summary, backend):
    """With two candidates, their order shows the sign of the difference of their scores."""
    inputs = random_inputs(1, 2, 1, 8, seed=seed)
    asking = inputs[0][0, :, 4:]
    scores = []
    for start in (0, 2):
        q, k, v = (x[0, :, start : start + 2] for x in inputs)
        mean, deviation = (
            k[0].mean(0),
            (k[0, 0] - k[0, 1]).abs() / 2,
        )  # and half their range
        if summary == "attention":
            score = asking @ torch.stack([torch.softmax(h @ k[0].T * 0.3, -1) @ v[0] for h in q]).mean((0, 1))
        elif summary == "landmark":
            landmark = torch.randn(8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            score = asking @ (torch.softmax(landmark @ k[0].T * 0.3, -1) @ v[0])
        elif summary == "representatives":
            # One key, and the other as the mean of the rest: what is left of attention is exact.
            score = torch.logsumexp(0.3 * asking @ k[0].T, -1) / 0.3
        else:
            spread = 0.3 * asking**2 * deviation / 2 if summary == "gaussian" else asking.abs()
            score = asking @ mean + (spread @ deviation if summary != "mean_key" else 0)
        scores.append(score.sum())
    (blocks,) = select_blocks(
        *inputs,
        block_size=2,
        chunk_size=4,
        top_k=2,
        summary=summary,
        representatives=1,
        seed=5,
        scale=0.3,
        backend=backend,
    )
    assert blocks[0, 1].tolist() == ([0, 1] if scores[0] > scores[1] else [1, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_that_one_query_needs_wins_by_the_maximum_and_not_by_the_sum(backend):
    """Three queries want block 1 a little, one wants block 0 and nothing else."""
    queries = [0, 0, 0, 0, -2, -2, -2, 4]
    options = {"block_size": 2, "chunk_size": 4, "top_k": 1}
    assert chosen_by_mean_key([1, -1], queries, backend, **options)[1] == [1]
    assert chosen_by_mean_key([1, -1], queries, backend, pooling="max", **options)[1] == [0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_representatives_are_far_from_each_other(backend):
    """A second outlier beside the first is not worth a place; the one on the other side is."""
    key = torch.tensor([0.0, 0.0, 9.0, 8.9, -5.0, 0.0] + [2.0] * 6).reshape(1, 1, 12, 1)
    query = torch.full((1, 1, 24, 1), -4.0)
    key = torch.cat([key, torch.zeros_like(key)], dim=2)
    (blocks,) = select_blocks(
        query,
        key,
        key,
        block_size=6,
        chunk_size=12,
        top_k=1,
        summary="representatives",
        representatives=2,
        selection="token",
        backend=backend,
    )
    # A query of -4 wants the lowest key: -5 in block 0 counts as itself, and not within a mean of 1.5 or so.
    assert (blocks[0, 12:] == 0).all()


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize(
    "choice",
    [
        {"selection": "chunk"},
        {"selection": "chunk", "pooling": "max"},
        {"selection": "token"},
        {"selection": "causal", "query_group": 5},
        {"selection": "causal", "query_group": 1},
        {"selection": "token", "summary_dtype": "bfloat16"},
        {"selection": "causal", "query_group": 5, "summary_dtype": "bfloat16"},
        {"selection": "chunk", "pooling": "max", "summary_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_torch_chooses_as_the_reference(summary, choice, kv_heads):
    inputs = random_inputs(2, 4, kv_heads, 64)
    options = {
        "block_size": 3,
        "top_k": 4,
        "chunk_size": 15,
        "summary": summary,
        **choice,
        "layout": SequenceLayout(2, 64, ((0, 0, 64), (1, 2, 31), (1, 33, 30))),
    }
    expected = select_blocks(*inputs, backend="reference", **options)
    actual = select_blocks(*inputs, backend="torch", **options)
    assert len(actual) == len(expected) == 3
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.int64
        assert torch.equal(a, e)


@pytest.mark.parametrize(
    "choice",
    [{"selection": "causal", "query_group": 2}, {"selection": "token"}, {"pooling": "max"}, {}],
    ids=str,
)
@pytest.mark.parametrize("summary", ["attention", "mean_std", "representatives"])
def test_slices_do_not_change_the_choice(monkeypatch, summary, choice):
    inputs = random_inputs(1, 4, 2, 64)
    options = {"block_size": 4, "chunk_size": 16, "top_k": 3, "summary": summary, **choice}
    (whole,) = select_blocks(*inputs, **options)
    monkeypatch.setitem(selection._SLICE, "cpu", 1)
    assert torch.equal(select_blocks(*inputs, **options)[0], whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
@pytest.mark.parametrize(("blocks", "count"), [(1, 1), (7, 7), (40, 3), (500, 16)])
def test_the_best_are_those_of_a_stable_sort(blocks, count, dtype):
    generator = torch.Generator().manual_seed(blocks)
    for values in (1, 3, 100):  # few values, many ties
        scores = torch.randint(values, (2, 50, blocks), generator=generator).to(dtype)
        expected = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
        assert torch.equal(selection.best(scores, count), expected)


def test_hash_is_splitmix64():
    def splitmix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for seed, head, unit, block in [(0, 0, 0, 0), (2**63, 1, 2, 3), (-1, 3, 1000, 12345)]:
        state = seed % 2**64
        for key in (head, unit, block):
            state = splitmix((state + key) % 2**64)
        assert hashed_scores(seed, torch.tensor(head), unit, torch.tensor(block)).item() == splitmix(state) >> 1


@pytest.mark.parametrize("selection_mode", ["chunk", "causal"])
def test_random_choice_depends_on_nothing_but_its_keys(selection_mode):
    options = {"block_size": 4, "chunk_size": 8, "top_k": 2, "selection": selection_mode, "query_group": 4}
    options["retrieval"] = "random"
    (alone,) = select_blocks(*random_inputs(1, 4, 2, 40), seed=7, **options)
    for backend in BACKENDS:
        layout = SequenceLayout(2, 60, ((0, 0, 9), (0, 9, 40), (1, 0, 60)))
        other = select_blocks(*random_inputs(2, 2, 2, 60, seed=3), seed=7, layout=layout, backend=backend, **options)
        assert torch.equal(other[1], alone)
        assert torch.equal(other[2][:, : alone.shape[1]], alone)
    assert not torch.equal(select_blocks(*random_inputs(1, 4, 2, 40), seed=8, **options)[0], alone)
    assert not torch.equal(alone[0], alone[1])


def test_random_choice_is_drawn_once_for_all_sequences(monkeypatch):
    calls, select = [], selection.select_blocks
    monkeypatch.setattr(selection, "select_blocks", lambda *x: calls.append(x) or select(*x))
    layout = SequenceLayout(2, 64, ((0, 0, 20), (0, 20, 44), (1, 3, 60)))
    options = {"block_size": 3, "top_k": 4, "chunk_size": 15, "retrieval": "random", "layout": layout}
    inputs = random_inputs(2, 4, 2, 64)
    chosen = select_blocks(*inputs, backend="torch", **options)
    expected = select_blocks(*inputs, backend="reference", **options)
    assert all(map(torch.equal, chosen, expected)) and len(calls) == 1


def test_random_choice_is_spread_evenly():
    (blocks,) = select_blocks(
        *random_inputs(1, 8, 8, 2048, 1), block_size=1, chunk_size=64, top_k=4, retrieval="random"
    )
    last = blocks[:, 16:].flatten() / (torch.arange(16, 32).repeat_interleave(4).repeat(8) * 64)
    assert abs(last.mean() - 0.5) < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_choice_with_more_heads_than_blocks(backend):
    (blocks,) = select_blocks(
        *random_inputs(1, 8, 8, 24), block_size=4, chunk_size=8, top_k=1, retrieval="random", backend=backend
    )
    assert (blocks[:, 0] == -1).all()
    assert ((blocks[:, 2] >= 0) & (blocks[:, 2] < 4)).all()
    assert len(blocks[:, 2].unique()) > 1  # heads draw for themselves


def test_no_retrieval_chooses_nothing():
    inputs = random_inputs(1, 2, 2, 32)
    for backend in BACKENDS:
        (none,) = select_blocks(*inputs, block_size=4, chunk_size=8, top_k=2, retrieval="none", backend=backend)
        assert none.shape == (2, 4, 2)
        assert (none == -1).all()
        (zero,) = select_blocks(*inputs, block_size=4, chunk_size=8, top_k=0, backend=backend)
        assert zero.shape == (2, 4, 0)
