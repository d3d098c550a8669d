# SPDX-License-Identifier: Apache-2.0
"""Needles: their blocks, the chance to hit them, and hits where the right block is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from hylora.demo.miniature import load_tokenizer
from hylora_eval import ruler
from hylora_eval.retrieval import Needles, Rule, parse_rules
from hylora_eval.retrieval.capture import AttentionCall
from hylora_eval.retrieval.needles import NeededBlocks
from hylora_eval.retrieval.samples import NEEDLE_TASKS, needle_samples
from hylora_kernels.options import SpanOptions

OPTIONS = {
    "block_size": 4, "top_k": 2, "chunk_size": 16, "selection": "chunk", "query_group": 8,
    "retrieval": "relevance", "summary": "mean_key", "seed": 0,
}  # fmt: skip


def needed_blocks(spans, query, **changes):
    spans = torch.tensor(spans)
    needles = Needles(torch.full((len(spans),), query), spans[:, 0], spans[:, 1])
    return NeededBlocks.of(needles, SpanOptions(**{**OPTIONS, **changes}))


def test_blocks_of_needles_that_reach_over_several():
    # token 40 is in the chunk that starts at 32: the fourth needle begins in it, the third ends in it
    needed = needed_blocks([(3, 4), (6, 13), (30, 35), (33, 36)], query=40)
    assert needed.blocks.tolist() == [[0, -1, -1], [1, 2, 3], [7, -1, -1]]
    assert needed.queries.tolist() == [40, 40, 40] and needed.in_chunk == 1
    assert needed.starts.tolist() == [3, 6, 30] and needed.stops.tolist() == [4, 13, 32]


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}, {"top_k": 20}, {"top_k": 0}, {"chunk_size": 18}])
def test_chances_equal_the_count_of_all_draws(changes):
    options = SpanOptions(**{**OPTIONS, **changes})
    needed = needed_blocks([(3, 4), (6, 13), (30, 38), (2, 3), (17, 20)], query=40, **changes)
    candidates = 40 // options.chunk_size * options.chunk_size // options.block_size
    draws = list(combinations(range(candidates), min(options.top_k, candidates)))
    for blocks, any_of, all_of in zip(needed.blocks, needed.chances, needed.chances_of_all, strict=True):
        wanted = {*blocks[blocks >= 0].tolist()}
        assert float(any_of) == pytest.approx(sum(bool(wanted & {*draw}) for draw in draws) / len(draws))
        assert float(all_of) == pytest.approx(sum(wanted <= {*draw} for draw in draws) / len(draws))


def test_any_and_all_blocks_of_a_needle_are_counted_apart():
    needed = needed_blocks([(3, 4), (6, 13), (29, 31)], query=40, top_k=3)
    retrieved = torch.empty(2, 3, 3, dtype=torch.long)
    retrieved[0] = torch.tensor([0, 1, 2])  # the first needle, and two of three blocks of the second
    retrieved[1] = torch.tensor([3, 2, 1])  # all of the second
    retrieved[:, 2] = -1  # what the third retrieves
    any_of, all_of = needed.hits(retrieved)
    assert any_of.sum(1).tolist() == [2, 1] and all_of.sum(1).tolist() == [1, 1]


def planted(block, length=64):
    """A call in which the last chunk's queries point to the keys of one block, which full attention weighs most."""
    draw = torch.Generator().manual_seed(0)
    query, key = 0.1 * torch.randn(4, length, 8, generator=draw), 0.1 * torch.randn(2, length, 8, generator=draw)
    query[:, 48:, 0] += 3
    key[:, 4 * block : 4 * block + 4, 0] += 3
    return AttentionCall(query, key, key, 8**-0.5)


@pytest.mark.parametrize("name", ["mean_key", "mean_std", "min_max/max", "gaussian", "oracle", "oracle/chunk"])
def test_a_planted_block_is_always_hit(name):
    (rule,) = parse_rules([name], [4], 4, 16)
    asked = torch.tensor([63])
    for block in range(12):
        chosen = rule.chooser(planted(block))(asked, asked)
        for of_block, expected in ((block, [1, 1]), ((block + 5) % 12, [0, 0])):
            needles = Needles.at_end(64, [(4 * of_block + 1, 4 * of_block + 3)])
            any_of, all_of = NeededBlocks.of(needles, rule.options).hits(chosen)
            assert any_of.squeeze(1).tolist() == all_of.squeeze(1).tolist() == expected


def test_random_blocks_hit_a_planted_one_by_chance():
    needles, draws, asked, hits = Needles.at_end(64, [(21, 23)]), 100, torch.tensor([63]), 0
    for seed in range(draws):
        options = SpanOptions(**{**OPTIONS, "retrieval": "random", "top_k": 3, "seed": seed})
        call = replace(planted(5), own=options)
        hits += int(NeededBlocks.of(needles, options).hits(Rule("own", None).chooser(call)(asked, asked))[0].sum())
    chance = float(NeededBlocks.of(needles, options).chances[0])
    assert chance == pytest.approx(3 / 12)
    assert hits / (2 * draws) == pytest.approx(chance, abs=4 * (chance * (1 - chance) / (2 * draws)) ** 0.5)


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multivalue", "vt"])
def test_needles_of_ruler_stand_where_the_tokens_say(task):
    tokenizer = load_tokenizer()
    samples = needle_samples(task, tokenizer, 1000, samples=3, seed=7)
    records = ruler.generate(task, tokenizer, 1000, 3, 7)
    for sample, record in zip(samples, records, strict=True):
        assert tokenizer.decode(sample.input_ids) == record.prompt
        assert (sample.needles.queries == len(sample.input_ids) - 1).all()
        pieces = [
            tokenizer.decode(sample.input_ids[start:stop])
            for start, stop in zip(sample.needles.starts, sample.needles.stops, strict=True)
        ]
        assert len(pieces) == len(record.evidence) >= 1
        for piece, (start, stop) in zip(pieces, record.evidence, strict=True):
            assert record.input[start:stop] in piece
        assert all(any(answer in piece for piece in pieces) for answer in record.outputs)


def test_needles_of_recall_repeat_their_answers():
    samples = needle_samples("recall", load_tokenizer(), 128, samples=2, seed=1)
    others = needle_samples("recall", load_tokenizer(), 128, samples=2, seed=2)
    assert not torch.equal(samples[0].input_ids, others[0].input_ids)
    for sample in samples:
        ids, needles = sample.input_ids, sample.needles
        assert len(ids) == 127 and torch.equal(ids[needles.queries + 1], ids[needles.starts])


def test_needles_of_facts_repeat_their_answers_over_text():
    tokenizer = load_tokenizer()
    for sample in needle_samples("facts", tokenizer, 400, samples=2, seed=1):
        ids, needles = sample.input_ids, sample.needles
        assert len(ids) == 400 and len(needles.queries) == 8
        assert torch.equal(ids[needles.queries + 1], ids[needles.starts])
        assert (needles.stops == needles.starts + 2).all()
        assert torch.equal(ids[needles.queries], ids[needles.starts - 1])
        # 19 facts, of which 8 come again, each with its sign.
        assert int((ids == tokenizer.convert_tokens_to_ids("\u0120#")).sum()) >= 27


def test_only_tasks_with_needles_are_accepted():
    assert {"recall", "facts", "niah_multikey_3", "vt"} <= {*NEEDLE_TASKS} and "cwe" not in NEEDLE_TASKS
    with pytest.raises(ValueError, match="'cwe' has no needles"):
        needle_samples("cwe", load_tokenizer(), 512)
