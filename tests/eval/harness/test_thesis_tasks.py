# SPDX-License-Identifier: Apache-2.0
"""lm-eval's definitions of the thesis's tasks run with this package; rows of their form stand for the data."""

from __future__ import annotations

import json

import pytest

from hylora_eval.report.collect import collect
from hylora_eval.report.harness_tasks import THESIS_TASKS
from hylora_eval.report.thesis_tables import lay_tables
from tests.command_line import run


@pytest.mark.slow
def test_the_nine_tasks_of_the_thesis(tmp_path, run_folder, stand_ins):
    output = tmp_path / "result.json"
    tasks = ",".join(THESIS_TASKS)
    arguments = ["eval", "harness", "--model", str(run_folder), "--tasks", tasks, "--output", str(output)]
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads(output.read_text())
    assert list(record["results"]) == list(THESIS_TASKS)
    assert set(record["n-shot"].values()) == {0}
    for name, task in THESIS_TASKS.items():
        assert f"{task.metric},none" in record["results"][name]
    shown = {
        cell.measurement.item for table in lay_tables(collect([output])) for cell in table.cells() if cell.measurement
    }
    assert set(THESIS_TASKS) <= shown
