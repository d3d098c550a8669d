# SPDX-License-Identifier: Apache-2.0
"""Tables are kept between calls, and those that a CUDA graph reads for good."""

from __future__ import annotations

import gc
import weakref

import torch

from hylora_kernels import cached
from hylora_kernels.cached import cached_tables


def test_recent_tables_are_made_once_and_old_ones_dropped():
    table = cached_tables(lambda size: torch.arange(size))
    first = table(0)
    assert table(0) is first
    for size in range(1, 17):
        table(size)
    assert table(0) is not first


def test_numbers_of_two_types_are_two_calls():
    table = cached_tables(lambda group: torch.tensor(group))
    assert (table(1).dtype, table(1.0).dtype) == (torch.int64, torch.float32)


def test_what_a_graph_has_captured_stays_when_it_is_made_anew(monkeypatch):
    table = cached_tables(lambda size: torch.arange(size))
    alive = []
    for capturing in (True, True, False):
        monkeypatch.setattr(cached, "is_capturing", lambda capturing=capturing: capturing)
        alive.append(weakref.ref(table(99)))
        monkeypatch.setattr(cached, "is_capturing", lambda: False)
        for size in range(16):
            table(size)
    gc.collect()
    assert [kept() is not None for kept in alive] == [True, True, False]


def test_nothing_is_captured_where_no_device_is_in_use(monkeypatch):
    """Also where torch was built for CUDA and there is no driver, of which the stream must not be asked."""

    def no_driver():
        raise RuntimeError("Found no NVIDIA driver on your system")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", no_driver)
    assert not cached.is_capturing()
