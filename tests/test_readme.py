# SPDX-License-Identifier: Apache-2.0
"""The README's commands and code, run as they stand (`make` targets are run by continuous integration)."""

import os
import re
import subprocess
import sys

import pytest

from hylora.demo.miniature import ASSETS
from hylora.language import LanguageRecipe
from tests.pages import ROOT, blocks, commands, page

README = page("README.md")
COMMANDS = commands(README)
BIG_MODEL = "ibm-ai-platform/Bamba-9B-v2"


def test_every_command_is_of_a_kind_that_is_run():
    assert {program for program, *_ in COMMANDS} == {"make", "hylora", "accelerate"}


def test_make_targets_exist_and_continuous_integration_runs_them():
    script = (ROOT / ".ci/run").read_text()
    for command in COMMANDS:
        if command[0] == "make":
            assert " ".join(command) in script


def test_launched_recipes_are_valid():
    for command in COMMANDS:
        if command[0] == "accelerate":
            recipe, *overrides = command[command.index("hylora.train") + 1 :]
            LanguageRecipe.load(ROOT / recipe, overrides)


def test_code_runs():
    for block in blocks(README, "python"):
        exec(compile(block.replace(BIG_MODEL, str(ASSETS)), "README.md", "exec"), {})


@pytest.mark.slow
def test_commands_run_one_after_the_other(tmp_path):
    """In a folder of their own that looks like a checkout, so that they find what they name and write nothing here."""
    for name in ("hylora", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for program, *words in COMMANDS:
        if program == "hylora":
            arguments = [sys.executable, "-c", "from hylora_cli import main; main()", *words]
            where = {"cwd": tmp_path, "env": environment, "timeout": 600}
            done = subprocess.run(arguments, capture_output=True, text=True, **where)
            # Some answers about the embedded model are "no".
            assert done.returncode == (3 if words[0] == "audit" else 0), done.stderr
            if words[0] == "audit":
                assert re.search(r"^\d+ yes, [1-9]\d* no, ", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "outputs/stretch/hylora.json").is_file()
