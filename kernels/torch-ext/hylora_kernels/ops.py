# SPDX-License-Identifier: Apache-2.0
"""Each kind of attention as one operator of torch, which graphs hold as a single node.

An operator takes a layout as a table of its sequences (int64 on the CPU, one (row, start, length) each), or None where
every row is one sequence. Which backend computes it is decided when it runs. With sinks it is one node too, whose
outputs are those with them.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Optional, Tuple, Union

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.weak import WeakIdKeyDictionary

from . import backends
from .inputs import accumulation_dtype, rows_contiguous
from .kept import DecodeTensors
from .layout import SequenceLayout
from .options import SpanOptions, unit_size
from .saved import Saved
from .scoring import Scoring
from .sinks import add_sinks, sinks_gradient

# With mode="reduce-overhead" torch.compile leaves the operators outside of its CUDA graphs: they make and keep tables,
# whose memory its graphs would take for theirs, and some look at values.
_TAGS = (torch.Tag.cudagraph_unsafe,)

# The options as operators take them, one argument for each field.
_NAMES = tuple(field.name for field in fields(SpanOptions))
_TYPES = {"int": "SymInt", "str": "str"}
_TENSORS = "Tensor query, Tensor key, Tensor value"
_INPUTS = f"{_TENSORS}, Tensor? sinks, Tensor? sequences"
_SCORES = "float scale, float? softcap, str backend"
_SETTINGS = ", ".join([*(f"{_TYPES[field.type]} {field.name}" for field in fields(SpanOptions)), _SCORES])


def span_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Optional[Tensor],
    layout: Union[SequenceLayout, Tensor, None],
    options: SpanOptions,
    scoring: Scoring,
    backend: str,
) -> Tensor:
    """Span-expanded attention as one node."""
    settings = *pack_options(options), *scoring, backend
    return _span_forward(query, key, value, sinks, sequence_table(layout), *settings)[0]


def sliding_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Optional[Tensor],
    layout: Union[SequenceLayout, Tensor, None],
    window: int,
    scoring: Scoring,
    backend: str,
) -> Tensor:
    """Sliding window attention as one node."""
    return _sliding_window(query, key, value, sinks, sequence_table(layout), window, *scoring, backend)[0]


def shifted_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Optional[Tensor],
    layout: Union[SequenceLayout, Tensor, None],
    group: Union[int, float],
    scoring: Scoring,
    backend: str,
) -> Tensor:
    """Shifted sparse attention as one node."""
    return _shifted_sparse(query, key, value, sinks, sequence_table(layout), group, *scoring, backend)[0]


def span_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Union[SequenceLayout, Tensor, None],
    kept: DecodeTensors,
    options: SpanOptions,
    scoring: Scoring,
    backend: str,
) -> Tuple[Tensor, Tensor]:
    """New tokens of each row as one node, which changes what is kept; also gives the log-sum-exp."""
    table = sequence_table(layout)
    return _span_decode(query, key, value, table, *kept, *pack_options(options), *scoring, backend)


def pack_options(options: SpanOptions) -> Tuple[Union[int, str], ...]:
    """The options as arguments of an operator."""
    return tuple(getattr(options, name) for name in _NAMES)


@lru_cache(maxsize=64)
def unpack_options(*packed: Union[int, str]) -> SpanOptions:
    """The inverse of `pack_options`; all layers have the same."""
    return SpanOptions(*packed)


# Of tables that were made here, and given to nobody who could change them: an operator need not read them back.
_layouts = WeakIdKeyDictionary()


def sequence_table(layout: Union[SequenceLayout, Tensor, None]) -> Optional[Tensor]:
    """A layout as operators take it."""
    if not isinstance(layout, SequenceLayout):
        return layout
    if layout.is_dense:
        return None
    table = layout.table()
    if not torch.compiler.is_compiling():
        _layouts[table] = layout
    return table


def _layout_of(query: Tensor, table: Optional[Tensor]) -> SequenceLayout:
    """The inverse of `sequence_table`."""
    known = None if table is None else _layouts.get(table)
    return known or SequenceLayout.of(query, table)


def add_op_namespace_prefix(name: str) -> str:
    """The operator's name in this package's own namespace: a copy under another module name registers beside it.

    The Hub's kernel-builder refuses registrations that call no function of this name. It writes one into `_ops`.
    """
    try:
        from . import _ops
    except ImportError:
        return f"{__package__.replace('.', '_')}::{name}"
    return _ops.add_op_namespace_prefix(name)


@custom_op(
    add_op_namespace_prefix("span_attention"),
    mutates_args=(),
    tags=_TAGS,
    schema=f"({_INPUTS}, {_SETTINGS}) -> (Tensor, Tensor, Tensor)",
)
def _span_forward(query, key, value, sinks, sequences, *settings):
    *packed, scale, softcap, backend = settings
    options, layout = unpack_options(*packed), _layout_of(query, sequences)
    module = backends.choose(backend, "span", query, options, layout, softcap)
    with torch.autocast(query.device.type, enabled=False):
        tensors = map(rows_contiguous, (query, key, value))
        output, lse, blocks = module.span_forward(*tensors, layout, options, Scoring(scale, softcap))
        output, lse = add_sinks(output, lse, sinks, layout)
    # How many selections there are, only the table's content tells, and torch has to know sizes without it.
    rows = _selections(query, sequences, options.unit_size)
    blocks = torch.nn.functional.pad(blocks, (0, 0, 0, rows - blocks.shape[1]), value=-1)
    return _strided_like(output, query), lse.contiguous(), blocks


@_span_forward.register_fake
def _(query, key, value, sinks, sequences, *settings):
    # Numbers may be symbols here, which no check of the options would take.
    given = dict(zip(_NAMES, settings))
    size = unit_size(given["selection"], given["chunk_size"], given["query_group"])
    rows = _selections(query, sequences, size)
    blocks = query.new_empty((key.shape[1], rows, given["top_k"]), dtype=torch.int32)
    return torch.empty_like(query), _empty_lse(query), blocks


@custom_op(
    add_op_namespace_prefix("span_attention_backward"),
    mutates_args=(),
    tags=_TAGS,
    schema=f"(Tensor grad, {_INPUTS}, Tensor output, Tensor lse, Tensor blocks, {_SETTINGS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _span_backward(grad, query, key, value, sinks, sequences, output, lse, blocks, *settings):
    *packed, scale, softcap, backend = settings
    options, layout = unpack_options(*packed), _layout_of(query, sequences)
    module = backends.choose(backend, "span", query, options, layout, softcap)
    blocks = blocks[:, : sum(options.units(length) for _, _, length in layout.sequences)].contiguous()
    grad, *tensors = map(rows_contiguous, (grad, query, key, value, output))
    saved = Saved(*tensors, lse, blocks)
    with torch.autocast(query.device.type, enabled=False):
        grads = module.span_backward(grad, saved, layout, options, Scoring(scale, softcap))
        return _all_gradients(grads, grad, saved, sinks)


def _rival(name: str, option: str):
    """Define the operators of one of SE-Attn's rivals and of its backward."""

    @custom_op(
        add_op_namespace_prefix(f"{name}_attention"),
        mutates_args=(),
        tags=_TAGS,
        schema=f"({_INPUTS}, {option}, {_SCORES}) -> (Tensor, Tensor)",
    )
    def forward(query, key, value, sinks, sequences, size, scale, softcap, backend):
        compute = getattr(backends.choose(backend, name, query, softcap=softcap), f"{name}_forward")
        layout = _layout_of(query, sequences)
        with torch.autocast(query.device.type, enabled=False):
            tensors = map(rows_contiguous, (query, key, value))
            output, lse = add_sinks(*compute(*tensors, layout, size, Scoring(scale, softcap)), sinks, layout)
        return _strided_like(output, query), lse.contiguous()

    @forward.register_fake
    def _(query, *_rest):
        return torch.empty_like(query), _empty_lse(query)

    @custom_op(
        add_op_namespace_prefix(f"{name}_attention_backward"),
        mutates_args=(),
        tags=_TAGS,
        schema=f"(Tensor grad, {_INPUTS}, Tensor output, Tensor lse, {option}, {_SCORES}) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
    )
    def backward(grad, query, key, value, sinks, sequences, output, lse, size, scale, softcap, backend):
        compute = getattr(backends.choose(backend, name, query, softcap=softcap), f"{name}_backward")
        grad, *tensors = map(rows_contiguous, (grad, query, key, value, output))
        saved, layout = Saved(*tensors, lse), _layout_of(query, sequences)
        with torch.autocast(query.device.type, enabled=False):
            grads = compute(grad, saved, layout, size, Scoring(scale, softcap))
            return _all_gradients(grads, grad, saved, sinks)

    _differentiate(forward, backward)
    return forward


def _all_gradients(grads, grad, saved, sinks):
    """Gradients of query, key and value, laid out like these, and of the sinks; no operator returns None, so without
    sinks it is an empty tensor."""
    of_sinks = sinks_gradient(grad, saved, sinks)
    empty = grad.new_empty(0) if of_sinks is None else of_sinks
    return (*map(_strided_like, grads, saved[:3]), empty)


def _differentiate(forward, backward):
    """Make `backward` the derivative of `forward`'s first output; the others are constants."""

    def remember(ctx, inputs, output):
        ctx.settings = inputs[5:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:5], *output)

    def first(ctx, grad, *_):
        query, key, value, sinks, *rest = ctx.saved_tensors
        wanted = sinks if ctx.needs_input_grad[3] else None
        *grads, of_sinks = backward(grad, query, key, value, wanted, *rest, *ctx.settings)
        return (*grads, None if wanted is None else of_sinks, None, *(None for _ in ctx.settings))

    def second(ctx, *_):
        raise RuntimeError("long attention has first derivatives only; leave out create_graph=True")

    @backward.register_fake
    def _(grad, query, key, value, sinks, *_rest):
        of_sinks = grad.new_empty(0) if sinks is None else torch.empty_like(sinks)
        return (*map(torch.empty_like, (query, key, value)), of_sinks)

    forward.register_autograd(first, setup_context=remember)
    backward.register_autograd(second)


_KEPT = DecodeTensors._fields


@custom_op(
    add_op_namespace_prefix("span_decode"),
    mutates_args=_KEPT,
    tags=_TAGS,
    schema=f"({_TENSORS}, Tensor? sequences, "
    f"{', '.join(f'Tensor({x}!) {name}' for x, name in zip('abcdefgh', _KEPT))}, {_SETTINGS}) -> (Tensor, Tensor)",
)
def _span_decode(query, key, value, sequences, *rest):
    kept, (*packed, scale, softcap, backend) = DecodeTensors(*rest[: len(_KEPT)]), rest[len(_KEPT) :]
    options, layout = unpack_options(*packed), _layout_of(query, sequences)
    module = backends.choose(backend, "decode", query, options, softcap=softcap)
    with torch.autocast(query.device.type, enabled=False):
        tensors = map(rows_contiguous, (query, key, value))
        output, lse = module.span_decode(*tensors, layout, kept, options, Scoring(scale, softcap))
    return output.contiguous(), lse.contiguous()


@_span_decode.register_fake
def _(query, *_rest):
    return query.new_empty(query.shape), _empty_lse(query)


def _selections(query: Tensor, sequences: Optional[Tensor], unit_size: int) -> int:
    """The number of selections; of a table at least that many: each sequence may end in one shorter unit."""
    batch, _, length, _ = query.shape
    if sequences is None:
        return batch * -(-length // unit_size)
    return batch * length // unit_size + sequences.shape[0]


def _empty_lse(query: Tensor) -> Tensor:
    return query.new_empty(query.shape[:-1], dtype=accumulation_dtype(query.dtype))


def _strided_like(x: Tensor, other: Tensor) -> Tensor:
    """`x`, laid out in memory as the fake implementations promise."""
    if x.stride() == torch.empty_like(other, device="meta").stride():
        return x
    return torch.empty_like(other).copy_(x)


_differentiate(_span_forward, _span_backward)
_sliding_window = _rival("sliding_window", "SymInt window")
_shifted_sparse = _rival("shifted_sparse", "Scalar group")
