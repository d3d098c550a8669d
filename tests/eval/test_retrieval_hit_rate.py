# SPDX-License-Identifier: Apache-2.0
"""Hit rates: counted by hand on chosen selections, and at their known values on real ones."""

from __future__ import annotations

import pytest
import torch

import hylora
import hylora_eval.retrieval.capture as capture
from hylora_eval.recall import RecallSequence
from hylora_eval.retrieval import retrieval_hit_rate
from hylora_kernels import select_blocks
from tests.tiny import tiny_bamba, tiny_llama

SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16}


def sequence(*pairs, length=64, seed=0):
    """Random tokens in which each (source, answer) pair of positions holds the same token."""
    ids = torch.randint(96, (length,), generator=torch.Generator().manual_seed(seed))
    for source, answer in pairs:
        ids[answer] = ids[source]
    sources, answers = torch.tensor(pairs).T
    return RecallSequence(ids, answers, sources)


def span_model(build=tiny_bamba, **options):
    model = build()
    hylora.set_attention(model, "se_attn", **{**SPAN, **options})
    return model


# (source, answer): chunks start at 0, 16, 32 and 48; the answer at 48 is asked by token 47, in the chunk of 32.
PAIRS = ((1, 20), (9, 48), (25, 50), (33, 60), (52, 62), (3, 12))


def choose(monkeypatch, selected):
    """Let every layer of every sequence retrieve these blocks: [KV heads][selections][top_k]."""

    def chosen(query, key, value, options, layout, **arguments):
        return [torch.tensor(selected) for _ in layout.sequences]

    monkeypatch.setattr(capture, "select_blocks", chosen)


def test_hits_are_counted_by_hand(monkeypatch):
    # Beyond their chunks: block 0 from chunk 1, block 2 from chunk 2, blocks 6 and 8 from chunk 3.
    choose(monkeypatch, [[[-1, -1], [0, 3], [1, 3], [6, 8]], [[-1, -1], [2, 1], [2, 0], [8, 1]]])
    result = retrieval_hit_rate(span_model(), [sequence(*PAIRS)])
    assert (result.queries, result.queries_in_chunk, result.sequences) == (4, 2, 1)
    assert [layer.layer for layer in result.layers] == [1, 3]
    assert result.layers[0].heads == (0.75, 0.5)
    assert result.hit_rate == result.layers[1].hit_rate == 0.625
    assert result.chance == pytest.approx((2 / 4 + 2 / 8 + 2 / 12 + 2 / 12) / 4)
    assert result.standard_error is None
    assert result.options["top_k"] == 2


def test_under_causal_selection_each_group_has_its_own(monkeypatch):
    selected = [[[-1, -1]] * 8] * 2
    selected = torch.tensor(selected)
    selected[:, 2, 0] = 0  # token 19, which predicts the answer at 20, is in the third group of 8
    choose(monkeypatch, selected.tolist())
    result = retrieval_hit_rate(span_model(selection="causal", query_group=8), [sequence(*PAIRS)])
    assert result.hit_rate == 0.25


def test_a_block_across_the_chunks_start_is_missed(monkeypatch):
    # Chunks of 18: token 17 lies before the chunk at 18, in block 4, which ends only at 20.
    choose(monkeypatch, [[[4, 0]] * 4] * 2)
    result = retrieval_hit_rate(span_model(chunk_size=18), [sequence((17, 20), (2, 21))])
    assert result.chance == pytest.approx((0 + 2 / 4) / 2)


def test_standard_error_is_over_sequences(monkeypatch):
    choose(monkeypatch, [[[0, 1]] * 4] * 2)
    sequences = [sequence((1, 20)), sequence((9, 20)), sequence((1, 20))]
    result = retrieval_hit_rate(span_model(), sequences, batch_size=2)
    assert result.hit_rate == pytest.approx(2 / 3)
    assert result.standard_error == pytest.approx((1 / 3 / 3) ** 0.5)


@pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
@pytest.mark.parametrize("selection", ["chunk", "causal"])
def test_enough_blocks_always_hit_and_no_memory_never(build, selection):
    options = {"selection": selection, "query_group": 8}
    everything = retrieval_hit_rate(span_model(build, top_k=16, **options), [sequence(*PAIRS)])
    assert (everything.hit_rate, everything.chance) == (1.0, 1.0)
    nothing = retrieval_hit_rate(span_model(build, retrieval="none", **options), [sequence(*PAIRS)])
    assert nothing.hit_rate == 0.0


def test_random_blocks_hit_by_chance():
    # every answer asks once for each block, so whatever blocks are drawn, the rate is exact
    pairs = [(source, answer) for answer in range(50, 64) for source in range(answer % 4, 48, 4)]
    model = span_model(retrieval="random", top_k=3)
    result = retrieval_hit_rate(model, [sequence(pair) for pair in pairs], batch_size=64)
    assert result.chance == pytest.approx(3 / 12)
    assert result.hit_rate == pytest.approx(3 / 12)


def test_batches_do_not_change_the_result():
    model = span_model(summary="mean_key")
    sequences = [sequence(*PAIRS, seed=seed) for seed in range(5)] + [sequence((1, 20), length=40)]
    one, many = retrieval_hit_rate(model, sequences, 1), retrieval_hit_rate(model, sequences, 4)
    assert one == many
    assert 0 < one.hit_rate < 1


def test_what_is_counted_is_what_the_attention_retrieves(monkeypatch):
    """The recorder asks for blocks with the arguments that the attention itself computes with."""
    seen = {"recorded": [], "attended": []}

    def record(kind, function):
        def wrapper(query, key, value, options, **arguments):
            seen[kind] += select_blocks(query, key, value, options, **{**arguments, "backend": "reference"})
            return function(query, key, value, options, **arguments)

        return wrapper

    import hylora.attention.functions as functions

    monkeypatch.setattr(functions, "span_attention", record("attended", functions.span_attention))
    monkeypatch.setattr(capture, "select_blocks", record("recorded", select_blocks))
    retrieval_hit_rate(span_model(chunk_size=(8, 16), selection="causal", query_group=4), [sequence(*PAIRS)])
    assert len(seen["recorded"]) == len(seen["attended"]) == 2
    assert all(torch.equal(a, b) for a, b in zip(seen["recorded"], seen["attended"], strict=True))


def test_the_recorder_goes_away_even_after_an_error(monkeypatch):
    model, ids = span_model(), sequence(*PAIRS).input_ids[None]
    before = model(ids).logits

    def fail(*args, **kwargs):
        raise RuntimeError("inside")

    monkeypatch.setattr(capture, "select_blocks", fail)
    with pytest.raises(RuntimeError, match="inside"):
        retrieval_hit_rate(model, [sequence(*PAIRS)])
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)


def test_the_result_is_plain_json():
    import json

    result = retrieval_hit_rate(span_model(), [sequence(*PAIRS)])
    assert json.loads(json.dumps(result.to_dict()))["layers"][0]["heads"] == list(result.layers[0].heads)


def test_full_attention_retrieves_nothing():
    with pytest.raises(ValueError, match="'sdpa', which retrieves nothing"):
        retrieval_hit_rate(tiny_llama(), [sequence(*PAIRS)])


def test_sequences_within_one_chunk_ask_for_nothing():
    with pytest.raises(ValueError, match=r"own chunk \(chunk_size=64\)"):
        retrieval_hit_rate(span_model(chunk_size=64), [sequence(*PAIRS)])
