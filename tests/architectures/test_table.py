# SPDX-License-Identifier: Apache-2.0
from tests.architectures.table import update_page
from tests.architectures.zoo import ZOO
from tests.pages import page

PAGE = "docs/reference/architectures.md"


def test_the_committed_tables_are_the_rendered_ones():
    text = page(PAGE)
    assert all(text.count(f"| `{name}` |") == 2 for name in ZOO)
    assert update_page(text) == text, f"run python -m tests.architectures.table {PAGE}"
