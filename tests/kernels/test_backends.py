# SPDX-License-Identifier: Apache-2.0
"""Which backend computes what, and what is said when the one asked for cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from inspect import signature
from pathlib import Path

import pytest
import torch

from hylora_kernels import (
    SequenceLayout,
    backends,
    flash_backend,
    shifted_sparse_attention,
    sliding_window_attention,
    span_attention,
    torch_backend,
    triton_backend,
)
from hylora_kernels.devices import why_no_kernels
from hylora_kernels.options import BACKENDS, SpanOptions
from hylora_kernels.saved import Saved
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend import launch
from hylora_kernels.triton_backend.interpreter import interpreter_fault
from tests.kernels.inputs import random_inputs

KERNELS = Path(backends.__file__).parents[1]


class CudaQuery:
    """As much of a query on a GPU as the choice of a backend looks at."""

    def __init__(self, dtype=torch.bfloat16, head_dim=64, length=8192):
        self.device = torch.device("cuda")
        self.dtype, self.shape = dtype, (1, 4, length, head_dim)


@pytest.fixture
def gpu(monkeypatch):
    """Sets the compute capability of a GPU that is not there."""

    def capable_of(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    capable_of(9, 0)
    backends._warn_once.cache_clear()
    return capable_of


def options(**changes):
    fields = {"block_size": 32, "top_k": 8, "chunk_size": 2048, "selection": "chunk", "query_group": 64}
    return SpanOptions(**{**fields, "retrieval": "relevance", "summary": "attention", "seed": 0, **changes})


def chosen(query, name="auto", **changes):
    layout = SequenceLayout.dense(query.shape[0], query.shape[2])
    return backends.choose(name, "span", query, options(**changes), layout)


def test_a_cpu_gets_torch():
    query = random_inputs(1, 2, 1, 8)[0]
    assert chosen(query) is torch_backend
    assert backends.choose("auto", "sliding_window", query) is torch_backend


def test_a_gpu_gets_triton_and_libraries_for_what_they_have(gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(CudaQuery()) is triton_backend
        assert chosen(CudaQuery(length=2048)) is flash_backend  # a single chunk
        assert backends.choose("auto", "shifted_sparse", CudaQuery()) is flash_backend
        assert backends.choose("auto", "sliding_window", CudaQuery(torch.float32)) is torch_backend


@pytest.mark.parametrize(
    ("query", "changes", "module", "message"),
    [
        ({"head_dim": 512}, {}, torch_backend, "head_dim=512 is not a multiple of 8 up to 256; .*backend='torch'"),
        ({"head_dim": 60}, {}, torch_backend, "head_dim=60 .*backend='torch'"),
        ({"dtype": torch.float64}, {}, torch_backend, "torch.float64, .*torch.bfloat16; .*backend='torch'"),
        ({}, {"block_size": 48}, flash_backend, "block_size=48 is not one of 8, 16, 32, 64, 128; .*backend='flash'"),
        ({}, {"top_k": 65}, flash_backend, "top_k=65 is more than 64; .*backend='flash'"),
        ({}, {"summary": "representatives"}, flash_backend, "no kernel pools scores, as summary='representatives'"),
        ({}, {"pooling": "max"}, flash_backend, "no kernel pools scores, .*pooling='max'"),
    ],
)
def test_what_triton_does_not_take_is_said_once_and_computed_otherwise(gpu, query, changes, module, message):
    with pytest.warns(UserWarning, match=message):
        assert chosen(CudaQuery(**query), **changes) is module
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(CudaQuery(**query), **changes) is module


def test_an_old_gpu_gets_torch(gpu):
    gpu(7, 5)
    with pytest.warns(UserWarning, match=r"compute capability \(7, 5\), and the kernels need \(8, 0\)"):
        assert chosen(CudaQuery()) is torch_backend


@pytest.mark.parametrize(
    ("hip", "capability", "reason"),
    [
        (None, (9, 0), None),
        (None, (8, 0), None),
        (None, (7, 5), r"compute capability \(7, 5\)"),
        ("7.1.25424", (9, 4), "ROCm 7.1.25424"),
        ("6.4.43482", (12, 0), "ROCm 6.4.43482"),
    ],
)
def test_kernels_are_for_gpus_of_nvidia_that_are_not_too_old(hip, capability, reason):
    found = why_no_kernels(hip, capability)
    assert found is None if reason is None else re.search(reason, found)


def test_rocm_gets_torch_for_all_work(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    gpu(9, 4)
    with pytest.warns(UserWarning, match="torch is built for ROCm 7.1.25424, .*backend='torch'"):
        assert chosen(CudaQuery()) is torch_backend
    for work in ("select", "decode", "sliding_window", "shifted_sparse"):
        assert backends.choose("auto", work, CudaQuery(), options()) is torch_backend
    for name in ("triton", "flash"):
        with pytest.raises(ValueError, match=f"backend='{name}' .*ROCm.*use backend='torch'"):
            chosen(CudaQuery(), name)


@pytest.mark.parametrize("version", [(8, 6), (8, 9), (12, 0)])
def test_a_gpu_with_little_shared_memory_gets_what_fits(gpu, version):
    gpu(*version)
    assert chosen(CudaQuery(head_dim=128)) is triton_backend
    with pytest.warns(UserWarning, match="head_dim=256 takes more shared memory than the device has"):
        assert chosen(CudaQuery(head_dim=256)) is flash_backend
    ampere = launch._listed("forward", 64, "half", (8, 0))
    assert launch.launch_for("forward", 64, torch.bfloat16, torch.device("cuda")) == ampere
    assert ampere != launch._listed("forward", 64, "half", (9, 0))


def test_padding_alone_is_no_causal_attention(gpu):
    """Libraries refuse to compute nothing; the kernels do not."""
    layout = SequenceLayout(1, 8192, ())
    assert backends.choose("auto", "span", CudaQuery(), options(), layout) is triton_backend


def test_without_triton_a_gpu_gets_flash(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "hylora_kernels.triton_backend", None)
    monkeypatch.delattr("hylora_kernels.triton_backend")
    with pytest.warns(UserWarning, match="triton cannot be imported .*backend='flash'"):
        assert chosen(CudaQuery()) is flash_backend
    with pytest.raises(ValueError, match="backend='triton' does not take this input: triton cannot be imported"):
        chosen(CudaQuery(), "triton")


def test_a_backend_asked_for_by_name_refuses_and_names_another(gpu):
    with pytest.raises(ValueError, match="backend='triton' .*top_k=65 .*use backend='flash' or 'auto'"):
        chosen(CudaQuery(), "triton", top_k=65)
    with pytest.raises(ValueError, match="backend='flash' .*use backend='torch' or 'auto'"):
        chosen(CudaQuery(torch.float32), "flash")
    assert chosen(CudaQuery(torch.float32), "torch") is torch_backend


@pytest.mark.parametrize(
    ("function", "given"),
    [(sliding_window_attention, {"window": 4}), (shifted_sparse_attention, {"group": 4})],
)
def test_the_rivals_have_no_triton_kernels(function, given):
    with pytest.raises(ValueError, match="backend='triton' .*no kernel for this attention; use backend='torch'"):
        function(*random_inputs(1, 2, 1, 8), backend="triton", **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels then run compiled")
def test_tritons_interpreter_is_not_trusted_with_bfloat16():
    with pytest.raises(ValueError, match="torch.bfloat16, and the kernels take torch.float16, torch.float32"):
        inputs = random_inputs(1, 2, 1, 40, head_dim=16, dtype=torch.bfloat16)
        span_attention(*inputs, block_size=16, chunk_size=16, backend="triton")


@pytest.mark.parametrize(
    ("of_triton", "of_numpy", "runs"),
    [
        ("3.6.0", "2.5.1", False),
        ("3.6.0+git1234", "2.4.0rc1", False),
        ("3.6.0", "2.3.5", True),
        ("3.7.1", "2.5.1", True),
        ("3.10.0", "3.0", True),
    ],
)
def test_an_interpreter_that_numpy_breaks_is_known(of_triton, of_numpy, runs):
    fault = interpreter_fault(of_triton, of_numpy)
    assert (fault is None) == runs
    assert runs or (of_triton in fault and of_numpy in fault and "triton>=3.7 or numpy<2.4" in fault)


def test_torch_shows_its_operations():
    query = random_inputs(1, 2, 1, 8)[0]
    assert [name for name in BACKENDS if backends.shows_operations(name, query)] == ["auto", "torch"]
    assert not backends.shows_operations("auto", CudaQuery())


@pytest.mark.parametrize("backend", [torch_backend, flash_backend, triton_backend], ids=lambda b: b.__name__)
def test_a_backend_is_what_the_protocol_says(backend):
    promised = {name: value for name, value in vars(backends.Backend).items() if name in backend.__all__}
    assert promised.keys() == set(backend.__all__)
    for name, function in promised.items():
        assert list(signature(function).parameters)[1:] == list(signature(getattr(backend, name)).parameters), name


def test_what_a_backend_does_not_offer_it_refuses(gpu):
    works = {"span": "span_forward", "select": "select_blocks", "decode": "span_decode", "blocks": "block_forward"}
    works |= {rival: f"{rival}_forward" for rival in ("sliding_window", "shifted_sparse")}
    for backend in (torch_backend, flash_backend, triton_backend):
        offered = {work for work, function in works.items() if hasattr(backend, function)}
        assert offered == {work for work in works if backend.unsupported(work, CudaQuery(), options()) is None}


def run(code):
    """Python in a process of its own, where nothing has been imported and Triton has no interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=KERNELS, env={"PATH": ""}, capture_output=True, text=True, check=False
    )


def test_the_package_imports_without_triton():
    done = run(
        "import sys; sys.modules['triton'] = None\n"
        "import torch, hylora_kernels as h\n"
        "x = torch.ones(1, 1, 40, 16)\n"
        "assert h.span_attention(x, x, x, block_size=8, chunk_size=16).shape == x.shape\n"
        "h.span_attention(x, x, x, block_size=16, chunk_size=16, backend='triton')"
    )
    assert "ValueError: backend='triton' does not take this input: triton cannot be imported" in done.stderr


def test_a_cpu_without_the_interpreter_is_told():
    done = run(
        "import torch, hylora_kernels as h\n"
        "x = torch.ones(1, 1, 40, 16)\n"
        "h.span_attention(x, x, x, block_size=16, chunk_size=16, backend='triton')"
    )
    assert "its interpreter alone (TRITON_INTERPRET=1); use backend='torch' or 'auto'" in done.stderr


def test_triton_kernels_are_launched_on_the_tensors_device(monkeypatch):
    """Triton launches on the current device, which need not be that of the tensors."""
    entered = []

    class Device:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            entered.append(self.tensor)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "device_of", Device)
    query, key, value = random_inputs(1, 2, 1, 8, 16, torch.float32)
    small = options(block_size=16, chunk_size=16, retrieval="none")
    layout = SequenceLayout.dense(1, 8)
    output, lse, blocks = triton_backend.span_forward(query, key, value, layout, small, Scoring(0.3))
    triton_backend.span_backward(output, Saved(query, key, value, output, lse, blocks), layout, small, Scoring(0.3))
    triton_backend.select_blocks(query, key, value, layout, small, Scoring(0.3))
    assert [x is y for x, y in zip(entered, (query, output, query), strict=True)] == [True] * 3
