# SPDX-License-Identifier: Apache-2.0
"""Token losses against a naive loop over the model's full logits."""

from __future__ import annotations

import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hylora
from hylora_eval.nll import token_nll
from tests.tiny import tiny_bamba, tiny_llama
from tests.tolerances import assert_close

MODELS = {"bamba": tiny_bamba, "llama": tiny_llama}


def draw_ids(batch, length, vocabulary=96):
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def naive_nll(model, ids, mask=None):
    log_probabilities = model(ids, attention_mask=mask, use_cache=False).logits.double().log_softmax(-1)
    rows = [
        [-log_probabilities[row, t, ids[row, t + 1]] for t in range(ids.shape[1] - 1)] for row in range(ids.shape[0])
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [2, 17, 40])
def test_equals_the_naive_loop(name, dtype, length):
    model = MODELS[name]().to(dtype)
    ids = draw_ids(2, length)
    found = token_nll(model, ids, slice_length=7)
    assert found.shape == (2, length - 1) and found.dtype == dtype
    assert_close(found, naive_nll(model, ids))


def test_bfloat16_model_gives_float32():
    model = tiny_llama(dtype=torch.bfloat16)
    ids = draw_ids(2, 20)
    found = token_nll(model, ids)
    assert found.dtype == torch.float32
    # same bfloat16 logits, so the log-softmax alone would show a loss taken in bfloat16
    assert_close(found, naive_nll(model, ids), torch.float32)


@pytest.mark.parametrize("slice_length", [1, 5, 38, 1000])
def test_slices_do_not_change_the_result(slice_length):
    model = tiny_bamba()
    ids = draw_ids(2, 20)
    assert_close(token_nll(model, ids, slice_length=slice_length), token_nll(model, ids, slice_length=13))


def test_logits_of_the_whole_sequence_never_exist():
    model = tiny_llama(vocab_size=97)  # a width no other tensor of the model has
    rows = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor) and output.ndim and output.shape[-1] == 97:
                rows.append(output.numel() // 97)
            return output

    with Watch():
        token_nll(model, draw_ids(2, 200, vocabulary=97), slice_length=16)
    # the head's weight, transposed for the product, has the hidden size's 32 rows
    assert rows and max(rows) <= 32


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_padded_equals_unpadded(name, side):
    model = MODELS[name]()
    ids = draw_ids(1, 20)
    padding = torch.zeros(1, 5, dtype=torch.long)
    order = (padding, ids) if side == "left" else (ids, padding)
    mask = torch.cat([torch.full_like(part, part is ids) for part in order], dim=1)
    found = token_nll(model, torch.cat(order, dim=1), attention_mask=mask)
    real = found[:, 5:] if side == "left" else found[:, :19]
    assert_close(real, token_nll(model, ids))
    assert_close(found.sum(), real.sum())


def test_adapted_model_and_plug_in_attention():
    model = tiny_llama()
    hylora.set_attention(model, "se_attn", block_size=4, top_k=1, chunk_size=8)
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    ids = draw_ids(2, 40)
    assert_close(token_nll(model, ids), naive_nll(model, ids))


@pytest.mark.parametrize("ids", [torch.zeros(1, 1, dtype=torch.long), torch.zeros(5, dtype=torch.long)])
def test_nothing_to_predict_is_an_error(ids):
    with pytest.raises(ValueError, match="at least 2 tokens"):
        token_nll(tiny_llama(), ids)


def test_slice_length_is_checked():
    with pytest.raises(ValueError, match="slice_length=0"):
        token_nll(tiny_llama(), draw_ids(1, 4), slice_length=0)
