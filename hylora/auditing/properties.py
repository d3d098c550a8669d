# SPDX-License-Identifier: Apache-2.0
"""What must hold of any causal language model: one function each.

Each returns the largest difference found, relative to the largest value, and raises `Differs` where the property does
not hold. What a model refuses comes through as it is. None changes a weight; `preserved` undoes the rest.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DataCollatorWithFlattening, PreTrainedModel

from hylora.adapters.structure import base_model
from hylora.auditing.comparison import Differs, Probe, assert_same, logits, outcome, same_outcome, takes

__all__ = [
    "cached",
    "causal",
    "checkpointed",
    "continued",
    "packed",
    "packed_row",
    "padded",
    "padded_prompt",
    "saved",
]

STEPS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
STEPS |= {"output_logits": True, "return_dict_in_generate": True}


def packed_row(probe: Probe) -> dict[str, Any]:
    """Two sequences of different lengths in one row [1, L], with all that transformers' collator tells of them."""
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    row = collator([{"input_ids": ids[0]} for ids in _parts(probe)])
    del row["labels"]
    return {name: value.to(probe.device) if isinstance(value, Tensor) else value for name, value in row.items()}


def _parts(probe: Probe) -> tuple[Tensor, Tensor]:
    return probe.tokens(length=3 * probe.length // 4), probe.tokens(seed=1)


def packed(model: nn.Module, probe: Probe, *, indexed: bool = False) -> float:
    """Two sequences in one row, told apart by `position_ids`, equal each in its own row.

    Args:
        model: in evaluation mode.
        probe: tokens.
        indexed: whether `seq_idx`, `cu_seq_lens` and lengths tell them apart as well.
    """
    row = packed_row(probe)
    told = row if indexed else {name: row[name] for name in ("input_ids", "position_ids")}
    parts = _parts(probe)
    outputs = logits(model, **told).split([ids.shape[1] for ids in parts], dim=1)
    names = ("the first document's output", "the second document's output")
    return max(
        assert_same(output, logits(model, ids), name, probe.tolerance)
        for output, ids, name in zip(outputs, parts, names, strict=True)
    )


def padded(model: nn.Module, probe: Probe, left: int = 0, right: int = 0) -> float:
    """A padded row of a batch equals the row alone, and so does the longer row beside it."""
    ids, other = probe.tokens(), probe.tokens(length=probe.length + left + right, seed=1)
    mask = nn.functional.pad(torch.ones_like(ids), (left, right))
    batch = torch.cat([nn.functional.pad(ids, (left, right)), other])
    mask = torch.cat([mask, torch.ones_like(other)])
    output = logits(model, batch, attention_mask=mask, position_ids=_positions(mask))
    inside = output[:1, left : left + probe.length]
    return max(
        assert_same(inside, logits(model, ids), "the padded row's output", probe.tolerance),
        assert_same(output[1:], logits(model, other), "the output of the row beside it", probe.tolerance),
    )


def _positions(mask: Tensor) -> Tensor:
    """Positions that count real tokens, as in `generate`."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def causal(model: nn.Module, probe: Probe, start: int = 1) -> float:
    """A later token changes no earlier output.

    Args:
        model: in evaluation mode.
        probe: tokens.
        start: where a token's influence may begin: at multiples of so many tokens.
    """
    ids, errors = probe.tokens(), []
    before = logits(model, ids)
    for position in (probe.length - 2, 2 * probe.length // 3, 3 * probe.length // 8 + 1):
        changed = ids.clone()
        changed[0, position] = changed[0, position] % (probe.vocabulary - 2) + 1
        after = logits(model, changed)
        first = position // start * start
        name = f"the output before token {first}, when token {position} changes,"
        errors.append(assert_same(after[:, :first], before[:, :first], name, probe.tolerance) if first else 0.0)
        if torch.equal(after[:, position], before[:, position]):
            raise Differs(f"token {position} changes not even its own output")
    return max(errors)


def checkpointed(model: nn.Module, probe: Probe, **arguments: Any) -> float:
    """A training step with gradient checkpointing, which stays on, gives the outputs and gradients of one without."""
    base = base_model(model.train())
    # The older names, until every supported transformers has the newer ones, warn that they will go.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    disable = getattr(base, "activation_checkpointing_disable", None) or base.gradient_checkpointing_disable
    disable()
    torch.manual_seed(11)
    expected = outcome(model, probe)
    enable(arguments or None)
    torch.manual_seed(11)
    return same_outcome(model, expected, probe)


def padded_prompt(probe: Probe) -> tuple[Tensor, Tensor]:
    """Two prompts [2, n] of which the first is padded on the left, and their mask."""
    prompt = probe.tokens(2, probe.length - 8)
    mask = torch.ones_like(prompt)
    mask[0, :5] = 0
    return prompt, mask


def cached(model: nn.Module, probe: Probe, padding: bool = True, **arguments: Any) -> float:
    """`generate` with a cache equals `generate` without.

    Args:
        model: in evaluation mode.
        probe: tokens.
        padding: whether one of the prompts is padded.
        **arguments: of the run with a cache, such as `past_key_values`.
    """
    prompt, mask = padded_prompt(probe)
    mask = mask if padding else torch.ones_like(mask)
    found = model.generate(prompt, attention_mask=mask, **STEPS, **{"use_cache": True, **arguments})
    expected = model.generate(prompt, attention_mask=mask, use_cache=False, **STEPS)
    errors = []
    for step, (actual, plain) in enumerate(zip(found.logits, expected.logits, strict=True)):
        errors.append(assert_same(actual, plain, f"step {step + 1} of generate", probe.tolerance))
        # Where two tokens are equally likely, rounding may choose, and what follows is another text.
        if not torch.equal(actual.argmax(-1), plain.argmax(-1)):
            break
    return max(errors)


def continued(
    model: nn.Module, probe: Probe, cache: Cache, *, single: bool = False, position_ids: bool = True
) -> float:
    """A first piece, a single token and a last piece through a cache equal all at once.

    Args:
        model: in evaluation mode.
        probe: tokens.
        cache: an empty one.
        single: whether what follows the first piece comes token by token.
        position_ids: whether they are passed, where the model takes them.
    """
    ids, cut = probe.tokens(), 2 * probe.length // 3
    name = "cache_params" if takes(model, "cache_params") else "past_key_values"
    rest = probe.length - cut
    sizes = [cut, *[1] * rest] if single else [cut, 1, rest - 1]
    outputs = []
    for part in torch.arange(probe.length, device=ids.device).split(sizes):
        arguments = {name: cache, "use_cache": True}
        if position_ids:
            arguments["position_ids"] = part[None]
        outputs.append(logits(model, ids[:, part], **arguments))
    told = "" if position_ids else ", without position_ids,"
    after, expected = torch.cat(outputs, dim=1)[:, cut:], logits(model, ids)[:, cut:]
    return assert_same(after, expected, f"the output behind a filled cache{told}", probe.tolerance)


def saved(model: PreTrainedModel, probe: Probe) -> float:
    """A model that is saved and loaded gives the same outputs, with weights of the same names."""
    expected = logits(model, probe.tokens())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    if other := loaded.state_dict().keys() ^ model.state_dict().keys():
        raise Differs(f"{len(other)} weights are saved or loaded alone, such as {min(other)}")
    return assert_same(logits(loaded.to(probe.device), probe.tokens()), expected, "the output", probe.tolerance)
