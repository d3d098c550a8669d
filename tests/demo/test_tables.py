# SPDX-License-Identifier: Apache-2.0
"""The report, from results whose figures are known."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hylora_eval.demo.picture import draw
from hylora_eval.demo.settings import NOT_TUNED, RETRIEVALS, VARIANTS, DemoSettings
from hylora_eval.demo.tables import SeedMean, grids, markdown, show

SETTINGS = DemoSettings()


def result(variant, seed, value):
    """A result in which every figure is `value`, own perplexities 100 more."""
    bins = {
        length: {
            "bins": [
                {"start": 0, "stop": stop, "accuracy": value / 100, "standard_error": 0.01, "answers": 5}
                for stop in SETTINGS.distances
            ]
        }
        for length in (str(SETTINGS.tuned_length), str(SETTINGS.lengths[-1]))
    }

    def perplexities(number):
        entry = {"perplexity": number, "perplexity_standard_error": 2.0, "documents": 7}
        return {str(length): entry for length in SETTINGS.lengths}

    return {
        "variant": variant.name,
        "seed": seed,
        "perplexity": {"full": perplexities(value), "own": perplexities(value + 100)},
        "recall": {"full": bins, "own": bins},
        "retrieval": {rule: {"hit_rate": value / 100, "chance": 0.25} for rule in RETRIEVALS},
        "tuning_seconds": value,
        "evaluation_seconds": value,
        **({} if variant is NOT_TUNED else {"seconds_per_step": value, "activation_bytes": value * 1e6}),
    }


@pytest.fixture(scope="module")
def results():
    tuned = [result(variant, seed, 10.0 + 2 * seed) for variant in VARIANTS for seed in range(2)]
    return [result(NOT_TUNED, 0, 50.0), *tuned]


def test_cell_is_the_mean_and_the_distance_of_a_seed_from_it():
    assert SeedMean.of([10.0, 14.0]) == SeedMean(12.0, 2.0)
    assert SeedMean.of([None, 3.0]) == SeedMean(3.0, None)
    assert SeedMean.of([None]) is None


def test_every_table_has_a_row_for_each_model(results):
    for grid in grids(results, SETTINGS):
        assert [row[0] for row in grid.rows] == [variant.label for variant in (NOT_TUNED, *VARIANTS)]
        assert all(len(row) == len(grid.head) for row in grid.rows)


def test_figures_land_in_their_tables(results):
    own, full, *others = grids(results, SETTINGS)
    assert own.rows[0][1] == "150.0"
    assert own.rows[1][1] == "111.0 ± 1.0"
    assert full.rows[1][-1] == "11.0 ± 1.0"
    assert "7 documents" in full.note
    cost = others[-1]
    assert cost.rows[0][1:3] == ("–", "–")
    assert cost.rows[1][2] == "11.00 ± 1.00"


def test_markdown_and_terminal_hold_the_tables_and_the_caveats(results):
    text = markdown(results, SETTINGS, "demo.png")
    assert "![" in text
    assert "random blocks hit 25.0" in text
    assert "| SW | 111.0 ± 1.0 |" in text
    assert "synthetic" in text
    assert "![" not in markdown(results, SETTINGS, None)
    console = Console(file=io.StringIO(), width=100)
    show(results, SETTINGS, console)
    assert "Table 6.1" in console.file.getvalue()


def test_picture_is_drawn(results, tmp_path):
    pytest.importorskip("matplotlib")
    assert draw(results, SETTINGS, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
