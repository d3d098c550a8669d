# SPDX-License-Identifier: Apache-2.0
"""What each capability of the matrix means: one function each, which raises where it does not hold."""

from __future__ import annotations

import tempfile

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel

import hylora
from hylora.adapters import HyLoraConfig, add_adapter, load_adapter, merge_adapter, trainable_groups
from tests.architectures.kernels import boundary_kernels
from tests.architectures.zoo import Architecture

LENGTH = 45
SMALL = {"block_size": 4, "top_k": 2, "chunk_size": 16}
# Most tokens of such lengths choose among several blocks, and read less than all.
PER_TOKEN = {"block_size": 4, "top_k": 2, "chunk_size": 16, "selection": "token", "summary": "mean_std"}
RANK = 3


def tokens(batch: int = 1, length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(1, 96, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, ids: Tensor, **arguments) -> Tensor:
    with torch.no_grad():
        return model(ids, **{"use_cache": False, **arguments}).logits


def with_attention(architecture: Architecture, name: str = "se_attn", **options) -> PreTrainedModel:
    model = architecture.build()
    hylora.set_attention(model, name, **(options or SMALL))
    return model


def assert_same(actual: Tensor, expected: Tensor, name: str = "", tolerance: float = 3e-5) -> None:
    """Equal up to float32's rounding of the largest value."""
    error = float((actual - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    assert error <= tolerance * scale, f"{name} differs by {error:.2g} where values go up to {scale:.2g}"


def assert_different(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() > 1e-2


def outcome(model: PreTrainedModel) -> dict[str, Tensor]:
    """Logits and gradients of one training step."""
    model.zero_grad()
    output = model(tokens(2), labels=tokens(2), use_cache=False)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients
    return {"logits": output.logits.detach(), **{name: gradient.clone() for name, gradient in gradients.items()}}


def assert_same_outcome(model: PreTrainedModel, expected: dict[str, Tensor]) -> None:
    actual = outcome(model)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_same(actual[name], value, name)


def matches_full_and_reference(model: PreTrainedModel, name: str, wide: dict, narrow: dict) -> None:
    """Full attention where the options leave nothing out, the plain implementation where they do."""
    full = outcome(model)
    hylora.set_attention(model, name, **wide)
    assert_same_outcome(model, full)
    hylora.set_attention(model, name, **narrow, backend="reference")
    reference = outcome(model)
    assert_different(reference["logits"], full["logits"])
    hylora.set_attention(model, name, **narrow, backend="torch")
    assert_same_outcome(model, reference)


def se_attn(architecture: Architecture) -> None:
    wide = {**SMALL, "chunk_size": LENGTH}
    matches_full_and_reference(architecture.build(), "se_attn", wide, SMALL)


def rivals(architecture: Architecture) -> None:
    model = architecture.build()
    matches_full_and_reference(model, "sw_attn", {"window": LENGTH}, {"window": 12})
    hylora.set_attention(model, "full")
    matches_full_and_reference(model, "s2_attn", {"group": 2 * LENGTH}, {"group": 0.25})


def causal(architecture: Architecture) -> None:
    model = with_attention(architecture, **SMALL, selection="token", summary="mean_std")
    ids = tokens()
    before = logits(model, ids)
    for position in (43, 30, 17):
        changed = ids.clone()
        changed[0, position] = changed[0, position] % 94 + 1
        after = logits(model, changed)
        assert_same(after[:, :position], before[:, :position])
        assert_different(after[:, position], before[:, position])


def padding(architecture: Architecture) -> None:
    model = with_attention(architecture)
    ids, other = tokens(), tokens(length=LENGTH + 7, seed=1)
    alone = logits(model, ids)
    for left, right in ((7, 0), (0, 7)):
        mask = nn.functional.pad(torch.ones_like(ids), (left, right))
        batch = torch.cat([nn.functional.pad(ids, (left, right)), other])
        mask = torch.cat([mask, torch.ones_like(other)])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = logits(model, batch, attention_mask=mask, position_ids=positions)
        assert_same(output[:1, left : left + LENGTH], alone)
        assert_same(output[1:], logits(model, other))


def separate_and_packed(model: PreTrainedModel, **arguments) -> None:
    """Two sequences in one row against each in its own."""
    first, second = tokens(length=33), tokens(seed=1)
    positions = torch.cat([torch.arange(33), torch.arange(LENGTH)])[None]
    packed = logits(model, torch.cat([first, second], dim=1), position_ids=positions, **arguments)
    assert_same(packed[:, :33], logits(model, first))
    assert_same(packed[:, 33:], logits(model, second))


def packed(architecture: Architecture) -> None:
    separate_and_packed(with_attention(architecture))


def packed_kernels(architecture: Architecture) -> None:
    model = with_attention(architecture)
    seq_idx = torch.tensor([[0] * 33 + [1] * LENGTH], dtype=torch.int32)
    boundaries = torch.tensor([0, 33, 33 + LENGTH], dtype=torch.int32)
    with boundary_kernels(model):
        separate_and_packed(model, seq_idx=seq_idx, cu_seq_lens_q=boundaries)


def adapted(architecture: Architecture, variant: str) -> PeftModel:
    """A model with an adapter that does something, as after training."""
    model = with_attention(architecture)
    model = add_adapter(model, HyLoraConfig.for_model(model, variant, r=RANK, lora_alpha=2 * RANK))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def fullest_variant(architecture: Architecture) -> str:
    return "hylora" if architecture.convs else "longlora"


def trains(architecture: Architecture, variant: str) -> None:
    """The right numbers of parameters train, and all of them get a gradient."""
    model = adapted(architecture, variant)
    assert trainable_groups(model) == {
        "attention": RANK * architecture.lora,
        "embeddings": 0 if variant == "lora" else architecture.embeddings,
        "norms": 0 if variant == "lora" else architecture.norms,
        "convs": architecture.convs if variant == "hylora" else 0,
        "other": 0,
    }
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name


def lora(architecture: Architecture) -> None:
    trains(architecture, "lora")


def longlora(architecture: Architecture) -> None:
    trains(architecture, "longlora")


def hylora_variant(architecture: Architecture) -> None:
    trains(architecture, "hylora")


def adapter_file(architecture: Architecture) -> None:
    model = adapted(architecture, fullest_variant(architecture))
    expected = logits(model.eval(), tokens())
    base = with_attention(architecture)
    assert_different(logits(base, tokens()), expected)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert_same(logits(load_adapter(base, folder), tokens()), expected)


def merge(architecture: Architecture) -> None:
    model = adapted(architecture, fullest_variant(architecture))
    expected = logits(model.eval(), tokens())
    merged = merge_adapter(model)
    assert_same(logits(merged, tokens()), expected)
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="se_attn")
    assert loaded.state_dict().keys() == architecture.build().state_dict().keys()
    assert_same(logits(loaded, tokens()), expected)


def checkpointing(architecture: Architecture, **kwargs) -> None:
    model = with_attention(architecture, **{**SMALL, "chunk_size": (8, 16, 24, 40)}).train()
    torch.manual_seed(11)
    expected = outcome(model)
    model.gradient_checkpointing_enable(kwargs or None)
    model.enable_input_require_grads()
    torch.manual_seed(11)
    assert_same_outcome(model, expected)
    torch.manual_seed(12)
    assert_different(outcome(model)["logits"], expected["logits"])


STEPS = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def padded_prompt() -> tuple[Tensor, Tensor]:
    prompt = tokens(2, 37)
    mask = torch.ones_like(prompt)
    mask[0, :5] = 0
    return prompt, mask


def generate(architecture: Architecture) -> None:
    prompt, mask = padded_prompt()
    model = with_attention(architecture, **{**SMALL, "chunk_size": 64})
    cached, plain = (model.generate(prompt, attention_mask=mask, use_cache=use, **STEPS) for use in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    assert_same(torch.stack(cached.logits), torch.stack(plain.logits))

    hylora.set_attention(model, "se_attn", **SMALL)
    first = model.generate(prompt, attention_mask=mask, **STEPS).logits[0]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    assert_same(first, logits(model, prompt, attention_mask=mask, position_ids=positions)[:, -1])
    assert_different(first, cached.logits[0])


def continuation(architecture: Architecture) -> None:
    model = with_attention(architecture, **{**SMALL, "chunk_size": LENGTH})
    continue_by_pieces(model, DynamicCache(config=model.config))


def continue_by_pieces(model: PreTrainedModel, cache: Cache) -> None:
    """A first piece, a single token and a last piece against all at once."""
    ids = tokens()
    with torch.no_grad():
        for start, end in ((0, 30), (30, 31), (31, LENGTH)):
            positions = torch.arange(start, end)[None]
            output = model(ids[:, start:end], position_ids=positions, past_key_values=cache, use_cache=True)
    assert_same(output.logits, logits(model, ids)[:, 31:])


def span_cache(architecture: Architecture) -> None:
    prompt, mask = padded_prompt()
    model = with_attention(architecture, **PER_TOKEN)
    cache = hylora.SpanCache(model.config)
    found = model.generate(prompt, attention_mask=mask, past_key_values=cache, **STEPS)
    expected = model.generate(prompt, attention_mask=mask, use_cache=False, **STEPS)
    assert torch.equal(found.sequences, expected.sequences)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits))
    full = model.generate(prompt, attention_mask=mask, **STEPS)
    assert_different(full.logits[1], expected.logits[1])


def span_pieces(architecture: Architecture) -> None:
    model = with_attention(architecture, **PER_TOKEN)
    continue_by_pieces(model, hylora.SpanCache(model.config))


def model_file(architecture: Architecture) -> None:
    model = with_attention(architecture)
    expected = logits(model, tokens())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="se_attn")
    assert_same(logits(loaded, tokens()), expected)


CHECKS = {
    "se_attn": se_attn,
    "rivals": rivals,
    "causal": causal,
    "padding": padding,
    "packed": packed,
    "packed_kernels": packed_kernels,
    "lora": lora,
    "longlora": longlora,
    "hylora": hylora_variant,
    "adapter_file": adapter_file,
    "merge": merge,
    "checkpointing": checkpointing,
    "generate": generate,
    "continuation": continuation,
    "span_cache": span_cache,
    "span_pieces": span_pieces,
    "model_file": model_file,
}
