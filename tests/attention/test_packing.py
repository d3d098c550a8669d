# SPDX-License-Identifier: Apache-2.0
"""Where boundaries of packed sequences are read, and which of them cannot be kept."""

import pytest
import torch

import hylora
from hylora.attention.masks import Prefill
from hylora.attention.packing import settle_packing
from hylora_kernels import SequenceLayout
from tests.architectures.checks import SMALL, assert_same, logits, tokens, with_attention
from tests.architectures.kernels import boundary_kernels
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_llama

POSITIONS = torch.cat([torch.arange(20), torch.arange(25)])[None]
SEQ_IDX = torch.tensor([[0] * 20 + [1] * 25], dtype=torch.int32)
CU_SEQ_LENS = torch.tensor([0, 20, 45])


def settled(layout, model_type="llama", **arguments):
    prefill = Prefill(layout, None)
    query = torch.zeros(layout.batch, 4, layout.length, 8)
    return settle_packing("se_attn", ZOO[model_type].build().config, query, prefill, arguments).sequences


def test_seq_idx_divides_what_the_mask_calls_one_sequence():
    padded = SequenceLayout(2, 9, ((0, 2, 7), (1, 0, 9)))
    seq_idx = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 2, 2, 2, 2, 2]])
    assert settled(padded, seq_idx=seq_idx) == ((0, 2, 3), (0, 5, 4), (1, 0, 3), (1, 3, 1), (1, 4, 5))


def test_a_transformer_keeps_what_seq_idx_tells_apart():
    # Keys carry positions and so do queries; values, which the published summary is made of, do not.
    model = with_attention(ZOO["llama"], **{**SMALL, "summary": "mean_key"})
    ids = tokens()
    packed = logits(model, ids, seq_idx=SEQ_IDX)
    assert_same(packed[:, :20], logits(model, ids[:, :20]))
    assert_same(packed[:, 20:], logits(model, ids[:, 20:]))


def test_seq_idx_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"seq_idx has shape \(1, 8\).*\[1, 9\]"):
        settled(SequenceLayout.dense(1, 9), seq_idx=torch.zeros(1, 8, dtype=torch.int32))


def test_boundaries_that_contradict_each_other_are_refused():
    model = with_attention(ZOO["llama"])
    with pytest.raises(ValueError, match="cu_seq_lens_q=.* other boundaries"):
        logits(model, tokens(), seq_idx=SEQ_IDX, cu_seq_lens_q=torch.tensor([0, 30, 45]))
    with pytest.raises(ValueError, match="position_ids of row 0 restart"):
        logits(model, tokens(), seq_idx=torch.zeros_like(SEQ_IDX), position_ids=POSITIONS, use_cache=True)


@pytest.mark.parametrize(
    ("model_type", "arguments", "message"),
    [
        ("bamba", {}, "told of boundaries by seq_idx"),
        ("bamba", {"seq_idx": SEQ_IDX}, "kernels of causal_conv1d and mamba_ssm"),
        ("lfm2", {"seq_idx": SEQ_IDX}, "the kernels of causal_conv1d to"),
        ("qwen3_next", {"seq_idx": SEQ_IDX}, "by seq_idx and cu_seq_lens_q"),
        (
            "olmo_hybrid",
            {"seq_idx": SEQ_IDX, "cu_seq_lens_q": CU_SEQ_LENS},
            "kernels of causal_conv1d and fla",
        ),
        ("jamba", {"seq_idx": SEQ_IDX, "cu_seq_lens_q": CU_SEQ_LENS}, "nothing tells"),
    ],
)
def test_what_recurrent_layers_lack_is_named(model_type, arguments, message):
    packed = SequenceLayout(1, 45, ((0, 0, 20), (0, 20, 25)))
    with pytest.raises(ValueError, match=f"recurrent layers would carry state .*{message}"):
        settled(packed, model_type, **arguments)


def test_granite_reads_positions_nowhere_and_seq_idx_everywhere():
    """Positions that restart pass unseen, as under full attention."""
    model = ZOO["granitemoehybrid"].build()
    for name in ("full", "se_attn"):
        hylora.set_attention(model, name)
        assert torch.equal(logits(model, tokens(), position_ids=POSITIONS), logits(model, tokens()))
    with pytest.raises(ValueError, match="cu_seq_lens_q=.* other boundaries"):
        logits(model, tokens(), position_ids=POSITIONS, cu_seq_lens_q=CU_SEQ_LENS)
    with boundary_kernels(model):
        apart = logits(model, tokens(), position_ids=POSITIONS, seq_idx=SEQ_IDX)
    assert_same(apart[:, 20:], logits(model, tokens()[:, 20:]))


def test_a_cache_hides_boundaries_and_the_positions_give_them_away():
    model = tiny_llama(attn_implementation="se_attn")
    with pytest.raises(ValueError, match="use_cache=False"):
        model(tokens(), position_ids=POSITIONS, use_cache=True)
