# SPDX-License-Identifier: Apache-2.0
"""Each rule against its definition in plain loops."""

from __future__ import annotations

import math

import pytest
import torch

import hylora_eval.retrieval.mass as mass_module
from hylora_eval.retrieval import DEFAULT_RULES, parse_rules
from hylora_eval.retrieval.capture import AttentionCall
from hylora_eval.retrieval.mass import attention_weights, block_mass, candidates, query_slices
from hylora_kernels import select_blocks
from hylora_kernels.options import SUMMARIES, SpanOptions

SCALE = 0.4


def call(length=150, heads=4, kv_heads=2, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(count, length, 8, generator=draw, dtype=torch.float64) for count in (heads, kv_heads, kv_heads)
    )
    return AttentionCall(query, key, value, SCALE, **changes)


def rule_of(name, block_size=8, read=24, chunk_size=20):
    (rule,) = parse_rules([name], [block_size], read, chunk_size)
    return rule


@pytest.mark.parametrize("name", [*SUMMARIES, "published", *(f"{summary}/max" for summary in SUMMARIES[2:])])
def test_rules_of_the_library_choose_as_its_reference_does(name):
    seen, rule = call(), rule_of(name)
    row = (seen.query[None], seen.key[None], seen.value[None])
    (expected,) = select_blocks(*row, **vars(rule.options), scale=SCALE, backend="reference")
    positions = torch.tensor([19, 20, 77, 149])
    chosen = rule.chooser(seen)(positions, positions)
    assert torch.equal(chosen, expected[:, positions // rule.options.unit_size])
    assert rule.options.top_k == 3 and (chosen[:, 0] == -1).all() and (chosen[:, 3] >= 0).all()


def dense(query, key, position):
    """Full attention of one query head up to a position [position + 1]."""
    return torch.softmax(SCALE * key[: position + 1] @ query, dim=0)


def scores_by_hand(name, seen, position, block, size):
    """Of each KV head."""
    scores = []
    for head, queries in enumerate(seen.query[:, position].unflatten(0, (2, -1))):
        key, total = seen.key[head], 0.0
        for query in queries:
            inside = key[block * size : (block + 1) * size]
            if name == "sub_blocks":
                means = [inside[first : first + size // 4].mean(0) for first in range(0, size, size // 4)]
                total += math.log(sum(math.exp(SCALE * float(query @ mean)) for mean in means))
            elif name == "oracle":
                total += float(dense(query, key, position)[block * size : (block + 1) * size].sum())
        if name == "infllm_v2":
            starts = [start for start in range(0, 150, 16) if start + 32 <= position + 1]
            weights = sum(
                torch.softmax(SCALE * torch.stack([key[s : s + 32].mean(0) for s in starts]) @ query, dim=0)
                for query in queries
            )
            overlaps = [start + 32 > block * size and start < (block + 1) * size for start in starts]
            total = max(float(weight) for weight, inside in zip(weights, overlaps, strict=True) if inside)
        scores.append(total)
    return scores


@pytest.mark.parametrize(("name", "size", "chunk"), [("sub_blocks", 8, 20), ("oracle", 8, 20), ("infllm_v2", 64, 70)])
def test_rivals_choose_by_their_definition(name, size, chunk):
    seen, rule = call(), rule_of(name, read=24, chunk_size=chunk)
    positions = torch.tensor([79, 140, 149])
    chosen = rule.chooser(seen)(positions, positions)
    assert rule.options.block_size == size and rule.options.top_k == (1 if name == "infllm_v2" else 3)
    for index, position in enumerate(positions.tolist()):
        blocks = range(position // chunk * chunk // size)
        scores = [scores_by_hand(name, seen, position, block, size) for block in blocks]
        for head in range(2):
            best = sorted(blocks, key=lambda block, head=head, scores=scores: -scores[block][head])
            assert chosen[head, index].tolist() == best[: rule.options.top_k]


def test_the_oracle_of_a_chunk_weighs_by_the_mean_of_its_tokens(monkeypatch):
    monkeypatch.setattr(mass_module, "_SLICE", {"cpu": 1})
    seen, rule = call(), rule_of("oracle/chunk")
    asked = torch.tensor([65, 145])
    chosen = rule.chooser(seen)(asked, asked)
    for index, start in enumerate((60, 140)):
        tokens = torch.arange(start, min(start + 20, 150))
        mass = block_mass(attention_weights(seen, seen.query[:, tokens], tokens), tokens, rule.options).sum(1)
        assert torch.equal(chosen[:, index], mass.topk(3).indices)


def test_another_tokens_query_chooses_only_where_tokens_choose():
    seen, at, other = call(), torch.tensor([149]), torch.tensor([131])
    exchanged = AttentionCall(seen.query.clone(), seen.key, seen.value, SCALE)
    exchanged.query[:, 149] = seen.query[:, 131]
    for name in ("min_max", "sub_blocks", "infllm_v2", "oracle"):
        chosen = rule_of(name).chooser(seen)(at, other)
        assert torch.equal(chosen, rule_of(name).chooser(exchanged)(at, at))
    assert rule_of("min_max").by_query
    assert not any(rule_of(name).by_query for name in ("published", "min_max/max", "oracle/chunk", "own"))


@pytest.mark.parametrize("slice_size", [1, 10_000])
def test_weights_equal_a_dense_softmax_in_slices(monkeypatch, slice_size):
    monkeypatch.setattr(mass_module, "_SLICE", {"cpu": slice_size})
    seen, options = call(53), SpanOptions(block_size=5, chunk_size=12)
    positions = torch.arange(53)
    parts = list(query_slices(seen, positions))
    assert len(parts) == (53 if slice_size == 1 else 2)
    weights = torch.cat([attention_weights(seen, seen.query[:, part], part) for part in parts], dim=1)
    for position in (0, 11, 12, 52):
        for head in range(2):
            both = [dense(seen.query[2 * head + each, position], seen.key[head], position) for each in range(2)]
            torch.testing.assert_close(weights[head, position, : position + 1], sum(both) / 2)
            assert (weights[head, position, position + 1 :] == 0).all()
    mass = block_mass(weights, positions, options)
    assert candidates(positions, options)[[11, 12, 25, 52]].tolist() == [0, 2, 4, 9]
    assert mass.shape == (2, 53, 10) and (mass[:, 25, 4:] == 0).all()
    torch.testing.assert_close(mass[0, 25, 3], weights[0, 25, 15:20].sum())


def test_rules_are_taken_for_each_block_size():
    rules = parse_rules(DEFAULT_RULES, [16, 32], 256, 2048)
    assert [(rule.options.block_size, rule.options.top_k) for rule in rules[:2]] == [(16, 16), (32, 8)]
    assert sum(rule.name == "infllm_v2" for rule in rules) == 1 and rules[-1].name == "oracle"
    assert len(parse_rules(["min_max", "min_max"], [16, 16], 256, 2048)) == 1


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("minmax", 16, "rule 'minmax' is not known; choose one of published, own"),
        ("min_max/sum", 16, "its chunk form with /chunk or /max"),
        ("oracle/max", 16, "rule 'oracle/max' is not known"),
        ("mean_key", 24, "read=256 tokens must be a whole number of blocks of block_size=24"),
        ("sub_blocks", 2, "block_size=2 must be a multiple of 4"),
        ("representatives", 2, "representatives=3 must be at most block_size=2"),
    ],
)
def test_wrong_rules_are_named(name, size, message):
    with pytest.raises(ValueError, match=message):
        parse_rules([name], [size], 256, 2048)
