# SPDX-License-Identifier: Apache-2.0
"""The layout read from transformers' masks, against the dense mask that transformers itself would build."""

import pytest
import torch
from transformers import DynamicCache
from transformers.masking_utils import (
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

import hylora  # noqa: F401  registers the mask function
from hylora.attention import CachedKeys, Prefill, span_mask
from tests.tiny import tiny_llama, tiny_qwen2

EMBEDS = torch.zeros(2, 10, 32)


def config(name, **overrides):
    return tiny_llama(attn_implementation=name, **overrides).config


def dense_mask(prefill):
    """[B, L, L] bool: causal inside each of the layout's sequences, up to the window."""
    layout, window = prefill.layout, prefill.window or prefill.layout.length
    mask = torch.zeros(layout.batch, layout.length, layout.length, dtype=torch.bool)
    for row, start, length in layout.sequences:
        band = torch.ones(length, length).tril().triu(1 - window).bool()
        mask[row, start : start + length, start : start + length] = band
    return mask


def both(window=None, **arguments):
    create = create_causal_mask if window is None else create_sliding_window_causal_mask
    arguments |= {"inputs_embeds": EMBEDS, "past_key_values": None}
    ours = create(config=config("se_attn", sliding_window=window), **arguments)
    theirs = create(config=config("sdpa", sliding_window=window), allow_is_causal_skip=False, **arguments)
    assert isinstance(ours, Prefill)
    assert ours.window == window
    return ours, theirs[:, 0]


windows = pytest.mark.parametrize("window", [None, 2, 4, 10, 11])


@windows
def test_no_padding_is_dense(window):
    ours, theirs = both(window, attention_mask=None)
    assert ours.layout.is_dense
    assert torch.equal(dense_mask(ours), theirs)


@windows
@pytest.mark.parametrize("rows", [([0] * 3 + [1] * 7, [1] * 10), ([1] * 4 + [0] * 6, [0] * 9 + [1])], ids=str)
def test_padding(rows, window):
    attention_mask = torch.tensor(rows)
    ours, theirs = both(window, attention_mask=attention_mask)
    real = attention_mask.bool()
    # Rows of padded queries are undefined in transformers' mask; what counts is what real queries see.
    assert torch.equal(dense_mask(ours)[real], theirs[real])


@windows
def test_packed_positions(window):
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]])
    ours, theirs = both(window, attention_mask=None, position_ids=position_ids)
    assert ours.layout.sequences == ((0, 0, 3), (0, 3, 5), (0, 8, 2), (1, 0, 9), (1, 9, 1))
    assert torch.equal(dense_mask(ours), theirs)


def test_windows_draw_nothing():
    """So that what full attention draws does not depend on the layers beside it."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    both(4, attention_mask=None)
    assert torch.equal(torch.get_rng_state(), before)
    both(attention_mask=None)
    assert not torch.equal(torch.get_rng_state(), before)


def test_padding_inside_a_sequence_is_refused():
    with pytest.raises(ValueError, match="padding"):
        both(attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 10]))


@pytest.mark.parametrize(
    "mask_function",
    [
        sliding_window_causal_mask_function(3),
        sliding_window_causal_mask_function(5),
        sliding_window_bidirectional_mask_function(4),
    ],
    ids=["narrower", "wider", "both directions"],
)
@pytest.mark.parametrize("local_size", [None, 4])
def test_masks_that_show_anything_but_the_models_own_window_are_refused(mask_function, local_size):
    given = {"config": config("se_attn", sliding_window=4), "local_size": local_size}
    with pytest.raises(ValueError, match="unknown kind of mask"):
        span_mask(2, 10, 10, mask_function=mask_function, **given)


def test_chunked_mask_becomes_separate_sequences():
    prefill = create_chunked_causal_mask(
        config=config("se_attn", attention_chunk_size=4),
        inputs_embeds=EMBEDS,
        attention_mask=None,
        past_key_values=None,
    )
    assert prefill.layout.sequences[:3] == ((0, 0, 4), (0, 4, 4), (0, 8, 2))
    assert prefill.window is None


def test_masks_added_by_a_model_are_refused():
    with pytest.raises(ValueError, match="mask of its own"):
        both(attention_mask=None, or_mask_function=lambda batch, head, q, kv: kv < 3)


def test_queries_after_a_cache_get_full_attention():
    model = tiny_llama(attn_implementation="se_attn")
    cache = DynamicCache(config=model.config)
    model(torch.arange(6)[None], past_key_values=cache)
    mask = create_causal_mask(
        config=model.config, inputs_embeds=EMBEDS[:1, :2], attention_mask=None, past_key_values=cache
    )
    assert isinstance(mask, CachedKeys)
    assert torch.equal(mask.mask, torch.ones(1, 1, 2, 8, dtype=torch.bool).tril(6))


def test_queries_after_a_cache_keep_their_window():
    model = tiny_qwen2(attn_implementation="se_attn", sliding_window=4)
    cache = DynamicCache(config=model.config)
    model(torch.arange(6)[None], past_key_values=cache)
    arguments = {"inputs_embeds": EMBEDS[:1, :2], "attention_mask": None, "past_key_values": cache}
    mask = create_sliding_window_causal_mask(config=model.config, **arguments).mask
    # Keys 3 to 7, of which the first query is the seventh token.
    assert torch.equal(mask[0, 0], torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]).bool())
