# SPDX-License-Identifier: Apache-2.0
"""The tables that results are laid out in, and what their cells say."""

from __future__ import annotations

from hylora_eval.report.charts import chart
from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from tests.eval.report import made


def tables_of(tmp_path, *records):
    for number, record in enumerate(records):
        made.write(tmp_path, f"{number:02}.json", record)
    return {table.slug: table for table in lay_tables(collect([tmp_path]))}


def chart_of(table):
    """Its chart on a page of its own."""
    return chart(table, {subject: place for place, subject in enumerate(table.subjects())})


def texts(table):
    """The cells of each row by its column, under the section and the label of the row."""
    return {
        (section.title, row.label): {
            column.label: f"{cell.text} {cell.error_text}".strip()
            for column, cell in zip(table.columns, row.cells, strict=True)
        }
        for section in table.sections
        for row in section.rows
    }
