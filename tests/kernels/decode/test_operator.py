# SPDX-License-Identifier: Apache-2.0
"""A decoding step is one operator of torch, which compiled graphs hold as it is."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from hylora_kernels import SequenceLayout, ops
from hylora_kernels.decode import span_decode
from hylora_kernels.options import SUMMARY_DTYPES
from tests.kernels.decode.stepping import decode, empty_state
from tests.kernels.inputs import random_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"block_size": 16, "chunk_size": 20, "top_k": 2}


@pytest.mark.parametrize(
    ("backend", "summary_dtype"), [("torch", "float32"), ("torch", "bfloat16"), ("triton", "float32")]
)
def test_torch_is_told_the_truth(backend, summary_dtype):
    inputs = [x.to(DEVICE) for x in random_inputs(2, 4, 2, 1, head_dim=16, dtype=torch.float32)]
    state = empty_state(inputs, **OPTIONS, selection="causal", query_group=4, summary_dtype=summary_dtype)
    settings = (*ops.pack_options(state.options), *state.scoring, backend)
    torch.library.opcheck(ops._span_decode, (*inputs, None, *state.tensors(), *settings))


@pytest.mark.parametrize("offload", [False, True])
def test_pieces_with_padding_and_keys_on_the_host_too(offload):
    inputs = [x.to(DEVICE).transpose(1, 2).contiguous().transpose(1, 2) for x in random_inputs(2, 4, 2, 9)]
    options = {**OPTIONS, "selection": "token", "capacity": 64, "offload": offload}
    state = empty_state(inputs, **options)
    decode(inputs, state)
    table = SequenceLayout(2, 9, ((0, 0, 9), (1, 4, 5))).table()
    settings = (*ops.pack_options(state.options), *state.scoring, "auto")
    torch.library.opcheck(ops._span_decode, (*inputs, table, *state.tensors(), *settings))


@pytest.mark.parametrize("summary_dtype", SUMMARY_DTYPES)
def test_compiled_steps_are_the_same_and_no_step_compiles_anew(summary_dtype):
    inputs = [x.to(DEVICE) for x in random_inputs(2, 4, 2, 45, head_dim=16, dtype=torch.float32)]
    options = {"capacity": 64, **OPTIONS, "summary_dtype": summary_dtype}
    compiled, eager = (empty_state(inputs, **options) for _ in range(2))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step(query, key, value):
        return span_decode(2 * query, key, value, compiled) + 1

    outputs = [step(*token) for token in zip(*(x.split(1, dim=2) for x in inputs), strict=True)]
    assert counter.frame_count <= 2  # the second knows that the number of tokens changes
    expected = decode([2 * inputs[0], *inputs[1:]], eager) + 1
    assert torch.equal(torch.cat(outputs, dim=2), expected)
    assert compiled.held == 45 and all(map(torch.equal, compiled.tensors(), eager.tensors()))
