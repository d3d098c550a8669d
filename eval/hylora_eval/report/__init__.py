# SPDX-License-Identifier: Apache-2.0
"""The theses' tables out of result files: Markdown, CSV and one page of HTML.

`collect` finds result files and reads their numbers, `thesis_tables` (language models: chapter 6, tables 6.1 to 6.6)
and `training_tables` (training: chapters 3 and 4) lay them out as `tables`, and `write` writes them.
"""

__all__ = [
    "charts",
    "collect",
    "markdown",
    "measurements",
    "page",
    "tables",
    "thesis_tables",
    "training_tables",
    "write",
]
