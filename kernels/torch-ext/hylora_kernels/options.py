# SPDX-License-Identifier: Apache-2.0
"""The options of span-expanded attention, and their checks, without torch, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import ceil
from typing import Any, Dict, Optional, Tuple, Union

# Of which the queries' features are [q, |q|] or, for the last, [q, scale * q squared].
TWO_VECTORS = ("mean_std", "min_max", "gaussian")
SUMMARIES = ("attention", "landmark", "mean_key", *TWO_VECTORS, "representatives")

# What summaries are rounded to before they are compared with queries.
SUMMARY_DTYPES = ("float32", "bfloat16")
# What computes: "auto" is the fastest that takes the input.
BACKENDS = ("auto", "reference", "torch", "flash", "triton")
# The attribute of a model's config that holds the options.
CONFIG_ATTRIBUTE = "span_attention"


def signed(value: int) -> int:
    """The 64-bit pattern of `value` as a signed integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


@dataclass(frozen=True)
class SpanOptions:
    """What span-expanded attention retrieves, and for whom (chapter 6, sections 6.2 and 6.6.2).

    A new option touches three places: a field here, with its line below and its check; `reference`, which defines what
    it means; and the backends, which compute it or say in `unsupported` that they do not. The operators' schemas, the
    state of decoding and the options that a model's config keeps follow from the fields.

    Args:
        block_size: S, tokens in a memory block.
        top_k: k, memory blocks that a selection retrieves; the expansion span is `block_size * top_k` tokens.
        chunk_size: M, tokens in a chunk.
        selection: `"chunk"` chooses blocks once per chunk with all of its queries (the published rule: inside a chunk
            an early token's blocks depend on later queries). `"token"` lets each token choose by its own query, so
            that no output depends on a later token. `"causal"` chooses once per group of queries, with the queries of
            the group before it: it finds no needle even with exact scores, and is kept for the record.
        query_group: tokens in a group of queries under causal selection; must divide `chunk_size`. With 1, each query
            selects with itself, as under `"token"`.
        retrieval: `"relevance"`, or the controls `"random"` (random past blocks) and `"none"` (no memory).
        summary: how a memory block is compressed, and how a query is scored against it. One vector: `"attention"`
            (equation 6.7), `"landmark"` (a fixed query attends over the block, section 6.6.2) or `"mean_key"` (the
            mean of its keys). Two vectors: `"mean_std"` (mean and standard deviation of its keys), `"min_max"` (middle
            and half width of their range) or `"gaussian"` (mean and half their variance). `"representatives"`: some of
            the keys, and the mean of the rest.
        seed: of the landmark query and of random retrieval.
        representatives: keys of a block that represent it, if its summary is made of such; at most `block_size`.
        pooling: how the queries of a chunk choose together: by the `"sum"` of their scores, or by the `"max"` over
            them of score minus log-sum-exp of the scores, so that a block counts that one of them needs.
        summary_dtype: what summaries are rounded to before they are compared with queries: `"float32"` (float64 of
            float64 tensors), or `"bfloat16"`, which halves their memory and what a decoding step reads of them.

    Raises:
        ValueError: if a value is out of its range, naming the field, the value and the remedy.
    """

    block_size: int = 32
    top_k: int = 8
    chunk_size: int = 4096
    selection: str = "chunk"
    query_group: int = 64
    retrieval: str = "relevance"
    summary: str = "attention"
    seed: int = 0
    representatives: int = 3
    pooling: str = "sum"
    summary_dtype: str = "float32"

    def __post_init__(self):
        for name in ("block_size", "chunk_size", "query_group", "representatives"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("top_k", self.top_k, minimum=0)
        check_integer("seed", self.seed)
        object.__setattr__(self, "seed", signed(self.seed))  # what operators can be handed
        check_choice("selection", self.selection, ("chunk", "token", "causal"))
        check_choice("retrieval", self.retrieval, ("relevance", "random", "none"))
        check_choice("summary", self.summary, SUMMARIES)
        check_choice("pooling", self.pooling, ("sum", "max"))
        check_choice("summary_dtype", self.summary_dtype, SUMMARY_DTYPES)
        if self.block_size > self.chunk_size:
            raise ValueError(
                f"block_size={self.block_size} must be at most chunk_size={self.chunk_size}; "
                "a memory block has to fit into a chunk"
            )
        if self.selection == "causal" and self.chunk_size % self.query_group:
            raise ValueError(
                f"chunk_size={self.chunk_size} must be a multiple of query_group={self.query_group} with "
                "selection='causal'; change one of them"
            )
        if self.summary == "representatives" and self.representatives > self.block_size:
            raise ValueError(
                f"representatives={self.representatives} must be at most block_size={self.block_size}; a block has no "
                "more keys"
            )
        if self.pooling == "max" and self.selection != "chunk":
            raise ValueError(
                f"pooling='max' is over the queries of a chunk, and selection={self.selection!r} chooses with fewer; "
                "use selection='chunk', or pooling='sum'"
            )

    @property
    def retrieves(self) -> bool:
        """Whether any block can be retrieved at all."""
        return self.retrieval != "none" and self.top_k > 0

    @property
    def chooses_for_next(self) -> bool:
        """Whether a group of queries chooses for the group after it rather than for itself."""
        return self.selection == "causal" and self.query_group > 1

    @property
    def chooses_per_token(self) -> bool:
        """Whether each token chooses by its own query alone."""
        return self.unit_size == 1

    @property
    def reads_other_queries(self) -> bool:
        """Whether what a token retrieves depends on the queries of other tokens: they choose with it, or summarize."""
        ranks = self.retrieves and self.retrieval == "relevance"
        return ranks and (self.summary == "attention" or not self.chooses_per_token)

    @property
    def pools_scores(self) -> bool:
        """Whether queries that choose together pool their scores; otherwise their features are summed before."""
        return self.pooling == "max" or self.summary == "representatives"

    @property
    def unit_size(self) -> int:
        """Number of neighbouring queries that share one selection."""
        return unit_size(self.selection, self.chunk_size, self.query_group)

    def units(self, length: int) -> int:
        """Number of selections in a sequence of this length."""
        return -(-length // self.unit_size)

    def candidates(self, unit: int) -> int:
        """Number of complete blocks that end at or before the start of the chunk that holds the unit."""
        chunk = unit * self.unit_size // self.chunk_size
        return chunk * self.chunk_size // self.block_size

    def retrieved(self, unit: int) -> int:
        """Number of blocks the unit retrieves."""
        return min(self.top_k, self.candidates(unit)) if self.retrieves else 0


def unit_size(selection: str, chunk_size: int, query_group: int) -> int:
    """`SpanOptions.unit_size`, of numbers that a compiled graph may know as symbols alone."""
    return {"chunk": chunk_size, "token": 1, "causal": query_group}[selection]


def summary_width(options: SpanOptions, head_dim: int) -> int:
    """Numbers in a block's summary."""
    if options.summary == "representatives":
        return (options.representatives + 1) * head_dim
    return 2 * head_dim if options.summary in TWO_VECTORS else head_dim


def span_options(options: Optional[SpanOptions], changes: Dict[str, Any]) -> SpanOptions:
    """These options, or the defaults, with some fields changed."""
    if options is None:
        return SpanOptions(**changes)
    return replace(options, **changes) if changes else options


def check_integer(name: str, value, minimum: Optional[int] = None):
    """Refuse anything but an integer of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or (minimum is not None and value < minimum):
        raise ValueError(
            f"{name}={value!r} must be an integer" + ("" if minimum is None else f" of at least {minimum}")
        )


def check_choice(name: str, value, allowed: Tuple[str, ...]):
    """Refuse an unknown value and name the nearest one."""
    if value in allowed:
        return
    near = get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}{hint}")


def check_group(group: Union[int, float]):
    """Refuse what is neither a number of tokens nor a fraction of a sequence."""
    if isinstance(group, float):
        if not 0 < group <= 1:
            raise ValueError(f"group={group} must be a fraction in (0, 1], or an integer number of tokens")
    else:
        check_integer("group", group, minimum=1)


def group_size(group: Union[int, float], length: int) -> int:
    """Tokens per group of shifted sparse attention: `group` itself, or that fraction of the length, rounded up."""
    return group if isinstance(group, int) else ceil(group * length)
