# SPDX-License-Identifier: Apache-2.0
"""The corpus: what is read, and a split that depends on names alone."""

from __future__ import annotations

import pytest

from hylora.demo.corpus import describe_corpus, is_held_out, load_corpus


def test_splits_are_disjoint_and_repeatable():
    train, held_out = load_corpus("train"), load_corpus("held_out")
    names = {document.name for document in train}, {document.name for document in held_out}
    assert names[0].isdisjoint(names[1])
    assert {document.text for document in train}.isdisjoint(document.text for document in held_out)
    assert load_corpus("train") == train
    assert [document.name for document in train] == sorted(names[0])


def test_split_is_a_function_of_the_name():
    # Fixed answers: a change of the hash or the share would move documents that a checkpoint was trained on.
    assert [is_held_out(name) for name in ("html/parser.py", "venv/__init__.py", "json/decoder.py", "ast.py")] == [
        True,
        True,
        False,
        False,
    ]
    names = [f"module_{number}.py" for number in range(4000)]
    assert 0.06 < sum(map(is_held_out, names)) / len(names) < 0.10
    assert not any(is_held_out(name, share=0.0) for name in names)
    assert all(is_held_out(name, share=1.0) for name in names)


def test_leaves_out_tests_tables_and_installed_packages():
    names = [document.name for split in ("train", "held_out") for document in load_corpus(split)]
    assert "json/decoder.py" in names
    assert any(name.startswith("pydoc_data/topics/") for name in names)
    for part in ("site-packages", "test", "tests", "idlelib", "encodings", "ensurepip"):
        assert not [name for name in names if part in name.split("/")]


def test_description_records_the_python_and_its_licence():
    description = describe_corpus()
    assert description["python"].startswith("3.")
    assert "PSF License" in description["notice"]
    assert description["train"]["characters"] > 10 * description["held_out"]["characters"] > 0


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'validation'"):
        load_corpus("validation")
