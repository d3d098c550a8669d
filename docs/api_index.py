# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/api.md: the public names of every package, with the first line of their docstrings.

Run from anywhere: `python docs/api_index.py`. Sources are read and not imported, so it needs nothing installed.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/api.md"
PACKAGES = {
    "hylora": ROOT / "hylora",
    "hylora_cli": ROOT / "hylora_cli",
    "hylora_kernels": ROOT / "kernels/torch-ext/hylora_kernels",
    "hylora_eval": ROOT / "eval/hylora_eval",
    "vision_extras": ROOT / "vision_extras",
}
INTRODUCTION = """# API index

Every public name: what a package exports, then its modules with what they define. The docstrings have shapes, units
and errors (`help(hylora.load)`). This page is made from the sources by `python docs/api_index.py`.
"""


@cache
def source(module: str) -> ast.Module | None:
    """The parsed source of a module, or None where the packages hold none of that name."""
    package, *rest = module.split(".")
    path = PACKAGES[package].joinpath(*rest)
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return None


def exported(module: str) -> list[str]:
    """The names in a module's `__all__`, in alphabetical order."""
    for node in source(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    return []


def definition(module: str, name: str) -> ast.AST | None:
    """Where a name of a module is defined, through imports; None where it is not a name of the module."""
    for node in source(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                origin = imported_from(module, node)
                if name == (alias.asname or alias.name) and origin.split(".")[0] in PACKAGES:
                    return source(f"{origin}.{alias.name}") or definition(origin, alias.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [getattr(target, "id", None) for target in targets]
        if name in names:
            return node
        if "_EXPORTS" in names and name in (origins := ast.literal_eval(node.value)):  # imported when it is asked for
            origin = origins[name]
            return definition(origin if origin.split(".")[0] in PACKAGES else f"{module}.{origin}", name)
    return source(f"{module}.{name}")


def imported_from(module: str, node: ast.ImportFrom) -> str:
    """The full name of the module that an import names, seen from a package or one of its modules."""
    if not node.level:
        return node.module
    is_package = PACKAGES[module.split(".")[0]].joinpath(*module.split(".")[1:]).is_dir()
    above = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


def first_line(node: ast.AST | None) -> str:
    """The first line of a docstring, fit for a table."""
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
        return "(a constant)"
    line, *_ = (ast.get_docstring(node) or "").splitlines() or [""]
    return line.replace("|", "\\|")


def modules(package: str) -> list[str]:
    """A package and its subpackages and public modules, by their full names."""
    files = sorted(PACKAGES[package].rglob("*.py"))
    parts = [file.relative_to(PACKAGES[package]).with_suffix("").parts for file in files]
    names = [".".join([package, *(part for part in path if part != "__init__")]) for path in parts]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def package_section(package: str, own: list[str]) -> list[str]:
    """Markdown: what a package exports and its own modules."""
    lines = [f"\n## `{package}`\n", first_line(source(package))]
    objects = [name for name in exported(package) if not source(f"{package}.{name}")]
    if objects:
        lines += ["", "| name | |", "|---|---|"]
        lines += [f"| `{name}` | {first_line(definition(package, name))} |" for name in objects]
    if own:
        lines += ["", "| module | | defines |", "|---|---|---|"]
        for module in own:
            names = ", ".join(f"`{name}`" for name in exported(module))
            lines.append(f"| `{module}` | {first_line(source(module))} | {names} |")
    return lines


def api_index() -> str:
    """The whole page."""
    lines = [INTRODUCTION.rstrip()]
    for package in PACKAGES:
        found = modules(package)
        rooms = [name for name in found if name == package or any(other.startswith(f"{name}.") for other in found)]
        for room in rooms:
            own = [name for name in found if name.rpartition(".")[0] == room and name not in rooms and exported(name)]
            if own or exported(room) or room == package:
                lines += package_section(room, own)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(api_index(), encoding="utf-8")
