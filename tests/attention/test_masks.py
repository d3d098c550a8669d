# SPDX-License-Identifier: Apache-2.0
"""The layout read from transformers' masks, against the dense mask that transformers itself would build."""

import pytest
import torch
from transformers.masking_utils import (
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
)

import hylora  # noqa: F401  registers the mask function
from hylora.attention import CachedKeys, Prefill
from tests.tiny import tiny_llama

EMBEDS = torch.zeros(2, 10, 32)


def config(name, **overrides):
    return tiny_llama(attn_implementation=name, **overrides).config


def dense_mask(layout):
    """[B, L, L] bool: causal inside each of the layout's sequences."""
    mask = torch.zeros(layout.batch, layout.length, layout.length, dtype=torch.bool)
    for row, start, length in layout.sequences:
        mask[row, start : start + length, start : start + length] = torch.ones(length, length).tril().bool()
    return mask


def both(**arguments):
    ours = create_causal_mask(config=config("se_attn"), inputs_embeds=EMBEDS, past_key_values=None, **arguments)
    theirs = create_causal_mask(
        config=config("sdpa"), inputs_embeds=EMBEDS, past_key_values=None, allow_is_causal_skip=False, **arguments
    )
    assert isinstance(ours, Prefill)
    return ours.layout, theirs[:, 0]


def test_no_padding_is_dense():
    layout, theirs = both(attention_mask=None)
    assert layout.is_dense
    assert torch.equal(dense_mask(layout), theirs)


@pytest.mark.parametrize("rows", [([0] * 3 + [1] * 7, [1] * 10), ([1] * 4 + [0] * 6, [0] * 9 + [1])], ids=str)
def test_padding(rows):
    attention_mask = torch.tensor(rows)
    layout, theirs = both(attention_mask=attention_mask)
    real = attention_mask.bool()
    # Rows of padded queries are undefined in transformers' mask; what counts is what real queries see.
    assert torch.equal(dense_mask(layout)[real], theirs[real])


def test_packed_positions():
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]])
    layout, theirs = both(attention_mask=None, position_ids=position_ids)
    assert layout.sequences == ((0, 0, 3), (0, 3, 5), (0, 8, 2), (1, 0, 9), (1, 9, 1))
    assert torch.equal(dense_mask(layout), theirs)


def test_padding_inside_a_sequence_is_refused():
    with pytest.raises(ValueError, match="padding"):
        both(attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 10]))


def test_sliding_window_mask_is_refused():
    arguments = {"inputs_embeds": EMBEDS, "attention_mask": None, "past_key_values": None}
    with pytest.raises(ValueError, match="unknown kind of mask"):
        create_sliding_window_causal_mask(config=config("se_attn", sliding_window=4), **arguments)


def test_chunked_mask_becomes_separate_sequences():
    layout = create_chunked_causal_mask(
        config=config("se_attn", attention_chunk_size=4),
        inputs_embeds=EMBEDS,
        attention_mask=None,
        past_key_values=None,
    ).layout
    assert layout.sequences[:3] == ((0, 0, 4), (0, 4, 4), (0, 8, 2))


def test_masks_added_by_a_model_are_refused():
    with pytest.raises(ValueError, match="mask of its own"):
        both(attention_mask=None, or_mask_function=lambda batch, head, q, kv: kv < 3)


def test_queries_after_a_cache_get_full_attention():
    from transformers import DynamicCache

    model = tiny_llama(attn_implementation="se_attn")
    cache = DynamicCache(config=model.config)
    model(torch.arange(6)[None], past_key_values=cache)
    mask = create_causal_mask(
        config=model.config, inputs_embeds=EMBEDS[:1, :2], attention_mask=None, past_key_values=cache
    )
    assert isinstance(mask, CachedKeys)
    assert torch.equal(mask.mask, torch.ones(1, 1, 2, 8, dtype=torch.bool).tril(6))
