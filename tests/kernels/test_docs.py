# SPDX-License-Identifier: Apache-2.0
"""The page on the functions keeps its word: its examples run and no public name is missing."""

from __future__ import annotations

import re
from pathlib import Path

import hylora_kernels

PAGE = (Path(__file__).parents[2] / "docs/kernels.md").read_text()


def test_examples_run():
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "docs/kernels.md", "exec"), {})


def test_every_public_name_is_described():
    for name in hylora_kernels.__all__:
        assert name in PAGE, name
