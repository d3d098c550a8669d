# SPDX-License-Identifier: Apache-2.0
import pytest
import transformers
from packaging.version import Version

from tests.pages import page

PAGE = "docs/reference/beside_others.md"


@pytest.mark.slow
@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="measured with transformers 5.23")
def test_the_committed_tables_are_what_is_measured():
    from tests.architectures.beside import update_page

    text = page(PAGE)
    assert update_page(text) == text, f"run python -m tests.architectures.beside {PAGE}"
