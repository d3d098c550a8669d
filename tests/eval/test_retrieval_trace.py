# SPDX-License-Identifier: Apache-2.0
"""Traces against blocks chosen by hand, and the oracle against a dense softmax."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch

import hylora
import hylora.attention.functions as functions
import hylora_eval.retrieval.mass as mass_module
from hylora_eval.retrieval import AttentionMass, attention_mass, trace_retrieval
from hylora_eval.retrieval.capture import observe_attention
from hylora_eval.retrieval.inspection import CapturedMass, MassSums, average_mass
from hylora_eval.retrieval.mass import block_mass
from hylora_eval.retrieval.trace import LayerTrace, RetrievalTrace
from hylora_kernels import select_blocks
from hylora_kernels.options import SpanOptions
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama

MODELS = {
    "bamba": tiny_bamba,
    "llama": tiny_llama,
    "llama with as many KV heads": lambda: tiny_llama(num_key_value_heads=4),
    "zamba2": lambda: ZOO["zamba2"].build(),
    "nemotron_h": lambda: ZOO["nemotron_h"].build(),
}
SPAN = {"block_size": 4, "top_k": 2, "chunk_size": (8, 16)}
WAYS = {
    "published": {},
    "causal": {"selection": "causal", "query_group": 4, "summary": "mean_key"},
    "random": {"retrieval": "random", "seed": 3},
}


def tokens(rows, length, seed=0):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(seed))


def span_options(**changes):
    values = {
        "block_size": 4, "top_k": 2, "chunk_size": 16, "selection": "chunk", "query_group": 8,
        "retrieval": "relevance", "summary": "mean_key", "seed": 0,
    }  # fmt: skip
    return SpanOptions(**{**values, **changes})


@pytest.mark.parametrize(
    ("model", "way"),
    [
        *(("bamba", way) for way in WAYS),
        ("llama", "causal"),
        ("llama with as many KV heads", "published"),
        # Blocks that layers share draw the same random blocks in all of them.
        ("zamba2", "random"),
        ("nemotron_h", "published"),
    ],
)
def test_a_trace_holds_the_blocks_of_each_layers_attention(monkeypatch, model, way):
    network = MODELS[model]()
    hylora.set_attention(network, "se_attn", **SPAN, **WAYS[way])
    computed = []

    def attend(query, key, value, options, **arguments):
        chosen = select_blocks(query, key, value, options, **{**arguments, "backend": "reference"})
        computed.append((query, key, options, arguments["scale"], chosen))
        return original(query, key, value, options, **arguments)

    original = functions.span_attention
    monkeypatch.setattr(functions, "span_attention", attend)
    traces = trace_retrieval(network, tokens(2, 53))
    assert len(traces) == 2
    for row, trace in enumerate(traces):
        assert trace.length == 53 and trace.options.chunk_size == 16
        assert [layer.layer for layer in trace.layers] == hylora.architecture.attention_layers(network.config)
        for layer, (query, key, options, scale, chosen) in zip(trace.layers, computed, strict=True):
            assert torch.equal(layer.blocks, chosen[row])
            assert layer.blocks.shape == (key.shape[1], trace.options.units(53), 2)
            expected = attention_mass(query[row], key[row], chosen[row], options, scale)
            for field in fields(AttentionMass):
                assert torch.equal(getattr(layer.mass, field.name), getattr(expected, field.name))


def test_tracing_changes_nothing_and_repeats_exactly():
    model = tiny_bamba().train()
    hylora.set_attention(model, "se_attn", **SPAN)
    ids = tokens(1, 40)
    before = model.eval()(ids).logits
    model.train()
    one, two = (trace_retrieval(model, ids)[0] for _ in range(2))
    assert model.training and list(one.rows()) == list(two.rows())
    assert torch.equal(model.eval()(ids).logits, before)


def test_rows_tell_each_choice_in_plain_json():
    model = tiny_bamba()
    hylora.set_attention(model, "se_attn", **SPAN)
    (trace,) = trace_retrieval(model, tokens(1, 40))
    rows = [json.loads(json.dumps(row)) for row in trace.rows()]
    assert len(rows) == 2 * 2 * 3  # layers, KV heads, chunks
    row = rows[5]
    assert (row["layer"], row["head"], row["selection"], row["start"], row["stop"]) == (1, 1, 2, 32, 40)
    assert row["blocks"] == trace.layers[0].blocks[1, 2].tolist()
    assert row["oracle_mass"] >= row["retrieved_mass"] > 0 and rows[0]["blocks"] == rows[0]["oracle"] == []
    (bare,) = trace_retrieval(model, tokens(1, 40), oracle=False)
    assert next(bare.rows()).keys() == {"layer", "head", "selection", "start", "stop", "blocks"}


def test_other_attention_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="'sdpa', which retrieves nothing"):
        trace_retrieval(tiny_llama(), tokens(1, 40))
    model = tiny_llama()
    hylora.set_attention(model, "se_attn", **SPAN)
    with pytest.raises(ValueError, match=r"shape \(40,\)"):
        trace_retrieval(model, tokens(1, 40)[0])


def dense_weights(query, key, scale):
    """Full causal attention [Hkv, L, L], the mean over each KV head's query heads."""
    length = key.shape[1]
    scores = query.unflatten(0, (key.shape[0], -1)) @ key[:, None].mT * scale
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1).mean(dim=1)


@pytest.mark.parametrize("slice_size", [1, 300, 1 << 22])
@pytest.mark.parametrize(
    "changes",
    [
        {"block_size": 5, "chunk_size": 12},  # blocks that a chunk's start cuts in two
        {"selection": "causal", "query_group": 8},
        {"selection": "causal", "query_group": 1, "top_k": 9},
        {"block_size": 1, "chunk_size": 1, "top_k": 0},
    ],
    ids=["chunk", "groups", "tokens", "least"],
)
def test_attention_mass_equals_a_dense_softmax(monkeypatch, slice_size, changes):
    monkeypatch.setattr(mass_module, "_SLICE", {"cpu": slice_size, "cuda": slice_size})
    options, length, scale = span_options(**changes), 53, 0.7
    draw = torch.Generator().manual_seed(1)
    query, key = (torch.randn(heads, length, 8, generator=draw, dtype=torch.float64) for heads in (6, 2))
    value = torch.randn(key.shape, generator=draw, dtype=torch.float64)
    (chosen,) = select_blocks(query[None], key[None], value[None], **vars(options), scale=scale)
    found = attention_mass(query, key, chosen, options, scale)
    weights = dense_weights(query, key, scale)
    parts = {(part.head, part.selections.start): part for part in block_mass(query, key, options, scale)}
    for head in range(2):
        for unit in range(options.units(length)):
            rows = slice(unit * options.unit_size, (unit + 1) * options.unit_size)
            seen, candidates = weights[head, rows].mean(dim=0), options.candidates(unit)
            size, start = options.block_size, unit * options.unit_size // options.chunk_size * options.chunk_size
            blocks = [float(seen[block * size : (block + 1) * size].sum()) for block in range(candidates)]
            part = parts[head, start // options.unit_size]
            torch.testing.assert_close(
                part.blocks[unit - part.selections.start], torch.tensor(blocks, dtype=torch.float64)
            )
            best = sorted(range(candidates), key=lambda block, blocks=blocks: -blocks[block])[: options.top_k]
            assert [block for block in found.blocks[head, unit].tolist() if block >= 0] == best
            mine = [block for block in chosen[head, unit].tolist() if block >= 0]
            expected = {
                "retrieved": sum(blocks[block] for block in mine),
                "oracle": sum(blocks[block] for block in best),
                "candidates": sum(blocks),
                "own_chunk": float(seen[start:].sum()),
                "overlap": len({*mine} & {*best}) / max(1, len(best)),
            }
            for name, share in expected.items():
                assert float(getattr(found, name)[head, unit]) == pytest.approx(share, abs=1e-12)
            cut_in_two = float(seen[candidates * size : start].sum())
            assert expected["candidates"] + expected["own_chunk"] + cut_in_two == pytest.approx(1)


def test_no_choice_of_blocks_holds_more_than_the_oracles():
    draw = torch.Generator().manual_seed(2)
    query, key = (torch.randn(heads, 64, 8, generator=draw) for heads in (4, 2))
    for seed in range(20):
        options = span_options(retrieval="random", seed=seed)
        (chosen,) = select_blocks(query[None], key[None], key[None], **vars(options))
        found = attention_mass(query, key, chosen, options)
        assert (found.oracle >= found.retrieved - 1e-6).all() and (found.candidates >= found.oracle - 1e-6).all()
    everything = span_options(top_k=12)
    (chosen,) = select_blocks(query[None], key[None], key[None], **vars(everything))
    found = attention_mass(query, key, chosen, everything)
    torch.testing.assert_close(found.retrieved, found.candidates)
    assert (found.overlap[:, 1:] == 1).all() and (found.overlap[:, 0] == 0).all()


def trace_of(chosen, options, length, seed=0):
    draw = torch.Generator().manual_seed(seed)
    heads, units, _ = chosen.shape
    shares = {name: torch.rand(heads, units, generator=draw) for name in mass_fields()}
    return RetrievalTrace(length, options, (LayerTrace(3, chosen, AttentionMass(chosen, **shares)),))


def mass_fields():
    return [field.name for field in fields(AttentionMass) if field.name != "blocks"]


def test_averages_are_over_the_queries_that_have_a_choice():
    options = span_options(top_k=4)  # the chunk at 16 has 4 candidates, all of which it retrieves
    traces = [trace_of(torch.zeros(2, 4, 4, dtype=torch.long), options, length, length) for length in (64, 50)]
    (layer,) = average_mass([MassSums.of(trace) for trace in traces], [3])
    weights = [torch.tensor([0, 0, 16, 16]), torch.tensor([0, 0, 16, 2])]
    drawn = torch.tensor([0, 0, 4 / 8, 4 / 12])
    for head in range(2):
        for field in fields(CapturedMass):
            total = 0.0
            for trace, weight in zip(traces, weights, strict=True):
                mass = trace.layers[0].mass
                shares = mass.candidates * drawn if field.name == "random" else getattr(mass, field.name)
                total += float((shares[head] * weight).sum())
            assert getattr(layer.heads[head], field.name) == pytest.approx(total / 50, rel=1e-6)
    assert layer.mean.retrieved == pytest.approx((layer.heads[0].retrieved + layer.heads[1].retrieved) / 2)
    assert layer.layer == 3 and layer.standard_error > 0


def test_without_a_choice_there_is_no_average():
    trace = trace_of(torch.zeros(2, 2, 4, dtype=torch.long), span_options(top_k=4), 32)
    assert average_mass([MassSums.of(trace)], [3]) == ()


def test_only_the_model_that_is_traced_is_observed():
    traced, other = tiny_bamba(), tiny_bamba()
    for model in (traced, other):
        hylora.set_attention(model, "se_attn", **SPAN)
    seen = []
    with observe_attention(traced, seen.append), torch.no_grad():
        other(tokens(1, 40))
        assert not seen
        traced(tokens(1, 40))
    assert len(seen) == len(hylora.architecture.attention_layers(traced.config))
