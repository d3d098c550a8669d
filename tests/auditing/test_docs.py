# SPDX-License-Identifier: Apache-2.0
"""docs/guides/audit.md shows what the command prints, and names what is asked."""

import re

import pytest
import transformers
from packaging.version import Version

from hylora.auditing.questions import QUESTIONS
from tests import command_line
from tests.auditing.test_miniature import BAMBA_9B
from tests.pages import page
from tests.planning.tiny_plans import config_file

PAGE = page("docs/guides/audit.md")
NAME = "ibm-ai-platform/Bamba-9B-v2"


def example(folder):
    """The printed answers; the config is at hand, and no hub."""
    path = config_file(folder, {"model_type": "bamba", **BAMBA_9B})
    result = command_line.run("audit", path, env={"COLUMNS": "112"})
    return "\n".join(line.rstrip() for line in result.output.replace(path, NAME).splitlines())


@pytest.mark.slow
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="older versions leak where this one refuses"
)
def test_the_example_is_what_is_printed(tmp_path):
    shown = re.search(r"<!-- example: begin -->\n```text\n(.*?)\n```\n<!-- example: end -->", PAGE, re.DOTALL)[1]

    def numberless(text):
        """How large a leak is depends on weights, which other versions of torch draw in another order."""
        return re.sub(r" +", " ", re.sub(r"(differs by|go up to) \d[\d.]*", r"\1 N", text))

    assert numberless(example(tmp_path)) == numberless(shown)


def test_every_question_has_its_line():
    named = re.findall(r"`(\w+)`", " ".join(line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| ")))
    assert named == list(QUESTIONS)
