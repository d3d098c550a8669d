# SPDX-License-Identifier: Apache-2.0
"""Bad input is refused by name."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, select_blocks, shifted_sparse_attention, sliding_window_attention
from hylora_kernels import span_attention as span
from tests.kernels.inputs import random_inputs

FUNCTIONS = [span, select_blocks, sliding_window_attention, shifted_sparse_attention]
Q, K, V = random_inputs(2, 4, 2, 8)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((Q[0], K, V), r"must be \[batch, heads, length, head_dim\]"),
        ((Q, K, V[:, :1]), "must agree in batch, heads and length"),
        ((Q[:1], K, V), "agree in batch, length and head_dim"),
        ((Q[:, :, 1:], K, V), "agree in batch, length and head_dim"),
        ((Q[..., 1:], K, V), "agree in batch, length and head_dim"),
        ((Q[:, :3], K, V), "3 query heads cannot be shared out evenly among 2 key heads"),
        ((Q, K[:, :0], V[:, :0]), "among 0 key heads"),
        ((Q, K, V.float()), "one floating dtype, got torch.float64, torch.float64, torch.float32"),
        ((Q.long(), K.long(), V.long()), "one floating dtype"),
        ((Q, K.to("meta"), V.to("meta")), "use one device"),
    ],
)
def test_tensors_that_do_not_belong_together(function, inputs, message):
    with pytest.raises(ValueError, match=message):
        function(*inputs)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_layout_for_another_shape(function):
    with pytest.raises(ValueError, match=r"batch=1, length=8\] but query has \[batch=2, length=8"):
        function(Q, K, V, layout=SequenceLayout.dense(1, 8))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_unknown_backend(function):
    with pytest.raises(ValueError, match="backend='torhc' must be one of .*; did you mean 'torch'"):
        function(Q, K, V, backend="torhc")


@pytest.mark.parametrize("function", [span, select_blocks])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size=0 must be an integer of at least 1"),
        ({"block_size": 8, "chunk_size": 4}, "block_size=8 must be at most chunk_size=4"),
        ({"top_k": -1}, "top_k=-1 must be an integer of at least 0"),
        ({"top_k": 2.0}, "top_k=2.0 must be an integer"),
        ({"chunk_size": (2, 4)}, r"chunk_size=\(2, 4\) must be an integer"),
        ({"chunk_size": True}, "chunk_size=True must be an integer"),
        ({"query_group": 0}, "query_group=0 must be an integer of at least 1"),
        ({"selection": "causal", "query_group": 48}, "chunk_size=4096 must be a multiple of query_group=48"),
        (
            {"selection": "chunks"},
            "selection='chunks' must be one of 'chunk', 'token', .*; did you mean 'chunk'",
        ),
        ({"retrieval": "relevant"}, "did you mean 'relevance'"),
        ({"summary": "mean-key"}, "did you mean 'mean_key'"),
        ({"summary": None}, "summary=None must be one of 'attention', 'landmark', 'mean_key'"),
        ({"pooling": "mean"}, "pooling='mean' must be one of 'sum', 'max'"),
        ({"pooling": "max", "selection": "token"}, "use selection='chunk', or pooling='sum'"),
        ({"summary": "representatives", "representatives": 33}, "representatives=33 must be at most block_size=32"),
        ({"seed": "0"}, "seed='0' must be an integer"),
    ],
)
def test_options_out_of_range(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(Q, K, V, **options)


@pytest.mark.parametrize("function", [span, select_blocks])
def test_an_unknown_option(function):
    with pytest.raises(TypeError, match="blocksize"):
        function(Q, K, V, blocksize=8)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "1"])
def test_a_scale_that_no_softmax_can_use(function, scale):
    with pytest.raises(ValueError, match="scale=.* must be a positive number"):
        function(Q, K, V, scale=scale)


@pytest.mark.parametrize("window", [0, 2.5])
def test_window_out_of_range(window):
    with pytest.raises(ValueError, match=f"window={window} must be"):
        sliding_window_attention(Q, K, V, window=window)


@pytest.mark.parametrize("group", [0, 0.0, 1.5, "1/4", torch.tensor(2)])
def test_group_out_of_range(group):
    with pytest.raises(ValueError, match="group="):
        shifted_sparse_attention(Q, K, V, group=group)
