# SPDX-License-Identifier: Apache-2.0
"""Files of predictions: what survives, and what is refused."""

from __future__ import annotations

import pytest

from hylora_eval.ruler.predictions import Prediction, Predictions

SETTINGS = {"seed": 1, "window": (1, 2), "dtype": "float32"}


def made(index, digest="d", text="an answer\nin lines ü"):
    return Prediction(128, "vt", index, f"{digest}{index}", text, 4, 0.5)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "p.jsonl"
    kept = Predictions(SETTINGS, path)
    kept.add([made(0), made(1)])
    kept.add([made(2)])
    return path


def test_predictions_come_back(path):
    found = Predictions(SETTINGS, path).of(128, "vt", ["d0", "d1", "d2", "d3"])
    assert found == {index: made(index) for index in range(3)}
    assert (
        Predictions(SETTINGS, path).of(256, "vt", ["d0"]) == {} == Predictions(SETTINGS, path).of(128, "cwe", ["d0"])
    )


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_that_was_cut_short_is_dropped_and_written_again(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = Predictions(SETTINGS, path)
    assert set(kept.of(128, "vt", ["d0", "d1", "d2"])) == {0, 1}
    kept.add([made(2)])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("size", [0, 9, 40])
def test_a_file_cut_within_its_first_line_starts_anew(path, size):
    path.write_bytes(path.read_bytes()[:size])
    kept = Predictions(SETTINGS, path)
    kept.add([made(0)])
    assert set(Predictions(SETTINGS, path).of(128, "vt", ["d0"])) == {0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "seed": 2}, "made with seed=1 and now it is 2"),
        ({**SETTINGS, "more": 1}, "made with more=None and now it is 1"),
        ({"seed": 1}, "made with window=.1, 2. and now it is None"),
    ],
)
def test_other_settings_are_refused(path, settings, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Predictions(settings, path)
    assert path.read_bytes() == before


def test_another_prompt_is_refused(path):
    with pytest.raises(ValueError, match="another prompt of vt, sample 1 at length 128"):
        Predictions(SETTINGS, path).of(128, "vt", ["d0", "other"])


@pytest.mark.parametrize("content", ["[1]\n", "text\n", "text", '{"settings": {}}\n{"index": 1}\n'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="choose another output or remove it"):
        Predictions({}, path)
    assert path.read_text() == content


def test_without_a_path_they_are_kept_in_memory():
    kept = Predictions(SETTINGS)
    kept.add([made(0)])
    assert kept.of(128, "vt", ["d0"]) == {0: made(0)}
