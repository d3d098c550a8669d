# SPDX-License-Identifier: Apache-2.0
import json
import warnings
from dataclasses import fields

import pytest
from transformers import AutoConfig, BambaConfig

from hylora.attention import SpanConfig
from hylora.language.recipe import AttentionRecipe
from hylora_kernels import SpanOptions


def test_round_trip_through_json():
    config = SpanConfig(chunk_size=(64, 128), block_size=16, summary="mean_key", group=0.5)
    assert SpanConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_one_chunk_size_stays_a_number():
    assert SpanConfig.from_dict(SpanConfig(chunk_size=128).to_dict()).chunk_size == 128


def test_options_travel_in_config_json(tmp_path):
    config, options = BambaConfig(), SpanConfig(top_k=3, chunk_size=(64, 256), summary_dtype="bfloat16")
    options.keep_on(config)
    config.save_pretrained(tmp_path)
    assert SpanConfig.of(AutoConfig.from_pretrained(tmp_path)) == options


def test_options_are_read_once_for_each_content():
    one, other = BambaConfig(), BambaConfig()
    for config in (one, other):
        SpanConfig(top_k=3, chunk_size=(64, 256)).keep_on(config)
    assert SpanConfig.of(one) is SpanConfig.of(other)
    one.span_attention["top_k"] = 4
    assert (SpanConfig.of(one).top_k, SpanConfig.of(other).top_k) == (4, 3)
    one.span_attention["top_k"] = -1
    with pytest.raises(ValueError, match="top_k=-1"):
        SpanConfig.of(one)


def test_the_kernels_get_all_of_their_options():
    given = {"block_size": 16, "top_k": 3, "selection": "causal", "query_group": 8, "retrieval": "random"}
    given = {**given, "summary": "representatives", "seed": 5, "representatives": 2, "pooling": "sum"}
    given["summary_dtype"] = "bfloat16"
    assert given.keys() == {field.name for field in fields(SpanOptions)} - {"chunk_size"}
    config = SpanConfig(chunk_size=(64, 128), **given)
    for size in (64, 128):
        assert config.with_chunks_of(size) == SpanOptions(chunk_size=size, **given)


@pytest.mark.parametrize("group", [0.25, 1.0, 1, 64])
def test_a_fraction_stays_a_fraction_in_json(group):
    loaded = SpanConfig.from_dict(json.loads(json.dumps(SpanConfig(group=group).to_dict()))).group
    assert (loaded, type(loaded)) == (group, type(group))


def test_options_that_are_no_dictionary_are_refused():
    with pytest.raises(ValueError, match="must be a dictionary"):
        SpanConfig.from_dict("top_k=3")


def test_a_config_without_options_gives_the_published_ones():
    config = SpanConfig.of(BambaConfig())
    assert (config.block_size, config.top_k, config.chunk_size) == (32, 8, (2048, 4096))


def test_a_preset_fills_in_what_is_not_given():
    recall = SpanConfig.preset("recall", top_k=3)
    assert (recall.selection, recall.block_size, recall.top_k, recall.summary) == ("token", 16, 3, "mean_std")
    assert SpanConfig.preset("published") == SpanConfig()
    assert SpanConfig.from_dict({"preset": "recall", "top_k": 3}) == recall


def test_a_name_that_stands_for_a_preset_gives_its_options():
    config = BambaConfig(attn_implementation="se_attn_recall")
    assert SpanConfig.of(config) == SpanConfig.preset("recall")
    config.span_attention = {"top_k": 3}
    assert SpanConfig.of(config) == SpanConfig.preset("recall", top_k=3)
    SpanConfig().keep_on(config)
    with pytest.raises(ValueError, match="selection='chunk' contradicts 'se_attn_recall', .*set_attention replaces"):
        SpanConfig.of(config)
    config.span_attention = {"preset": "published"}
    with pytest.raises(ValueError, match="selection='chunk' contradicts 'se_attn_recall'"):
        SpanConfig.of(config)


def test_a_rule_that_finds_nothing_warns():
    with pytest.warns(UserWarning, match="query_group=64 .* finds no needle .* use selection='token'"):
        SpanConfig(selection="causal")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        AttentionRecipe(selection="causal").span.with_chunks_of(2048)
        assert len(caught) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_size": 0}, "block_size=0 must be an integer of at least 1"),
        ({"block_size": 64, "chunk_size": 32}, "block_size=64 must be at most chunk_size=32"),
        ({"block_size": 64, "chunk_size": (128, 32)}, "block_size=64 must be at most chunk_size=32"),
        ({"chunk_size": ()}, "must hold a size"),
        ({"chunk_size": 2048.0}, "chunk_size=2048.0 must be an integer"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": True}, "top_k=True"),
        ({"selection": "tokens"}, "selection='tokens' must be one of 'chunk', 'token', 'causal'"),
        ({"selection": "token", "pooling": "max"}, "selection='token' chooses with fewer"),
        ({"summary": "representatives", "block_size": 2}, "representatives=3 must be at most block_size=2"),
        ({"preset": "recal"}, "preset='recal' must be one of 'published', 'recall'; did you mean 'recall'"),
        ({"preset": "recall", "selection": "chunk"}, "selection='chunk' contradicts 'recall', .* selection='token'"),
        ({"retrieval": "best"}, "retrieval='best'"),
        ({"summary": "max"}, "summary='max'"),
        ({"backend": "cuda"}, "backend='cuda'"),
        ({"selection": "causal", "chunk_size": 100}, "chunk_size=100 must be a multiple of query_group=64"),
        ({"group": 1.5}, "group=1.5"),
        ({"group": 0}, "group=0"),
        ({"window": 0}, "window=0"),
        ({"topk": 8}, "unknown attention option 'topk'; did you mean 'top_k'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_options_are_named(values, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SpanConfig.from_dict(values)
