# SPDX-License-Identifier: Apache-2.0
"""What a person sees: nothing where they should see nothing."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from hylora.training import reporting
from hylora.training.reporting import ProgressDisplay, peak_memory


def show(shown):
    with ProgressDisplay(total=10, start=2, unit="tokens", shown=shown) as display:
        display.update(3, loss=2.5, speed=12345.0, memory=3 * 2**30)
        display.note("evaluation after 3 updates: loss 2.4000 [held out]")


@pytest.fixture
def terminal(monkeypatch):
    """The stream of a console that takes itself for a wide terminal."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(reporting, "Console", lambda **options: console)
    return stream


def test_a_terminal_gets_the_bar_with_loss_speed_and_memory(terminal):
    show(shown=True)
    for part in ("3/10", "loss 2.5000", "12,345 tokens/s", "3.0 GiB", "loss 2.4000 [held out]"):
        assert part in terminal.getvalue()


def test_other_processes_show_nothing(terminal, capsys):
    show(shown=False)
    assert "loss" not in terminal.getvalue() and capsys.readouterr().err == ""


def test_without_a_terminal_only_events_are_printed(capsys):
    show(shown=True)
    assert capsys.readouterr().err == "evaluation after 3 updates: loss 2.4000 [held out]\n"


def test_without_a_terminal_updates_come_in_lines_with_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr("hylora.pace._LEAST", 0.0)
    monkeypatch.setattr("hylora.pace._SHARE", 0.0)
    with ProgressDisplay(total=10, start=2, unit="tokens", shown=True) as display:
        for step in (3, 4, 10):
            display.update(step, loss=2.5, speed=12345.0, memory=3 * 2**30)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "update 3 of 10: loss 2.5000  12,345 tokens/s  3.0 GiB"
    assert second.startswith("update 4 of 10: loss") and second.endswith(", 0:00:00 left")
    assert last.startswith("update 10 of 10: loss") and "left" not in last


def test_peak_memory_is_in_bytes():
    """Python with PyTorch takes more than 50 MB and less than 1 TB."""
    assert 50e6 < peak_memory(torch.device("cpu")) < 1e12
