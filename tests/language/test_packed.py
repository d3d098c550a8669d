# SPDX-License-Identifier: Apache-2.0
"""Packed documents cost what they cost alone, on every architecture that is told of boundaries; leaks are found."""

from __future__ import annotations

import pytest
import torch

import hylora
from hylora.adapters import HyLoraConfig, add_adapter
from hylora.language import train
from hylora.language.data import Padding
from hylora.language.data.packing import Piece, assemble
from hylora.language.packed import tell_boundaries, verify_boundaries
from hylora.language.task import CausalLoss
from hylora.training import RecipeError
from tests.architectures.checks import SMALL, assert_same
from tests.architectures.fused import fused
from tests.architectures.kernels import boundary_kernels
from tests.architectures.zoo import ZOO

# Granite's own attention is told of nothing, and GPT-OSS's reads nothing of it.
ACCEPTED = [
    pytest.param(name, attention, id=f"{name}-{attention}", marks=[] if quick else pytest.mark.slow)
    for name in sorted(ZOO.keys() - {"jamba", "mistral", "qwen3"})
    for attention in ("se_attn", "full")
    if name not in ("granitemoehybrid", "gpt_oss") or attention != "full"
    for quick in [name in ("bamba", "qwen3_next") or (attention == "se_attn" and name != "zamba2")]
]
# Two rows, the second shorter.
LENGTHS = ((9, 1, 21), (14, 5))


# In training mixers of Mamba-2 run in one kernel.
FUSED = {"mamba2_split_conv1d_scan_combined": fused}


def batches():
    """A packed batch, and its documents alone."""
    draw = torch.Generator().manual_seed(3)
    rows, alone = [], []
    for lengths in LENGTHS:
        documents = [torch.randint(1, 96, (length,), generator=draw).int().numpy() for length in lengths]
        pieces = [Piece(tokens, tokens) for tokens in documents]
        rows.append(assemble(pieces, "documents"))
        alone += [Padding()([assemble([piece], "none")]) for piece in pieces]
    return Padding()(rows), alone


def gradients(loss, batch):
    loss.zero_grad()
    total, count = loss(**batch)
    total.backward()
    return total.detach(), count, {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "attention"), ACCEPTED)
def test_loss_and_gradients_are_those_of_separate_documents(name, attention):
    """With an adapter, recomputed activations, several rows and padding; in training and in evaluation."""
    # transformers' fused path takes no notice of where Falcon-H1 has its gate.
    model = ZOO[name].build(**({"mamba_norm_before_gate": False} if name == "falcon_h1" else {}))
    hylora.set_attention(model, attention, **({**SMALL, **ZOO[name].options} if attention == "se_attn" else {}))
    model = add_adapter(model, HyLoraConfig.for_model(model, "longlora", r=2, lora_alpha=4, lora_dropout=0.0))
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    loss = CausalLoss(model, slice_length=16)
    packed, alone = batches()
    loss.train()
    with boundary_kernels(model, FUSED):
        total, count, found = gradients(loss, packed)
        single = [gradients(loss, batch) for batch in alone]
        with torch.no_grad():
            evaluated, _ = loss.eval()(**packed)
    assert count == sum(length - 1 for lengths in LENGTHS for length in lengths)
    expected = sum(part for part, _, _ in single)
    assert_same(total, expected)
    assert_same(evaluated, expected)
    for key, gradient in found.items():
        assert_same(gradient, sum(part[key] for _, _, part in single if key in part), key)


def test_what_a_model_reads_is_made_from_its_positions():
    packed, _ = batches()
    told = tell_boundaries(ZOO["bamba"].build().config, packed)
    assert told["seq_idx"].dtype == torch.int32
    assert told["seq_idx"].tolist() == [[0] * 9 + [1] + [2] * 21, [0] * 14 + [1] * 5 + [2] * 12]
    assert told["input_ids"].shape == (2, 31) and "cu_seq_lens_q" not in told
    told = tell_boundaries(ZOO["qwen3_next"].build().config, packed)
    assert told["cu_seq_lens_q"].tolist() == [0, 9, 10, 31, 45, 50, 62]
    assert told["input_ids"].shape == told["labels"].shape == told["seq_idx"].shape == (1, 62)
    assert set(tell_boundaries(ZOO["llama"].build().config, packed)) == set(packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "leave_out"),
    [
        ("jamba", ()),
        ("granitemoehybrid", ()),
        ("bamba", ("mamba2_chunk_scan", "mamba2_split_conv1d_scan_combined")),
        ("qwen3_next", ("torch_chunk_gated_delta_rule",)),
        ("lfm2", ("causal_conv1d_fn",)),
    ],
)
def test_a_leak_is_found(name, leave_out, dtype):
    """In layers that nothing tells, in Granite's full attention, and where a kernel is missing."""
    model = ZOO[name].build(dtype=dtype)
    loss = CausalLoss(model, slice_length=16).train()
    with boundary_kernels(model, dict.fromkeys(leave_out)):
        # Newer transformers refuses by itself.
        with pytest.raises(ValueError, match="must be kept apart|can't keep packed sequences apart"):
            loss(**batches()[0])
        if not leave_out:
            with pytest.raises(ValueError, match="must be kept apart, and in .* one changes what is made of the next"):
                verify_boundaries(model.get_decoder(), torch.device("cpu"))


@pytest.mark.parametrize("name", ["bamba", "qwen3_next", "granitemoehybrid", "llama"])
def test_no_leak_is_found_where_there_is_none(name):
    """Under autocast and dropout, and without any change to the state of the random numbers."""
    model = ZOO[name].build()
    hylora.set_attention(model, "se_attn", **SMALL)
    model = add_adapter(model, HyLoraConfig.for_model(model, "lora", r=2, lora_alpha=4, lora_dropout=0.5)).train()
    state = torch.get_rng_state()
    with boundary_kernels(model), torch.autocast("cpu", torch.bfloat16):
        verify_boundaries(model.get_base_model().get_decoder(), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_packs_whole_documents_where_kernels_keep_them_apart(recipe):
    """A Bamba, evaluated in between; without kernels it is refused before data are read."""
    packing = {"data.packing": "documents", "data.packing_strategy": "best_fit", "training.sequence_length": 64}
    settings = recipe({**packing, "training.steps": 2, "evaluation.at_end": True})
    with pytest.raises(RecipeError, match="without causal_conv1d and mamba_ssm .*'eos'"):
        train(settings)
    with boundary_kernels(ZOO["bamba"].build(), FUSED):
        assert train(settings).evaluation["loss"] < 10


def test_another_attention_is_tried_anew():
    """Granite's own attention is told of no boundaries, which its plug-in is."""
    model = ZOO["granitemoehybrid"].build(attn_implementation="se_attn")
    loss, (packed, _) = CausalLoss(model, 16).eval(), batches()
    with boundary_kernels(model):
        loss(**packed)
        hylora.set_attention(model, "full")
        with pytest.raises(ValueError, match="must be kept apart"):
            loss(**packed)
