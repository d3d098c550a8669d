# SPDX-License-Identifier: Apache-2.0
"""Result files are whole or absent, and not replaced by accident."""

from __future__ import annotations

import json
import os

import pytest

from hylora_eval.results import Result, check_output


def test_the_folder_is_made_and_the_file_is_whole(tmp_path):
    path = check_output(tmp_path / "new" / "ppl.json")
    Result(a=[1, 2.5, None]).save(path)
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
    Result(old=True).save(path)

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        Result(new=True).save(path)
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["ppl.json"]


def test_a_wrong_field_is_named_by_its_path():
    result = Result(results=[{"time": {"smallest": float("nan"), "median": 1}, "acc,none": "N/A"}])
    assert result.finite_number("results", 0, "time", "median") == 1.0
    for keys, message in (
        (("results", 1), r"results\[1\] is missing"),
        (("results", 0, "acc,none"), r"results\[0\]\['acc,none'\] is 'N/A', not of type int or float"),
        (("results", 0, "time", "smallest"), r"results\[0\]\.time\.smallest=nan must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            result.finite_number(*keys)
        assert result.optional_number(*keys) is None
