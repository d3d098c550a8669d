# SPDX-License-Identifier: Apache-2.0
"""Own chunks by a library, what was retrieved by our kernels: together they are what the definition says."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hylora_kernels import SequenceLayout, reference, triton_backend
from hylora_kernels.options import SpanOptions
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import own_chunks
from hylora_kernels.triton_backend.launch import Launch
from hylora_kernels.triton_backend.launch import forced as forced_launches
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_DEVICE = [name for name, library in own_chunks.LIBRARIES.items() if library.device == DEVICE]
DTYPE, HEAD_DIM = (torch.float32, 16) if DEVICE == "cpu" else (torch.float16, 64)
LIBRARIES = pytest.mark.parametrize("library", ON_DEVICE)
SCORING = Scoring(0.3)
SMALL = dict.fromkeys(
    ("forward", "forward_pairs", "merge_slots", "backward_query", "backward_retrieved", "backward_pairs"),
    Launch(block_m=32, block_n=32, num_warps=4, num_stages=2),
)


def options_of(selection="chunk", retrieval="relevance", top_k=2, chunk_size=32):
    return SpanOptions(16, top_k, chunk_size, selection, retrieval=retrieval)


def inputs_of(batch, heads, length, positions_first):
    """Query, key, value and the output's gradient, laid out as `[B, L, H, D]` or as `[B, H, L, D]`."""
    drawn = [*random_inputs(batch, *heads, length, HEAD_DIM, DTYPE)]
    drawn += random_inputs(batch, *heads, length, HEAD_DIM, DTYPE, seed=1)[:1]
    order = (0, 2, 1, 3) if positions_first else (0, 1, 2, 3)
    return [x.to(DEVICE).permute(order).contiguous().permute(order) for x in drawn]


def compute(tensors, options, launches=SMALL, scoring=SCORING):
    """Output, log-sum-exp and gradients, by our kernels beside what is forced."""
    *inputs, grad = tensors
    layout = SequenceLayout.dense(grad.shape[0], grad.shape[2])
    with forced_launches(**launches):
        output, lse, blocks = triton_backend.span_forward(*inputs, layout, options, scoring)
        saved = Saved(*inputs, output, lse, blocks)
        return output, lse, *triton_backend.span_backward(grad, saved, layout, options, scoring)


@contextmanager
def asked(library):
    """A library that a GPU has may not take what is asked of it: then there is nothing to test."""
    with own_chunks.forced(library):
        try:
            yield
        except RuntimeError as error:
            if DEVICE == "cpu":
                raise
            pytest.skip(f"{library} refuses: {error}")


def check(tensors, options, library):
    layout = SequenceLayout.dense(tensors[0].shape[0], tensors[0].shape[2])
    with asked(library):
        output, _, *grads = compute(tensors, options)
    *inputs, grad = (x.cpu().double() for x in tensors)
    definition = output_and_gradients(
        lambda *leaves: reference.span_attention(*leaves, layout, options, SCORING), inputs, grad
    )
    for x, a, e in zip(tensors[:1] + tensors[:3], [output, *grads], definition, strict=True):
        assert (a.dtype, a.stride()) == (x.dtype, x.stride())
        assert_close(a.cpu(), e.to(a.dtype))


@LIBRARIES
@pytest.mark.parametrize("selection", ["chunk", "token"])
@pytest.mark.parametrize(
    ("batch", "heads", "length", "positions_first"),
    [
        (1, (2, 2), 64, False),
        (1, (4, 2), 75, True),
        (2, (2, 1), 64, False),
        (2, (2, 1), 64, True),
        (2, (2, 2), 53, True),
        (1, (2, 1), 20, False),
    ],
)
def test_agrees_with_the_reference(batch, heads, length, positions_first, selection, library):
    retrieval = "relevance" if DEVICE == "cpu" else "random"  # in half precision near ties may fall otherwise
    check(inputs_of(batch, heads, length, positions_first), options_of(selection, retrieval), library)


@LIBRARIES
@pytest.mark.parametrize("changes", [{"retrieval": "none"}, {"top_k": 0}, {"chunk_size": 16}, {"selection": "causal"}])
def test_other_options_agree_with_the_reference(changes, library):
    options = options_of(**{"retrieval": "random", "chunk_size": 64, **changes})
    check(inputs_of(1, (2, 1), 150, True), options, library)


@LIBRARIES
def test_parts_of_other_tensors_are_read_where_they_lie(library):
    query, key, value, grad = inputs_of(2, (2, 1), 96, True)
    fused = torch.cat([query, key, value], dim=1).transpose(1, 2).contiguous().transpose(1, 2)
    parts = [*fused.split([2, 1, 1], dim=1), grad[:, :, :1].expand_as(grad)]
    options = options_of(retrieval="random")
    with asked(library):
        found = compute(parts, options)
        expected = compute([query, key, value, parts[3].contiguous()], options)
    for a, e in zip(found, expected, strict=True):
        assert_close(a, e)


@pytest.mark.gpu
@LIBRARIES
@pytest.mark.parametrize("selection", ["chunk", "token"])
@pytest.mark.parametrize("positions_first", [True, False], ids=["BLHD", "BHLD"])
@pytest.mark.parametrize(("batch", "length"), [(1, 4096), (2, 4096), (2, 4133)])
def test_real_sizes_agree_with_our_kernels(batch, length, positions_first, selection, library):
    order = (0, 2, 1, 3) if positions_first else (0, 1, 2, 3)
    drawn = (*random_inputs(batch, 4, 2, length, 128), random_inputs(batch, 4, 2, length, 128, seed=1)[0])
    tensors = [x.to(DEVICE, torch.bfloat16).permute(order).contiguous().permute(order) for x in drawn]
    options = SpanOptions(32, 8, 1024, selection, summary="mean_std")
    with own_chunks.forced(None):
        expected = compute(tensors, options, launches={})
    with asked(library):
        found = compute(tensors, options, launches={})
    for a, e in zip(found, expected, strict=True):
        assert (a.double() - e.double()).norm() <= 2e-2 * e.double().norm()


@pytest.mark.skipif(DEVICE != "cpu", reason="those of GPUs add up in any order")
@pytest.mark.parametrize("selection", ["chunk", "token"])
def test_repeats_bit_for_bit(selection):
    tensors = inputs_of(1, (2, 1), 131, True)
    with own_chunks.forced("cpu"):
        first, second = (compute(tensors, options_of(selection)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_chunks_are_views():
    """Evenly spaced ones, of rows after each other or of one row; and so is what is put together from them."""
    for tensors in (inputs_of(2, (4, 2), 96, True), inputs_of(1, (4, 2), 96, False)):
        (piece,) = own_chunks._pieces(tensors, 32)
        chunks = piece.chunks(tensors[0])
        assert chunks.shape == (len(tensors[0]) * 3, 4, 32, 16) and chunks.data_ptr() == tensors[0].data_ptr()
        assert torch.equal(chunks[1], tensors[0][0, :, 32:64])
        together = own_chunks._together([chunks], [piece], tensors[0])
        assert together.data_ptr() == chunks.data_ptr() and torch.equal(together, tensors[0])
    for tensors in (inputs_of(2, (4, 2), 96, False), inputs_of(2, (4, 2), 101, True)):
        for piece in own_chunks._pieces(tensors, 32):
            assert piece.chunks(tensors[0]).untyped_storage().data_ptr() == tensors[0].untyped_storage().data_ptr()


class KernelPreconditions(TorchDispatchMode):
    """Refuses what the CUDA kernels misread, which torch's shape functions let pass."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "_backward" in str(function):
            grad, query, key, value, output, lse = args[:6]
            assert grad.stride() == output.stride() == query.stride()
            assert all(x.stride(-1) == 1 for x in (grad, query, key, value, output))
            assert lse.is_contiguous() and lse.shape[:3] == query.shape[:3]
            self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("positions_first", [True, False], ids=["BLHD", "BHLD"])
@pytest.mark.parametrize(("batch", "length", "calls"), [(2, 256, (1, 2)), (1, 200, (2, 2)), (2, 200, (3, 3))])
@pytest.mark.parametrize("library", ["cudnn", "flash"])
def test_calls_of_a_gpus_libraries_are_well_formed(library, batch, length, calls, positions_first):
    """torch's shape functions of the operators accept the calls, which needs no GPU."""
    shapes = [(batch, length, 6, 64)] + [(batch, length, 2, 64)] * 2 + [(batch, 6, length, 64)]
    query, key, value, grad = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if not positions_first:
        query, key, value = (x.contiguous() for x in (query, key, value))
    layout = SequenceLayout.dense(batch, length)
    with KernelPreconditions() as seen, own_chunks.forced(library):
        output, lse = own_chunks.own_forward(query, key, value, layout, 64, SCORING)
        saved = Saved(query, key, value, output, lse)
        grads = own_chunks.own_backward(grad, saved, layout, 64, SCORING)
    assert seen.calls == calls[not positions_first]
    assert (lse.shape, lse.dtype, lse.is_contiguous()) == (query.shape[:3], torch.float32, True)
    for found, like in zip((output, *grads), (query, query, key, value), strict=True):
        assert (found.shape, found.dtype, found.stride()) == (like.shape, like.dtype, like.stride())


# What is asked of a query when a library is chosen: nothing of its numbers.
class Query(NamedTuple):
    shape: tuple[int, ...] = (1, 2, 96, 16)
    dtype: torch.dtype = torch.float16
    device: torch.device = torch.device("cuda")


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """Makes the table name a library."""

    def name(library, repeats=True):
        path = tmp_path / "own_chunks.json"
        path.write_text(json.dumps({"sm_90": {"half": {"16": {"library": library, "repeats": repeats}}}}))
        monkeypatch.setattr(own_chunks, "_TABLE", path)
        own_chunks._table.cache_clear()

    monkeypatch.setattr(own_chunks, "architecture", lambda device: "sm_90")
    yield name
    own_chunks._table.cache_clear()


def test_the_table_ships_empty(listed):
    """No GPU has measured a library."""
    assert json.loads(own_chunks._TABLE.read_text()) == {}
    assert own_chunks.chosen(Query(), SequenceLayout.dense(1, 96)) is None
    assert own_chunks.described("cuda") == ("triton", "no library was measured on sm_90")


def test_what_the_table_names_computes_what_was_measured(listed):
    listed("cudnn")
    dense = SequenceLayout.dense(1, 96)
    assert own_chunks.chosen(Query(), dense) == "cudnn"
    others = [Query(dtype=torch.float32), Query(device=torch.device("cpu")), Query(shape=(1, 2, 96, 32))]
    assert [own_chunks.chosen(query, dense) for query in others] == [None] * 3
    for sequences in (((0, 0, 90),), ((0, 0, 40), (0, 40, 56)), ()):
        assert own_chunks.chosen(Query(), SequenceLayout(1, 96, sequences)) is None
    with own_chunks.forced(None):
        assert own_chunks.chosen(Query(), dense) is None
    assert own_chunks.described("cuda")[0] == "cudnn at head_dim=16; else triton"
    listed(None)
    assert own_chunks.chosen(Query(), dense) is None
    assert own_chunks.described("cuda") == ("triton", "no library was faster on sm_90 at head_dim=16")


@pytest.mark.parametrize("repeats", [True, False])
def test_asked_to_repeat_only_what_does_is_chosen(listed, repeats):
    listed("flash", repeats)
    torch.use_deterministic_algorithms(True)
    try:
        assert own_chunks.chosen(Query(), SequenceLayout.dense(1, 96)) == ("flash" if repeats else None)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("refuses", ["forward", "backward"])
def test_where_a_library_refuses_our_kernels_compute(monkeypatch, refuses):
    tensors, options = inputs_of(1, (2, 1), 64, True), options_of()

    def refuse(*_):
        raise RuntimeError("no engine takes this")

    library = own_chunks.LIBRARIES[ON_DEVICE[-1]]
    monkeypatch.setitem(own_chunks.LIBRARIES, "other", library._replace(**{refuses: refuse}))
    own_chunks._warn_once.cache_clear()
    with own_chunks.forced("other"), pytest.raises(RuntimeError, match="no engine"):
        compute(tensors, options)
    with own_chunks.forced("other"):
        compute(tensors, options, scoring=SCORING._replace(softcap=2.0))  # which no library is asked for
    with own_chunks.forced(None):
        expected = compute(tensors, options)
    monkeypatch.setattr(own_chunks, "chosen", lambda query, layout: "other")
    with pytest.warns(UserWarning, match="other does not compute own chunks here.*no engine takes this"):
        found = compute(tensors, options)
    for a, e in zip(found, expected, strict=True):
        assert_close(a, e)
