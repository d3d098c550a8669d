# SPDX-License-Identifier: Apache-2.0
"""The kernels stand alone, and their folder hides nobody else's package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import hylora_kernels

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(hylora_kernels.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_imports_are_relative_torch_triton_or_standard_library(source):
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package = name.split(".")[0]
            assert package in {"torch", "triton"} or package in sys.stdlib_module_names, f"{source.name}: {name}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_syntax_is_that_of_python_3_9(source):
    ast.parse(source.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("folder", ["kernels", "eval"])
def test_folders_named_like_other_packages_are_no_packages(folder):
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()
