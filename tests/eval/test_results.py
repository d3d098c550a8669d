# SPDX-License-Identifier: Apache-2.0
"""Result files are whole or absent, and not replaced by accident."""

from __future__ import annotations

import json
import os

import pytest

from hylora_eval.results import check_output, save_result


def test_the_folder_is_made_and_the_file_is_whole(tmp_path):
    path = check_output(tmp_path / "new" / "ppl.json")
    save_result(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert os.listdir(path.parent) == ["ppl.json"]


def test_an_existing_file_needs_permission(tmp_path):
    path = tmp_path / "ppl.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="exists"):
        check_output(path)
    assert check_output(path, overwrite=True) == path


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        check_output(tmp_path, overwrite=True)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "ppl.json"
    save_result(path, {"old": True})

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_result(path, {"new": True})
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["ppl.json"]
