# SPDX-License-Identifier: Apache-2.0
"""The kernels stand alone, and their folder hides nobody else's package."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
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


def called(node):
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", None))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_operators_are_named_in_a_namespace_of_their_copy(source):
    """kernel-builder refuses to build what registers operators otherwise."""
    for node in ast.walk(ast.parse(source.read_text())):
        if called(node) in {"custom_op", "triton_op", "register_kernel", "register_fake"} and node.args:
            assert called(node.args[0]) == "add_op_namespace_prefix", f"{source.name}:{node.lineno}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_syntax_is_that_of_python_3_9(source):
    ast.parse(source.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("folder", ["kernels", "eval"])
def test_folders_named_like_other_packages_are_no_packages(folder):
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_a_wheel_holds_the_package_with_its_launches(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    tree, built = tmp_path / "tree", tmp_path / "built"
    hidden = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("hylora", "vision_extras", "eval", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=hidden)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    built.mkdir()
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(built)], cwd=tree, check=True, capture_output=True)
    held = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    sources = ROOT / "kernels/torch-ext"
    for suffix in ("py", "json"):
        assert held >= {str(path.relative_to(sources)) for path in sources.rglob(f"*.{suffix}")}
    assert not any(name.startswith("kernels/") for name in held)


@pytest.mark.slow
def test_without_triton_the_other_tests_are_collected():
    """As on a machine without a GPU, for which torch is installed alone."""
    arguments = ["--collect-only", "-q", "-p", "no:cacheprovider", "tests/kernels"]
    script = f"import sys; sys.modules['triton'] = None; import pytest; sys.exit(pytest.main({arguments}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tests/kernels/test_given.py" in run.stdout
