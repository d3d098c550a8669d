# SPDX-License-Identifier: Apache-2.0
"""Journals: lines come back, and only to those who ask for the same."""

from __future__ import annotations

import pytest

from hylora_eval.journal import Journal

SETTINGS = {"mode": "chunks", "lengths": (8, 16)}


def test_lines_come_back(tmp_path):
    path = tmp_path / "folder/kept.jsonl"
    journal = Journal(path, SETTINGS)
    journal.add({"window": 0, "sums": [0.1, 1e-300]})
    assert Journal(path, SETTINGS).lines == journal.lines == [{"window": 0, "sums": [0.1, 1e-300]}]


def test_wherever_a_file_is_cut_whole_lines_come_back(tmp_path):
    path = tmp_path / "kept.jsonl"
    journal = Journal(path, SETTINGS)
    for index in range(2):
        journal.add({"window": index})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        again = Journal(path, SETTINGS)
        assert again.lines == journal.lines[: max(0, content[:size].count(b"\n") - 1)]
        again.add({"window": 7})
        assert Journal(path, SETTINGS).lines[-1] == {"window": 7}


def test_other_settings_are_named(tmp_path):
    Journal(tmp_path / "kept.jsonl", SETTINGS)
    with pytest.raises(ValueError, match="made with mode='chunks' and now it is 'sliding'"):
        Journal(tmp_path / "kept.jsonl", {**SETTINGS, "mode": "sliding"})


@pytest.mark.parametrize("content", [b"my diary", b"my diary\n", b"[1]\n", b'{"a": 1}\n', b"\xff\n", b"3\n"])
def test_a_file_of_something_else_is_not_touched(tmp_path, content):
    path = tmp_path / "diary"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no interrupted evaluation"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == content
