# SPDX-License-Identifier: Apache-2.0
"""What the documentation points at exists: pages, sections, files, and names in the code."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from itertools import chain
from pathlib import Path

import pytest

from tests.pages import ROOT, page

SCRIPT = importlib.util.spec_from_file_location("api_index", ROOT / "docs/api_index.py")
API = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(API)
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "hylora/demo/assets/README.md")
)
# Files of which pages say that they must not exist.
FORBIDDEN = {"kernels/__init__.py", "eval/__init__.py"}
CODE = chain(
    *(
        ROOT.glob(f"{folder}/**/*.py")
        for folder in ("hylora", "kernels", "eval", "vision_extras", "benchmarks", "tests")
    ),
    *(ROOT.glob(pattern) for pattern in ("docs/*.py", "recipes/**/*.yaml", "benchmarks/*.sh", "Makefile", "*.toml")),
)


def links(name: str) -> list[tuple[str, str]]:
    """The targets of a page's relative links, from the root, and the sections they name."""
    text = re.sub(r"```.*?```", "", page(name), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]*)#?([^)\s]*)\)", text)
    folder = os.path.dirname(name)
    return [
        (os.path.normpath(os.path.join(folder, target)) if target else name, section)
        for target, section in targets
        if "://" not in target
    ]


def sections(name: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page(name), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target, section in links(name):
        assert (ROOT / target).exists(), target
        assert not section or section in sections(target), f"{target}#{section}"


def test_every_page_can_be_reached_from_the_start_page():
    reached, waiting = set(), ["docs/index.md"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [target for target, _ in links(name) if target.endswith(".md")]
    assert {name for name in PAGES if name.startswith("docs/")} <= reached


def test_files_of_the_documentation_that_code_names_exist():
    for path in CODE:
        for name in re.findall(r"\bdocs/[\w/.-]+\.(?:md|py|png|json)\b", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}"


def test_files_that_pages_name_exist():
    folders = "hylora|kernels|eval|benchmarks|recipes|tests|docs"
    for name in PAGES:
        for file in re.findall(rf"`(?:python )?((?:{folders})/[\w/.-]+\.\w+)", page(name)):
            assert (ROOT / file).is_file() or file in FORBIDDEN, f"{name} names {file}"


@pytest.mark.parametrize("name", PAGES)
def test_names_in_the_code_that_pages_use_exist(name):
    packages = "|".join(API.PACKAGES)
    for dotted in re.findall(rf"`((?:{packages})(?:\.\w+)+)", page(name)):
        assert dotted == "hylora.json" or exists(dotted), dotted


def exists(dotted: str) -> bool:
    """Whether a full name is a module, or a name in one; methods count by their class."""
    outer, _, name = dotted.rpartition(".")
    if API.source(dotted) or not API.source(outer):
        return API.source(dotted) is not None or exists(outer)
    return API.definition(outer, name) is not None


def test_a_name_that_does_not_exist_is_found_out():
    assert exists("hylora.attention.SpanConfig") and exists("hylora.HyLoraConfig.for_model")
    assert not exists("hylora.attention.nowhere") and not exists("hylora.nowhere.SpanConfig")


def test_the_api_index_is_up_to_date():
    assert Path(API.PAGE).read_text(encoding="utf-8") == API.api_index(), "run python docs/api_index.py"


def test_every_command_is_in_the_reference():
    text = page("docs/reference/commands.md")
    for module, prefix in (
        ("hylora_cli", "hylora"),
        ("hylora_eval.commands", "hylora eval"),
        ("vision_extras.commands", "hylora images"),
    ):
        (table,) = (node for node in API.source(module).body if is_command_table(node))
        for command in ast.literal_eval(table.value):
            assert f"`{prefix} {command}" in text, command


def is_command_table(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").strip("_") == "COMMANDS"
