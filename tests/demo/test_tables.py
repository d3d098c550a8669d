# SPDX-License-Identifier: Apache-2.0
"""The report, from results whose figures are known."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.console import Console

from hylora_eval.demo.picture import draw
from hylora_eval.demo.settings import CHUNK, NOT_TUNED, RETRIEVALS, VARIANTS, DemoSettings
from hylora_eval.demo.tables import SeedMean, grids, markdown, show

SETTINGS = DemoSettings()


def result(variant, seed, value):
    """A result in which every figure is `value`, own perplexities 100 more, and near facts are always recalled."""
    starts = (0, *SETTINGS.distances)
    bins = [
        {
            "start": start,
            "stop": stop,
            "accuracy": value / 100 if start >= CHUNK else 1.0,
            "standard_error": 0.01,
            "answers": 5,
        }
        for start, stop in pairwise(starts)
    ]
    recall = {task: {"standard_error": 0.03, "bins": bins} for task in (*SETTINGS.dense_tasks, *SETTINGS.sparse_tasks)}

    def perplexities(number):
        entry = {"perplexity": number, "perplexity_standard_error": 2.0, "documents": 7}
        return {str(length): entry for length in SETTINGS.lengths}

    hits = {"hit_rate": value / 100, "chance": 0.25, "standard_error": 0.01, "queries": 300}
    found = dict.fromkeys(SETTINGS.retrieval_tasks, hits)
    steps = {"steps": value / 100, "pass": value / 100, "agreement": 1.0}
    return {
        "variant": variant.name,
        "seed": seed,
        "perplexity": {"full": perplexities(value), "own": perplexities(value + 100)},
        "recall": {"full": recall, "own": recall},
        "retrieval": dict.fromkeys(RETRIEVALS, found),
        "tuning_seconds": value,
        "evaluation_seconds": value,
        **({} if variant is NOT_TUNED else {"seconds_per_step": value}),
        **({"generation": steps} if variant.generates else {}),
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
    tables = {grid.title: grid for grid in grids(results, SETTINGS)}
    assert next(iter(tables)) == "Recall with each one's own attention"
    recall = tables["Recall with each one's own attention"]
    # Facts from beyond the chunk alone count.
    assert recall.rows[0][1:] == ("50.0",) * 5
    assert recall.rows[1][1:] == ("11.0 ± 1.0",) * 5
    assert "at most 3 points" in recall.note
    own = tables["Perplexity with each one's own attention (Table 6.1 in miniature)"]
    assert own.rows[0][1] == "150.0"
    assert own.rows[1][1] == "111.0 ± 1.0"
    assert "7 documents" in own.note
    generation = {row[0]: row[1:] for row in tables["Generation, end 256"].rows}
    assert generation["SE-Attn, recall"] == ("11.0 ± 1.0", "11.0 ± 1.0", "100.0 ± 0.0")
    assert generation["SW"] == ("–", "–", "–")
    hits = tables["Retrieval"].note
    assert "Below chance, by 95 % intervals over documents: published, dense 256 (Full, SE-Attn, recall" in hits
    assert "not fine-tuned" not in hits and hits.endswith("All others are above it.")
    by_distance = tables["Recall by distance with full attention, dense 256"]
    assert by_distance.rows[1][1:] == ("100.0 ± 0.0", "100.0 ± 0.0", "11.0 ± 1.0", "11.0 ± 1.0")
    assert tables["Cost"].rows[0][1:] == ("–", "50", "50")


def test_markdown_and_terminal_hold_the_tables_and_the_caveats(results):
    text = markdown(results, SETTINGS, "demo.png")
    assert "![" in text
    assert "random blocks hit 25 to 25" in text
    assert "| SW | 11.0 ± 1.0 |" in text
    assert "synthetic" in text
    assert "![" not in markdown(results, SETTINGS, None)
    console = Console(file=io.StringIO(), width=100)
    show(results, SETTINGS, console)
    assert "Table 6.1" in console.file.getvalue()


def test_picture_is_drawn(results, tmp_path):
    pytest.importorskip("matplotlib")
    assert draw(results, SETTINGS, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
