# SPDX-License-Identifier: Apache-2.0
"""The page on the functions keeps its word: its examples run and no public name is missing."""

from __future__ import annotations

import hylora_kernels
from tests.pages import blocks, page

PAGE = page("docs/concepts/kernels.md")


def test_examples_run():
    examples = blocks(PAGE, "python")
    assert examples
    names = {}  # a later example may use what an earlier one made
    for example in examples:
        exec(compile(example, "docs/concepts/kernels.md", "exec"), names)


def test_every_public_name_is_described():
    for name in hylora_kernels.__all__:
        assert name in PAGE, name
