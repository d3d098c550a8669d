# SPDX-License-Identifier: Apache-2.0
"""A causal language model taken apart: the decoder that gives hidden states, and the head that turns them into logits.

Whoever needs a loss over a long sequence runs the decoder once and applies the head to a slice of positions at a time,
because the logits of a whole sequence `[L, V]` are by far its largest tensor. Models differ in what they do to the
logits after the head; `decoder_and_head` knows the common ways and `verify_head` finds out about all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DecoderAndHead", "LogitTransform", "decoder_and_head", "verify_head"]


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to its logits after the head: `cap * tanh(scale * x / cap)`, or `scale * x` without a cap.

    Attributes:
        scale: factor on the logits (Granite divides by `logits_scaling`, Cohere and Falcon-H1 multiply).
        softcap: bound on the logits' size (Gemma-2, RecurrentGemma), or None.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    @classmethod
    def of(cls, config: Any) -> LogitTransform:
        """The transform that a text model's config describes."""
        scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
        return cls(scale=scale / divisor, softcap=softcap)


class DecoderAndHead(NamedTuple):
    """The two parts of a causal language model.

    Attributes:
        decoder: called with `input_ids` and the like; its output has `last_hidden_state` [B, L, H].
        weight: of the head [V, H], the very parameter (tied to the embeddings where the model ties them).
        bias: of the head [V], or None.
        transform: from the head's output to the logits.
    """

    decoder: nn.Module
    weight: Tensor
    bias: Tensor | None
    transform: LogitTransform

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], in float32 at least; differentiable."""
        # Parts trained in float32 on a bfloat16 base leave hidden states and head in different types: go up.
        dtype = torch.promote_types(hidden.dtype, self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        logits = F.linear(hidden.to(self.weight.device, dtype), self.weight.to(dtype), bias)
        return self.transform(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def decoder_and_head(model: nn.Module) -> DecoderAndHead:
    """Take a causal language model apart.

    Cheap: to be called again after adapters were switched on or off.

    Args:
        model: a transformers causal language model, or a PEFT model around one.

    Returns:
        Its parts. With PEFT, the adapters act inside the decoder, and a head in `modules_to_save` gives its trained
        weight.

    Raises:
        ValueError: if the model has no head, or one that is more than a matrix (an adapter on it, a quantised weight).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    if head is None:
        raise ValueError(
            f"{type(base).__name__} has no language-model head; load it with AutoModelForCausalLM.from_pretrained"
        )
    if isinstance(head, BaseTunerLayer) and not (head.merged or head.disable_adapters):
        raise ValueError(
            "the language-model head carries an adapter, which slices of the head would leave out; train it in full "
            "(modules_to_save=['lm_head']) or merge the adapter (hylora.merge_adapter(model))"
        )
    weight = head.weight
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(
            f"the language-model head has a weight of type {weight.dtype} and shape {tuple(weight.shape)}; a plain "
            "floating-point matrix is needed: leave the head out of quantisation"
        )
    transform = LogitTransform.of(base.config.get_text_config())
    return DecoderAndHead(base.get_decoder(), weight, getattr(head, "bias", None), transform)


@torch.no_grad()
def verify_head(model: nn.Module, input_ids: Tensor) -> None:
    """Check on a few tokens that decoder and head together give the model's own logits.

    Config fields do not tell everything: models use one name for a factor and for a divisor. Call it once before a
    long run; the model should be in evaluation mode.

    Args:
        model: as for `decoder_and_head`.
        input_ids: a few tokens [B, L].

    Raises:
        ValueError: if the logits are not finite, or differ: the model does something to its logits that is not known
            here.
    """
    parts = decoder_and_head(model)
    expected = model(input_ids=input_ids, use_cache=False).logits
    if not expected.isfinite().all():
        raise ValueError(
            f"the logits of {type(model).__name__} must be finite, but a few tokens give others; check its weights "
            "and the range of its dtype"
        )
    found = parts.logits(parts.decoder(input_ids=input_ids, use_cache=False).last_hidden_state)
    expected = expected.to(found.device, found.dtype)
    # Wide enough for the rounding of bfloat16, far below what a forgotten factor or cap does.
    tolerance = 0.02 * float(expected.std()) if expected.numel() > 1 else 0.0
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0.02, atol=tolerance):
        raise ValueError(
            f"{type(model).__name__} does more to its logits than decoder, head and {parts.transform}; "
            "this model is not supported"
        )
