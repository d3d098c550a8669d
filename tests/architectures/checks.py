# SPDX-License-Identifier: Apache-2.0
"""What each capability of the matrix means: one function each, which raises where it does not hold.

What must hold of any model is in `hylora.auditing`; here it is asked of each architecture under `se_attn`.
"""

from __future__ import annotations

import tempfile
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import hylora
from hylora.adapters import HyLoraConfig, add_adapter, load_adapter, merge_adapter, trainable_groups
from hylora.auditing import comparison, properties, training
from hylora.auditing.comparison import Probe, assert_same, logits
from hylora.auditing.properties import padded_prompt
from tests.architectures.kernels import boundary_kernels
from tests.architectures.zoo import Architecture

PROBE = Probe(vocabulary=96)
LENGTH = PROBE.length
SMALL = {"block_size": 4, "top_k": 2, "chunk_size": 16}
# Most tokens of such lengths choose among several blocks, and read less than all.
PER_TOKEN = {"block_size": 4, "top_k": 2, "chunk_size": 16, "selection": "token", "summary": "mean_std"}
RANK = 3

tokens = PROBE.tokens
outcome = partial(comparison.outcome, probe=PROBE)
assert_same_outcome = partial(comparison.same_outcome, probe=PROBE)


def with_attention(architecture: Architecture, name: str = "se_attn", **options) -> PreTrainedModel:
    model = architecture.build()
    own = architecture.options if name == "se_attn" else {}
    hylora.set_attention(model, name, **{**(options or SMALL), **own})
    return model


def assert_different(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() > 1e-2


def matches_full_and_reference(model: PreTrainedModel, name: str, wide: dict, narrow: dict) -> None:
    """Full attention where the options leave nothing out, the plain implementation where they do."""
    hylora.set_attention(model, "full")
    full = outcome(model)
    hylora.set_attention(model, name, **wide)
    assert_same_outcome(model, full)
    hylora.set_attention(model, name, **narrow, backend="reference")
    reference = outcome(model)
    assert_different(reference["logits"], full["logits"])
    hylora.set_attention(model, name, **narrow, backend="torch")
    assert_same_outcome(model, reference)


def se_attn(architecture: Architecture) -> None:
    narrow = {**SMALL, **architecture.options}
    matches_full_and_reference(architecture.build(), "se_attn", {**narrow, "chunk_size": LENGTH}, narrow)


def rivals(architecture: Architecture) -> None:
    model = architecture.build()
    matches_full_and_reference(model, "sw_attn", {"window": LENGTH}, {"window": 12})
    matches_full_and_reference(model, "s2_attn", {"group": 2 * LENGTH}, {"group": 0.25})


def causal(architecture: Architecture) -> None:
    properties.causal(with_attention(architecture, **SMALL, selection="token", summary="mean_std"), PROBE)


def padding(architecture: Architecture) -> None:
    model = with_attention(architecture)
    properties.padded(model, PROBE, left=7)
    properties.padded(model, PROBE, right=7)


def packed(architecture: Architecture) -> None:
    properties.packed(with_attention(architecture), PROBE)


def packed_kernels(architecture: Architecture) -> None:
    model = with_attention(architecture)
    with boundary_kernels(model):
        properties.packed(model, PROBE, indexed=True)


def adapted(architecture: Architecture, variant: str) -> PeftModel:
    """A model with an adapter that does something, as after training."""
    model = with_attention(architecture)
    model = add_adapter(model, HyLoraConfig.for_model(model, variant, r=RANK, lora_alpha=2 * RANK))
    training.perturb(list(training.trained(model).values()))
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
    training.gradients(model, PROBE)
    training.precise(model)


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
    training.merged(model, PROBE, merge_adapter)
    assert merge_adapter(model).state_dict().keys() == architecture.build().state_dict().keys()


def checkpointing(architecture: Architecture, **kwargs) -> None:
    model = with_attention(architecture, **{**SMALL, "chunk_size": (8, 16, 24, 40)})
    model.enable_input_require_grads()
    properties.checkpointed(model, PROBE, **kwargs)
    seeded = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        seeded.append(outcome(model)["logits"])
    assert_different(*seeded)


def generate(architecture: Architecture) -> None:
    prompt, mask = padded_prompt(PROBE)
    wide = with_attention(architecture, **{**SMALL, "chunk_size": 64})
    properties.cached(wide, PROBE)

    model = with_attention(architecture)
    first = model.generate(prompt, attention_mask=mask, **properties.STEPS).logits[0]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    assert_same(first, logits(model, prompt, attention_mask=mask, position_ids=positions)[:, -1])
    assert_different(first, wide.generate(prompt, attention_mask=mask, **properties.STEPS).logits[0])


def continuation(architecture: Architecture) -> None:
    model = with_attention(architecture, **{**SMALL, "chunk_size": LENGTH})
    properties.continued(model, PROBE, DynamicCache(config=model.config))


def span_cache(architecture: Architecture) -> None:
    prompt, mask = padded_prompt(PROBE)
    model = with_attention(architecture, **PER_TOKEN)
    properties.cached(model, PROBE, past_key_values=hylora.SpanCache(model.config))
    full, plain = (
        model.generate(prompt, attention_mask=mask, use_cache=use, **properties.STEPS).logits for use in (True, False)
    )
    assert_different(full[1], plain[1])


def span_pieces(architecture: Architecture) -> None:
    model = with_attention(architecture, **PER_TOKEN)
    properties.continued(model, PROBE, hylora.SpanCache(model.config))


def model_file(architecture: Architecture) -> None:
    properties.saved(with_attention(architecture), PROBE)


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
