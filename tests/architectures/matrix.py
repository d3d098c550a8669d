# SPDX-License-Identifier: Apache-2.0
"""What works on which architecture, as data: each cell is a test in test_matrix.py and an entry in the docs."""

from __future__ import annotations

from dataclasses import dataclass

from tests.architectures.zoo import HYBRIDS, TRANSFORMERS, ZOO

# Capability and what "yes" means; the check of that name in checks.py asserts it.
CAPABILITIES = {
    "se_attn": "`se_attn`, forward and backward: `sdpa` where the chunk holds the sequence, the reference elsewhere",
    "rivals": "`sw_attn` and `s2_attn`, forward and backward, in the same way",
    "causal": 'with `selection="token"` no logit depends on a later token',
    "padding": "padding, left or right, changes nothing, where `position_ids` count real tokens as in `generate`",
    "packed": "rows packed by `position_ids` equal separate rows",
    "packed_kernels": "rows packed by `seq_idx` as well equal separate rows, given kernels for the recurrent layers",
    "lora": '`variant="lora"` trains the attention projections',
    "longlora": '`variant="longlora"` trains embeddings and norms as well',
    "hylora": '`variant="hylora"` trains the short convolutions as well',
    "adapter_file": "a saved adapter, loaded into the base model, gives the same outputs",
    "merge": "merging the adapter, saving and loading the result changes no output",
    "checkpointing": "gradient checkpointing gives the same gradients, drawn chunk sizes included",
    "generate": "`generate` with a cache equals without, where the chunk holds all; prompts go through the plug-in",
    "continuation": "several tokens, with their positions, continue a filled cache",
    "span_cache": "`generate` with a `SpanCache`, where each token chooses, equals without a cache, padded or not",
    "span_pieces": "several tokens continue a `SpanCache`",
    "model_file": "the options survive saving and loading the model",
}


@dataclass(frozen=True)
class Cell:
    """One capability on one architecture.

    Args:
        state: "yes", "refused" (a ValueError names the cause) or "no" (neither works nor is refused).
        cause: for "refused" a part of the message.
        why: what the docs say beside the state.
        since: the transformers version that it needs, beyond the oldest that this package takes.
    """

    state: str
    cause: str = ""
    why: str = ""
    since: str = ""


YES = Cell("yes")
_STATE_LEAKS = Cell(
    "refused",
    "recurrent layers would carry state",
    "recurrent layers would carry their state across the boundary: pack without boundaries, or see the next column",
)
_NO_CONVOLUTION = Cell("refused", "has none; for a model without SSM layers use variant='longlora'", "no convolutions")
_BROKEN_PADDING = Cell(
    "yes", why="with padding needs transformers 5.23: in 5.17 the cache breaks, under any attention", since="5.23"
)
_EXCEPTIONS = {
    **{(architecture.model_type, "packed"): _STATE_LEAKS for architecture in HYBRIDS},
    **{(architecture.model_type, "hylora"): _NO_CONVOLUTION for architecture in TRANSFORMERS},
    **{("falcon_h1", capability): _BROKEN_PADDING for capability in ("generate", "span_cache")},
    ("granitemoehybrid", "packed"): Cell(
        "no",
        why="the model shows `position_ids` neither to the mask nor to attention: such a row is read as one sequence, "
        "under full attention too; boundaries in `seq_idx` are read",
    ),
    ("jamba", "continuation"): Cell(
        "no",
        why="transformers' Jamba forgets the state when more than one token continues a cache; one by one is right",
    ),
    ("jamba", "span_pieces"): Cell(
        "refused", "forget their state when it is more than one", "as with any cache, but here it is known in time"
    ),
    ("jamba", "packed_kernels"): Cell(
        "refused", "nothing tells the recurrent layers of 'jamba'", "its layers hand no `seq_idx` to their mixers"
    ),
}
_KEYS_ALONE = Cell(
    "yes",
    why="with a summary of keys, as `se_attn_recall` has one: the published one compares queries with values, which "
    "are smaller here, and is refused",
)
_LATENT = Cell(
    "refused",
    "keeps latent vectors in its cache",
    "its cache holds latent vectors, from which the model computes all keys and values anew at every step",
)
_EXCEPTIONS |= {
    ("deepseek_v3", "se_attn"): _KEYS_ALONE,
    **{("deepseek_v3", capability): _LATENT for capability in ("span_cache", "span_pieces")},
    ("gpt_oss", "packed"): Cell(
        "refused",
        "restart inside what the mask calls one sequence",
        "the model shows `position_ids` to attention, but not to its mask; boundaries in `seq_idx` are read",
    ),
}
MATRIX = {
    (architecture, capability): _EXCEPTIONS.get((architecture, capability), YES)
    for architecture in ZOO
    for capability in CAPABILITIES
}
