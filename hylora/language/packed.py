# SPDX-License-Identifier: Apache-2.0
"""Rows of several documents: how a model is told where they begin, and proof that it keeps them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hylora.recurrence import boundary_arguments

__all__ = ["tell_boundaries", "verify_boundaries"]


def tell_boundaries(config: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to a batch what its model reads boundaries from, made from the positions alone.

    Args:
        config: of the model.
        inputs: [B, L] each, among them "position_ids"; a document begins where they do not count on.

    Returns:
        The inputs, and as the architecture needs them "seq_idx" (the number of each token's document in its row,
        int32) and "cu_seq_lens_q" (where documents begin, and the end; int32 [documents + 1]). The latter describe one
        row: then all rows become one, [1, B * L].
    """
    names = boundary_arguments(config)
    if "cu_seq_lens_q" in names:
        inputs = {name: values.reshape(1, -1) for name, values in inputs.items()}
    begins = F.pad(inputs["position_ids"].diff(dim=1) != 1, (1, 0), value=True)
    told = {"seq_idx": begins.cumsum(dim=1, dtype=torch.int32) - 1}
    if "cu_seq_lens_q" in names:
        told["cu_seq_lens_q"] = F.pad(begins[0].nonzero()[:, 0], (0, 1), value=begins.shape[1]).to(torch.int32)
    return inputs | {name: told[name] for name in names}


@torch.no_grad()
def verify_boundaries(decoder: nn.Module, device: torch.device) -> None:
    """Make sure, on a few tokens, that what a model makes of a document does not depend on the one before it.

    No config tells what runs in the layers: kernels, the torch code in their place, or a kernel of the Hub.

    Args:
        decoder: gives hidden states; in the mode and under the autocast that it will run in.
        device: of its inputs.

    Raises:
        ValueError: if it does.
    """
    length = 8
    places = torch.arange(2 * length, device=device)[None]
    ids = places % decoder.config.get_text_config().vocab_size
    other = torch.where(places < length, ids.flip(1), ids)

    def change(inputs: Callable[[Tensor], dict[str, Tensor]]) -> Tensor:
        """What becomes of the second document where the first one is another."""
        outputs = []
        for tokens in (ids, other):
            # The same dropout in both.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(0)
                hidden = decoder(use_cache=False, **inputs(tokens)).last_hidden_state
            outputs.append(hidden.reshape(2 * length, -1)[length:])
        return (outputs[0] - outputs[1]).abs().max()

    packed = change(
        lambda tokens: tell_boundaries(decoder.config, {"input_ids": tokens, "position_ids": places % length})
    )
    # In rows of their own only rounding can differ: experts, for one, multiply the tokens of a whole batch.
    apart = change(lambda tokens: {"input_ids": tokens.view(2, length)})
    if packed > 4 * apart:
        raise ValueError(
            f"documents packed in one row must be kept apart, and in {type(decoder).__name__} one changes what is "
            "made of the next: its layers have no kernels that read boundaries; use data.packing='eos' or 'none'"
        )
