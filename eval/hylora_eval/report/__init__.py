# SPDX-License-Identifier: Apache-2.0
"""The thesis's tables out of result files: Markdown, CSV and one page of HTML (chapter 6, tables 6.1 to 6.6).

`collect` finds result files and reads their numbers, `thesis_tables` lays them out as `tables`, and `write` writes
them.
"""

__all__ = ["charts", "collect", "markdown", "measurements", "page", "tables", "thesis_tables", "write"]
