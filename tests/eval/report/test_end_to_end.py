# SPDX-License-Identifier: Apache-2.0
"""From adapters to the report, through the commands as they are typed."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from hylora import RunManifest
from hylora.adapters import HyLoraConfig, add_adapter
from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from hylora_eval.ruler.outcome import LengthResult, TaskResult
from hylora_eval.ruler.scoring import Score
from hylora_eval.ruler.tasks import GROUPS
from tests import command_line
from tests.eval.report import made
from tests.tiny import tiny_bamba


def run(*arguments):
    result = command_line.run("eval", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_variants_of_an_adapter_meet_in_a_table(tmp_path, tokenizer, write_text):
    tiny_bamba().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "book.txt").write_text(write_text(70))
    for variant, rank in (("lora", 2), ("hylora", 2), ("hylora", 4)):
        folder = tmp_path / f"{variant}{rank}"
        model = tiny_bamba()
        add_adapter(model, HyLoraConfig.for_model(model, variant, r=rank, lora_alpha=2 * rank)).save_pretrained(folder)
        RunManifest("se_attn", base_model=str(tmp_path / "base"), context_length=32).save(folder)
        output = tmp_path / f"results/{folder.name}.json"
        run("ppl", "--model", folder, "--lengths", 16, 32, "--data", tmp_path / "book.txt", "--output", output)
        # The result file alone says what was evaluated.
        shutil.rmtree(folder)
    run("report", tmp_path / "results", "--output", tmp_path / "report")

    with (tmp_path / "report/csv/lora-perplexity.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["column_group"], line["column"], line["length"]) for line in lines[:4]] == [
        ("Variant (rank 2)", "LoRA", "16"),
        ("Variant (rank 2)", "HyLoRA", "16"),
        ("Rank (HyLoRA)", "2", "16"),
        ("Rank (HyLoRA)", "4", "16"),
    ]
    record = json.loads((tmp_path / "results/hylora4.json").read_text())
    assert float(lines[3]["value"]) == record["results"][0]["perplexity"]
    assert lines[3]["training_attention"] == "SE-Attn" and lines[3]["evaluation_attention"] == "Full-Attn"


def test_ruler_is_read_as_it_is_written(tmp_path):
    results = {
        task: TaskResult(Score(10.0 * index, 0.5, 4, 0), 8, 8, "f" * 64, 1.0, None, None, [10.0 * index] * 4, None)
        for index, task in enumerate(GROUPS["NIAH-S"])
    }
    written = LengthResult(8, results, 1)
    record = {**made.ruler(None, tasks=()), "results": written.task_rows(), "averages": written.average_rows()}
    (table,) = [t for t in lay_tables(collect([made.write(tmp_path, "ruler.json", record)])) if t.slug == "ruler"]
    (cell,) = table.cells()
    (average,) = record["averages"]
    assert cell.measurement.value == pytest.approx(average["score"])
    assert cell.measurement.error == pytest.approx(average["standard_error"])


def test_runtime_is_read_as_it_is_written(tmp_path):
    tiny_bamba().save_pretrained(tmp_path / "base")
    run(
        "runtime", "--model", tmp_path / "base", "--lengths", 16, 32, "--attentions", "full,se_attn", "--rounds", 1,
        "--works", "forward", "--output", tmp_path / "time.json",
    )  # fmt: skip
    run("report", tmp_path / "time.json", "--output", tmp_path / "report")
    with (tmp_path / "report/csv/time.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    record = json.loads((tmp_path / "time.json").read_text())
    assert [float(line["value"]) for line in lines] == [
        1e3 * next(r for r in record["results"] if (r["contender"], r["length"]) == place)["time"]["median"]
        for place in (("full", 16), ("full", 32), ("se_attn", 16), ("se_attn", 32))
    ]
