# SPDX-License-Identifier: Apache-2.0
"""The packages and the one direction in which they import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "hylora_kernels": ROOT / "kernels/torch-ext/hylora_kernels",
    "hylora": ROOT / "hylora",
    "hylora_cli": ROOT / "hylora_cli",
    "hylora_eval": ROOT / "eval/hylora_eval",
    "vision_extras": ROOT / "vision_extras",
}
ALLOWED = {
    "hylora_kernels": set(),
    "hylora": {"hylora_kernels"},
    # It names modules, and imports none of them before it is asked to run one.
    "hylora_cli": set(),
    "hylora_eval": {"hylora", "hylora_kernels"},
    "vision_extras": {"hylora", "hylora_kernels"},
}


def imported_packages(tree: ast.AST) -> set[str]:
    """Every package that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_go_one_way(package):
    forbidden = set(FOLDERS) - ALLOWED[package] - {package}
    for path in FOLDERS[package].rglob("*.py"):
        found = imported_packages(ast.parse(path.read_text())) & forbidden
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_the_walk_sees_every_package():
    assert all(list(folder.rglob("*.py")) for folder in FOLDERS.values())


def test_no_package_shadows_the_kernels_library():
    """A regular package named `kernels` would be imported by transformers in place of the library of that name."""
    assert not (ROOT / "kernels/__init__.py").exists()
    assert not (ROOT / "eval/__init__.py").exists()


def test_nothing_is_unpickled():
    for folder in FOLDERS.values():
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                assert name not in ("pickle.load", "pickle.loads"), path
                if name == "torch.load":
                    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert keywords.get("weights_only") == "True", path
