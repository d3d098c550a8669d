# SPDX-License-Identifier: Apache-2.0
"""Rules compared: hits and mass counted by hand, controls at their known values, and what a model's calls show."""

from __future__ import annotations

import json

import pytest
import torch

import hylora
import hylora.attention.functions as functions
import hylora_eval.retrieval.comparison as comparison
import hylora_eval.retrieval.rules as rules_module
from hylora_eval.recall import RecallSequence
from hylora_eval.retrieval import Needles, Rule, Sample, compare_rules, parse_rules, retrieval_hit_rate
from hylora_eval.retrieval.capture import AttentionCall, observe_attention
from hylora_eval.retrieval.mass import attention_weights
from hylora_kernels import select_blocks
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2

SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16}
# (source, answer): chunks start at 0, 16, 32 and 48; the answer at 48 is asked by token 47, in the chunk of 32.
PAIRS = ((1, 20), (9, 48), (25, 50), (33, 60), (52, 62), (3, 12))


def sequence(*pairs, length=64, seed=0):
    """Random tokens in which each (source, answer) pair of positions holds the same token."""
    ids = torch.randint(96, (length,), generator=torch.Generator().manual_seed(seed))
    for source, answer in pairs:
        ids[answer] = ids[source]
    sources, answers = torch.tensor(pairs).T
    return RecallSequence(ids, answers, sources)


def sample(*pairs, **options):
    drawn = sequence(*pairs, **options)
    return Sample(drawn.input_ids, Needles.of_recall(drawn))


def span_model(build=tiny_bamba, **options):
    model = build()
    hylora.set_attention(model, "se_attn", **{**SPAN, **options})
    return model


def small_rules(*names, read=8):
    return parse_rules(names, [4], read, 16)


def choose(monkeypatch, selected):
    """Let every layer of every sequence retrieve these blocks: [KV heads][selections][top_k]."""
    monkeypatch.setattr(rules_module, "select_blocks", lambda *row, **arguments: [torch.tensor(selected)])


def test_hits_are_counted_by_hand(monkeypatch):
    # Beyond their chunks: block 0 from chunk 1, block 2 from chunk 2, blocks 6 and 8 from chunk 3.
    choose(monkeypatch, [[[-1, -1], [0, 3], [1, 3], [6, 8]], [[-1, -1], [2, 1], [2, 0], [8, 1]]])
    result = retrieval_hit_rate(span_model(), [sequence(*PAIRS)])
    assert (result.queries, result.queries_in_chunk, result.rule) == (4, 2, "own")
    assert [layer.layer for layer in result.layers] == [1, 3]
    assert result.layers[0].heads == (0.75, 0.5)
    assert result.hit_rate == result.layers[1].hit_rate == 0.625
    assert result.chance == pytest.approx((2 / 4 + 2 / 8 + 2 / 12 + 2 / 12) / 4)
    assert result.standard_error is result.mass is result.other_query is None
    assert result.options["top_k"] == 2


def test_under_causal_selection_each_group_has_its_own(monkeypatch):
    selected = torch.full((2, 8, 2), -1)
    selected[:, 2, 0] = 0  # token 19, which predicts the answer at 20, is in the third group of 8
    choose(monkeypatch, selected.tolist())
    result = retrieval_hit_rate(span_model(selection="causal", query_group=8), [sequence(*PAIRS)])
    assert result.hit_rate == 0.25


def test_a_block_across_the_chunks_start_is_missed(monkeypatch):
    # Chunks of 18: token 17 lies before the chunk at 18, in block 4, which ends only at 20.
    choose(monkeypatch, [[[4, 0]] * 4] * 2)
    result = retrieval_hit_rate(span_model(chunk_size=18), [sequence((17, 20), (2, 21))])
    assert result.chance == pytest.approx((0 + 2 / 4) / 2)


def test_sequences_without_needles_before_their_chunk_do_not_count(monkeypatch):
    choose(monkeypatch, [[[0, 1]] * 4] * 2)
    result = retrieval_hit_rate(span_model(), [sequence((52, 62)), sequence((1, 20), (2, 21)), sequence((3, 12))])
    assert (result.samples, result.queries, result.queries_in_chunk) == (1, 2, 2)
    assert result.standard_error is None and (result.attended is None or result.attended.samples == 1)


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


def test_random_blocks_hit_by_chance_and_weigh_by_chance():
    # every answer asks once for each block, so whatever blocks are drawn, the rate is exact
    pairs = [(source, answer) for answer in range(50, 64) for source in range(answer % 3, 48, 4)]
    model = span_model(tiny_llama, retrieval="random", top_k=3)
    result = retrieval_hit_rate(model, [sequence(pair) for pair in pairs], batch_size=64)
    assert result.chance == pytest.approx(3 / 12)
    assert result.hit_rate == pytest.approx(3 / 12)
    model = span_model(tiny_llama, retrieval="random", selection="token", top_k=3)
    own = compare_rules(model, [sample(*PAIRS, seed=seed) for seed in range(30)], [Rule("own", None)]).rules[0]
    assert own.mass == pytest.approx(own.mass_of_random, abs=4 * own.mass_standard_error + 1e-3)
    assert own.mass_standard_error < 0.02


def test_batches_do_not_change_the_result():
    model = span_model(summary="mean_key")
    sequences = [sequence(*PAIRS, seed=seed) for seed in range(5)] + [sequence((1, 20), length=40)]
    one, many = retrieval_hit_rate(model, sequences, 1), retrieval_hit_rate(model, sequences, 4)
    assert one == many
    assert 0 < one.hit_rate < 1


def test_full_attention_and_enough_blocks_bound_every_rule():
    model = tiny_llama()
    rules = small_rules("published", "mean_key/max", "mean_key", "min_max", "sub_blocks", "oracle/chunk", "oracle")
    found = compare_rules(model, [sample(*PAIRS, seed=seed) for seed in range(3)], rules)
    *others, oracle = found.rules
    assert all(rule.mass <= oracle.mass < 1 and 0 < rule.mass_of_random < oracle.mass for rule in others)
    assert len({rule.mass_of_candidates for rule in found.rules}) == 1
    assert [rule.other_query is None for rule in found.rules] == [True, True, False, False, False, True, False]
    (everything,) = compare_rules(model, [sample(*PAIRS)], small_rules("mean_key", read=64)).rules
    assert everything.hit_rate == everything.other_query == 1 and everything.mass is None


def test_mass_is_that_of_a_dense_softmax():
    model, calls, choices = tiny_llama(num_hidden_layers=1), [], []
    asked = sample(*PAIRS)
    with observe_attention(model, calls.extend), torch.no_grad():
        model(asked.input_ids[None])
    (found,) = compare_rules(model, [asked], small_rules("mean_std"), tokens=20, observe=choices.append).rules
    ((call,), (chosen,)) = calls, choices
    weights = attention_weights(call, call.query[:, chosen.positions], chosen.positions)
    retrieved = candidates = 0.0
    for head in range(len(call.key)):
        for index, token in enumerate(chosen.positions.tolist()):
            blocks = [block for block in chosen.blocks[head, index].tolist() if block >= 0]
            mass = sum(float(weights[head, index, 4 * block : 4 * block + 4].sum()) for block in blocks)
            assert float(chosen.mass[head, index]) == pytest.approx(mass, abs=1e-6)
            if token >= 16:  # all later chunks have more than two blocks to choose from
                retrieved += mass
                candidates += float(weights[head, index, : token // 16 * 16].sum())
    assert found.mass == pytest.approx(retrieved / candidates, abs=1e-5)
    assert len(chosen.positions) == 20 and chosen.positions[-1] == 63
    rows = [json.loads(json.dumps(row)) for row in chosen.rows()]
    assert len(rows) == 20 * len(call.key)
    assert rows[-1]["token"] == 63 and rows[-1]["blocks"] == chosen.blocks[-1, -1].tolist()


MODELS = {
    "bamba": tiny_bamba,
    "llama with as many KV heads": lambda: tiny_llama(num_key_value_heads=4),
    "qwen2 with windows": tiny_qwen2,
    # Blocks that layers share draw the same random blocks in all of them.
    "zamba2": lambda: ZOO["zamba2"].build(),
    "nemotron_h": lambda: ZOO["nemotron_h"].build(),
}
WAYS = {
    "published": {},
    "causal": {"selection": "causal", "query_group": 4, "summary": "mean_key"},
    "random": {"retrieval": "random", "seed": 3},
}


@pytest.mark.parametrize(
    ("model", "way"),
    [
        *(("bamba", way) for way in WAYS),
        ("llama with as many KV heads", "published"),
        ("zamba2", "random"),
        ("nemotron_h", "published"),
        ("qwen2 with windows", "published"),
    ],
)
def test_own_choices_are_those_of_each_layers_attention(monkeypatch, model, way):
    network = MODELS[model]()
    hylora.set_attention(network, "se_attn", **{**SPAN, "chunk_size": (8, 16)}, **WAYS[way])
    computed, choices = [], []

    def attend(query, key, value, options, **arguments):
        given = {"layout": arguments["layout"], "scale": arguments["scale"]}
        computed.append(select_blocks(query, key, value, options, **given, backend="reference")[0])
        return original(query, key, value, options, **arguments)

    original = functions.span_attention
    monkeypatch.setattr(functions, "span_attention", attend)
    ids = torch.randint(96, (53,), generator=torch.Generator().manual_seed(0))
    compare_rules(network, [Sample(ids)], [Rule("own", None)], observe=choices.append)
    assert [each.layer for each in choices] == hylora.architecture.full_attention_layers(network.config)
    size = 4 if way == "causal" else 16
    for each, expected in zip(choices, computed, strict=True):
        assert torch.equal(each.blocks, expected[:, each.positions // size])


def test_looking_changes_nothing_and_goes_away_even_after_an_error(monkeypatch):
    model, asked = span_model().train(), sample(*PAIRS)
    before = model.eval()(asked.input_ids[None]).logits
    model.train()
    one, two = (compare_rules(model, [asked], small_rules("min_max", "own")) for _ in range(2))
    assert model.training and one == two

    def fail(*args, **kwargs):
        raise RuntimeError("inside")

    monkeypatch.setattr(rules_module, "select_blocks", fail)
    with pytest.raises(RuntimeError, match="inside"):
        compare_rules(model, [asked], [Rule("own", None)])
    torch.testing.assert_close(model.eval()(asked.input_ids[None]).logits, before, rtol=0, atol=0)


def test_only_the_model_that_is_looked_at_is_observed():
    looked_at, other = tiny_llama(), tiny_llama()
    seen = []
    with observe_attention(looked_at, seen.append), torch.no_grad():
        other(torch.arange(40)[None])
        assert not seen
        looked_at(torch.arange(40)[None])
    assert len(seen) == len(hylora.architecture.attention_layers(looked_at.config))


def test_a_comparison_is_plain_json():
    found = compare_rules(tiny_llama(), [sample(*PAIRS)], small_rules("published", "min_max")).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert [rule["rule"] for rule in found["rules"]] == ["published", "min_max"]


def test_a_sample_without_distant_needles_counts_nothing():
    model = tiny_llama()
    one = compare_rules(model, [sample(*PAIRS)], small_rules("min_max", "published", "sub_blocks", "oracle/chunk"))
    two = compare_rules(
        model,
        [sample((50, 52)), sample(*PAIRS)],
        small_rules("min_max", "published", "sub_blocks", "oracle/chunk"),
    )
    for first, second in zip(one.rules, two.rules, strict=True):
        assert (second.hit_rate, second.other_query) == (first.hit_rate, first.other_query)
        assert (first.queries_in_chunk, second.queries_in_chunk) == (2, 3)


def without_needles(length=64):
    return Sample(torch.arange(length) % 96)


def test_text_without_needles_has_mass_alone():
    found = compare_rules(tiny_llama(), [without_needles()], small_rules("min_max"))
    assert found.rules[0].hit_rate is None and 0 < found.rules[0].mass < 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "0 samples, 1 rules"),
        ([sample(*PAIRS), without_needles()], "1 of 2 samples have needles"),
        ([without_needles(16)], r"16 tokens, all in its first chunk \(chunk_size=16\)"),
        ([sample((50, 52))], r"further back than its own chunk \(chunk_size=16\)"),
    ],
)
def test_samples_that_show_nothing_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        compare_rules(tiny_llama(), samples, small_rules("min_max"))


def test_other_attention_has_no_rule_of_its_own_and_eager_attention_cannot_be_observed():
    with pytest.raises(ValueError, match="'sdpa', which retrieves nothing"):
        retrieval_hit_rate(tiny_llama(), [sequence(*PAIRS)])
    model = tiny_llama()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="'eager', which cannot be observed"):
        compare_rules(model, [sample(*PAIRS)], small_rules("min_max"))


def call_of_one_layer(monkeypatch, query, key):
    """Let the model's only layer compute with these."""
    call = AttentionCall(query, key, key, 1.0)
    monkeypatch.setattr(comparison, "_read", lambda model, batch, layers, first, look: look(call, first, 0))
    return tiny_llama(num_hidden_layers=1)


def test_needles_that_full_attention_finds_are_counted_apart(monkeypatch):
    """The first KV head looks at the first needle, in block 2 of 4 tokens, the second at none."""
    query, key = torch.zeros(2, 64, 8), torch.zeros(2, 64, 8)
    query[0, 60], query[0, 59], key[0, 9] = 1.0, -1.0, 9.0
    model = call_of_one_layer(monkeypatch, query, key)
    needles = Needles(torch.tensor([60, 60, 60]), torch.tensor([9, 21, 50]), torch.tensor([11, 22, 51]))
    asked = Sample(torch.zeros(64, dtype=torch.long), needles)
    mean_key, published = compare_rules(model, [asked], small_rules("mean_key", "published", read=4), tokens=0).rules
    for rule in (mean_key, published):
        # The third needle lies in the last chunk.
        assert (rule.attended.samples, rule.attended.pairs, rule.attended.share) == (1, 1, 1 / 4)
        assert rule.attended.chance == pytest.approx(1 / 12) and rule.attended.outliers == 1
    assert mean_key.attended.hit_rate == 1 and mean_key.hit_rate == 1 / 4
    # Other queries, of zeros or less, choose the first block.
    assert mean_key.attended.other_query == 0 and published.attended.other_query is None
    assert mean_key.layers[0].heads == (0.5, 0.0) and mean_key.layers[0].attended == mean_key.attended


def test_an_outlier_is_found_among_its_block(monkeypatch):
    """Both heads look at token 21; the key of the first stands out, three others do in the block of the second."""
    key = 0.01 * torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    key[:, 21, 0] += 1
    key[1, [16, 17, 18], 1] += torch.tensor([3.0, -3.0, 4.0])
    query = torch.zeros(2, 64, 8)
    query[:, 63, 0] = 9.0
    model = call_of_one_layer(monkeypatch, query, key)
    asked = Sample(torch.zeros(64, dtype=torch.long), Needles.at_end(64, [(20, 23)]))
    (rule,) = compare_rules(model, [asked], parse_rules(["mean_key"], [16], 16, 48), tokens=0).rules
    assert rule.attended.pairs == 2 and rule.attended.outliers == 1 / 2
