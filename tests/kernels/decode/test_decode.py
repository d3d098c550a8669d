# SPDX-License-Identifier: Apache-2.0
"""A decoding step is the last row of span-expanded attention over the tokens so far."""

from __future__ import annotations

import pytest
import torch

from hylora_kernels import SequenceLayout, SpanOptions, span_attention
from hylora_kernels import decode as decoding
from hylora_kernels import selection as kernel_selection
from hylora_kernels.decode import DecodeState, span_decode
from hylora_kernels.options import SUMMARIES, SUMMARY_DTYPES
from hylora_kernels.torch_backend.decode import step
from tests.kernels.decode.stepping import decode, empty_state
from tests.kernels.inputs import random_inputs
from tests.pages import blocks, page
from tests.tolerances import assert_close

SELECTIONS = {
    "chunk": {"selection": "chunk"},
    "each": {"selection": "token"},
    "groups": {"selection": "causal", "query_group": 4},
}
METHODS = [name for name in vars(DecodeState) if not name.startswith("_") and name not in ("tensors", "expect")]
# Lengths cross many blocks, units and chunks; chunks are no multiple of blocks, capacity and chunks no power of two.
SMALL = {"block_size": 4, "chunk_size": 12, "top_k": 2}


def last_rows(inputs, backend="torch", **options):
    """The last row of the attention over every prefix."""
    prefixes = ([x[:, :, :length] for x in inputs] for length in range(1, inputs[0].shape[2] + 1))
    return torch.cat([span_attention(*x, backend=backend, **options)[:, :, -1:] for x in prefixes], dim=2)


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2)])
def test_steps_are_last_rows(heads, kv_heads, selection):
    inputs = random_inputs(2, heads, kv_heads, 50)
    options = {**SMALL, **selection}
    state = empty_state(inputs, **options)
    assert_close(decode(inputs, state), last_rows(inputs, **options))
    assert state.lengths.tolist() == [50, 50] and state.held == 50


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_the_definition(selection):
    inputs = random_inputs(1, 4, 2, 28)
    options = {**SMALL, **selection}
    expected = last_rows(inputs, backend="reference", **options)
    assert_close(decode(inputs, empty_state(inputs, **options)), expected)
    state = empty_state(inputs, keep_queries=True, **options)
    assert_close(decode(inputs, state, backend="reference"), expected)


@pytest.mark.parametrize(
    "variant",
    [
        {"summary": "mean_key"},
        {"summary": "landmark", "seed": 3},
        {"retrieval": "random", "seed": -5},
        {"retrieval": "none"},
        {"top_k": 0},
        {"top_k": 20},
        {"chunk_size": 100},
        {"scale": 0.2},
        {"block_size": 16, "chunk_size": 20},
    ],
    ids=lambda variant: "-".join(map(str, *variant.items())) if len(variant) == 1 else None,
)
@pytest.mark.parametrize("selection", [SELECTIONS["chunk"], SELECTIONS["groups"]], ids=["chunk", "groups"])
def test_options(selection, variant):
    inputs = random_inputs(1, 4, 2, 60)
    options = {**SMALL, **selection, **variant}
    assert_close(decode(inputs, empty_state(inputs, **options), backend="torch"), last_rows(inputs, **options))


RULES = [{"summary": name} for name in SUMMARIES] + [{"retrieval": "random"}]
RULES += [{"summary": "mean_std", "summary_dtype": "bfloat16"}]


@pytest.mark.parametrize(
    "options",
    [
        {**selection, **rule}
        for selection in SELECTIONS.values()
        for rule in RULES
        if rule.get("summary") != "representatives" or selection == SELECTIONS["each"]
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_steps_whose_shapes_do_not_depend_on_lengths(options):
    """As a GPU takes them: tokens of rows that are at different places."""
    options = SpanOptions(**SMALL, **options)
    inputs = random_inputs(2, 4, 2, 44)
    prompt = [x[:, :, :17] for x in inputs]
    layout = SequenceLayout(2, 17, ((0, 0, 17), (1, 9, 8)))
    one, other = (DecodeState.from_prefill(*prompt, options, layout=layout, capacity=44) for _ in range(2))
    for at in range(17, 44):
        token = [x[:, :, at : at + 1] for x in inputs]
        output, _ = step(*token, one.tensors(), options, one.scoring)
        assert_close(output, span_decode(*token, other))
    for x, y in zip(one.tensors(), other.tensors(), strict=True):
        assert_close(x.double(), y.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lower_precision(dtype):
    inputs = random_inputs(1, 2, 1, 50, dtype=dtype)
    options = {**SMALL, **SELECTIONS["groups"]}
    assert_close(decode(inputs, empty_state(inputs, **options)), last_rows(inputs, **options))


@pytest.mark.parametrize("selection", [SELECTIONS["each"], SELECTIONS["groups"]], ids=["each", "groups"])
def test_causal_steps_are_the_rows_of_one_prefill(selection):
    inputs = random_inputs(1, 2, 2, 61)
    options = {**SMALL, **selection}
    assert_close(decode(inputs, empty_state(inputs, **options)), span_attention(*inputs, **options))


@pytest.mark.parametrize("at_a_time", [1 << 7, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("selection", [SELECTIONS["each"], SELECTIONS["groups"]], ids=["each", "groups"])
def test_bfloat16_summaries_choose_what_a_prefill_chooses(monkeypatch, selection, dtype, at_a_time):
    """Of keys so much alike that rounding decides; four blocks, or all, are widened at a time."""
    monkeypatch.setitem(kernel_selection._SLICE, "cpu", at_a_time)
    query, key, value = random_inputs(1, 2, 2, 61, dtype=dtype)
    inputs = query, 1 + key / 64, value
    options = {**SMALL, **selection, "summary": "mean_std"}
    rounded = empty_state(inputs, **options, summary_dtype="bfloat16")
    actual = decode(inputs, rounded)
    assert_close(actual, span_attention(*inputs, **options, summary_dtype="bfloat16"))
    assert not torch.allclose(actual, span_attention(*inputs, **options), atol=1e-2)
    assert rounded.summaries.dtype == torch.bfloat16 and rounded.sums.dtype == dtype


def test_bfloat16_summaries_take_half_the_memory():
    options = {**SMALL, "selection": "token", "summary": "mean_std", "dtype": torch.float32}
    wide, narrow = (DecodeState(2, 4, 2, 8, 64, **options, summary_dtype=name) for name in SUMMARY_DTYPES)
    for state in (wide, narrow):
        state.reserve(100)
    lengths = wide.lengths.nbytes
    assert narrow.bytes_held().cache == wide.bytes_held().cache
    assert narrow.bytes_held().rest - lengths == (wide.bytes_held().rest - lengths) / 2 == 2 * 2 * 25 * 16 * 2


@pytest.mark.parametrize("keep_queries", [False, True])
@pytest.mark.parametrize("length", [1, 4, 23, 36])
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_going_on_after_a_prefill(selection, length, keep_queries):
    inputs = random_inputs(2, 4, 2, 50)
    options = {**SMALL, **selection, "keep_queries": keep_queries}
    expected = decode(inputs, empty_state(inputs, **options))
    state = DecodeState.from_prefill(*(x[:, :, :length] for x in inputs), **options)
    assert state.held == length
    assert_close(decode(inputs, state, first=length), expected[:, :, length:])


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_rows_of_different_length(selection):
    """Padded prompts: every row goes on as it does alone, an empty one from nothing."""
    lengths, starts = [37, 0, 12, 25], [3, 0, 28, 7]
    inputs = random_inputs(4, 2, 1, 60)
    prompt = [torch.full_like(x[:, :, :40], float("nan")) for x in inputs]
    for x, tokens in zip(prompt, inputs, strict=True):
        for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            x[row, :, start : start + length] = tokens[row, :, :length]
    sequences = tuple((row, start, n) for row, (start, n) in enumerate(zip(starts, lengths, strict=True)) if n)
    options = {**SMALL, **selection}
    state = DecodeState.from_prefill(*prompt, layout=SequenceLayout(4, 40, sequences), **options)
    assert state.lengths.tolist() == lengths
    new = [torch.stack([x[row, :, n : n + 23] for row, n in enumerate(lengths)]) for x in inputs]
    actual = decode(new, state)
    for row, length in enumerate(lengths):
        alone = [x[row : row + 1, :, : length + 23] for x in inputs]
        assert_close(actual[row : row + 1], decode(alone, empty_state(alone, **options))[:, :, length:])


def test_beams_change_rows():
    inputs = random_inputs(3, 2, 2, 40)
    options = {**SMALL, **SELECTIONS["groups"]}
    state = empty_state(inputs, **options)
    decode(inputs, state, last=26)
    rows = torch.tensor([2, 2, 0])
    state.reorder(rows)
    actual = decode(inputs, state, first=26)
    mixed = [torch.cat([x[rows, :, :26], x[:, :, 26:]], dim=2) for x in inputs]
    assert_close(actual, decode(mixed, empty_state(mixed, **options))[:, :, 26:])


def test_room_is_made_when_it_runs_out_and_beforehand():
    inputs = random_inputs(1, 2, 2, 40)
    state = empty_state(inputs, **SMALL)
    decode(inputs, state, last=17)
    assert state.capacity == 20
    state.reserve(3)
    assert state.capacity == 20
    state.reserve(8)
    assert state.capacity == 28
    assert_close(decode(inputs, state, first=17), last_rows(inputs, **SMALL)[:, :, 17:])
    assert state.summaries.shape[2] == 12 and state.queries.shape[2] == 4


def test_no_gradient_and_no_trace_of_one_in_the_state():
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 2, 3)]
    state = empty_state(inputs, **SMALL)
    assert not decode(inputs, state).requires_grad
    assert not any(x.requires_grad for x in state.tensors())


def test_autocast_is_followed():
    inputs = random_inputs(1, 2, 2, 20, dtype=torch.float32)
    halves = [x.bfloat16() for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = DecodeState.from_prefill(*(x[:, :, :9] for x in inputs), **SMALL)
        actual = decode(inputs, state, first=9)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, decode(halves, empty_state(halves, **SMALL))[:, :, 9:])


def test_packed_rows_are_refused():
    layout = SequenceLayout(2, 10, ((0, 0, 10), (1, 0, 4), (1, 4, 6)))
    inputs = random_inputs(2, 2, 2, 10)
    with pytest.raises(ValueError, match="row 1 holds 2 packed sequences"):
        DecodeState.from_prefill(*inputs, layout=layout)
    state = empty_state(inputs)
    with pytest.raises(ValueError, match="row 1 holds 2 packed sequences"):
        span_decode(*inputs, state, layout=layout)
    assert state.held == 0


def test_too_little_room_for_the_prompt_is_refused():
    with pytest.raises(ValueError, match="capacity=9 is less than the 10 tokens"):
        DecodeState.from_prefill(*random_inputs(2, 2, 2, 10), capacity=9)


def test_what_is_lost_with_forgotten_tokens_is_said():
    inputs = random_inputs(1, 2, 2, 30)
    for options in ({"selection": "chunk"}, {"selection": "causal", "query_group": 4}, {"selection": "token"}):
        state = DecodeState.from_prefill(*inputs, **SMALL, **options, summary="mean_key")
        before = [x.clone() for x in state.tensors()]
        if options["selection"] == "token":
            state.crop(27)
            continue
        with pytest.raises(ValueError, match="row 0 cannot go back from 30 to 27 tokens: .*use selection='token'"):
            state.crop(27)
        assert all(map(torch.equal, state.tensors(), before)) and state.held == 30
    state = DecodeState.from_prefill(*inputs, **SMALL, selection="token")
    with pytest.raises(ValueError, match="summary='attention' needs the queries .* multiple of block_size=4"):
        state.crop(25)
    state.crop(24)
    with pytest.raises(ValueError, match="lengths=-1 must be"):
        state.crop(-1)
    with pytest.raises(ValueError, match="one for each of 1 rows"):
        state.crop(torch.tensor([1, 2]))


@pytest.mark.parametrize("rule", [{"pooling": "max"}, {"summary": "representatives"}], ids=str)
def test_choices_by_scores_of_many_queries_are_refused(rule):
    with pytest.raises(ValueError, match=f"{next(iter(rule.values()))!r}.*use selection='token'"):
        DecodeState(1, 2, 2, 8, capacity=4, **rule)


def test_what_does_not_fit_the_state_is_refused():
    token = random_inputs(2, 4, 2, 1)
    state = empty_state(token)
    for other in (random_inputs(1, 4, 2, 1), random_inputs(2, 2, 2, 1), random_inputs(2, 4, 2, 0)):
        with pytest.raises(ValueError, match="at least one token of each row of the state"):
            span_decode(*other, state)
    with pytest.raises(ValueError, match="float32"):
        span_decode(*(x.float() for x in token), state)
    with pytest.raises(ValueError, match="keep_queries=True"):
        span_decode(*token, state, backend="reference")
    with pytest.raises(ValueError, match="flash attention has no decoding step; use backend='torch'"):
        span_decode(*token, state, backend="flash")
    with pytest.raises((RuntimeError, IndexError), match="dtype"):
        state.reorder(torch.tensor([False, True]))  # a mask is no list of rows
    assert state.lengths.tolist() == [0, 0] and state.held == 0
    with pytest.raises(ValueError, match="cannot be shared out"):
        DecodeState(1, 3, 2, 8, capacity=4)


def test_the_page_keeps_its_word():
    text = page("docs/concepts/decoding.md")
    examples = blocks(text, "python")
    assert examples
    for example in examples:
        exec(compile(example, "docs/concepts/decoding.md", "exec"), {})
    for name in [*decoding.__all__, *METHODS]:
        assert name in text, name
