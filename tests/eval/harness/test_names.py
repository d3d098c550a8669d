# SPDX-License-Identifier: Apache-2.0
"""Names of tasks, and what is said where a task is not to be had."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import datasets
import lm_eval
import pytest

from hylora_eval.harness import TASK_SETS, load_tasks
from hylora_eval.harness.names import BABILONG_TASKS, expand_names
from hylora_eval.ruler import ALL_TASKS


def test_sets_and_ruler_stand_for_their_tasks():
    assert TASK_SETS["thesis-long"] == ("swde", "scrolls_qasper", "scrolls_narrativeqa")
    assert len(TASK_SETS["thesis-short"]) == 6
    names = expand_names(["thesis-long", "mmlu", "swde", "hylora-ruler:VT@4096", "hylora-ruler:vt@4096"])
    assert names == ["swde", "scrolls_qasper", "scrolls_narrativeqa", "mmlu", "hylora-ruler:vt@4096"]
    assert expand_names(["hylora-ruler@2048"]) == [f"hylora-ruler:{name}@2048" for name in ALL_TASKS]


def test_every_name_of_a_set_is_one_of_lm_evals():
    """Looked up in its files: the index of all takes seconds."""
    folders = (Path(lm_eval.__file__).parent / "tasks" / name for name in ("babilong", "longbench2", "infinitebench"))
    files = [path.read_text() for folder in folders for path in folder.glob("*.yaml")]
    known = {name for text in files for name in re.findall(r"^(?:task|group): (\w+)$", text, re.MULTILINE)}
    assert {*TASK_SETS["longbench-v2"], *TASK_SETS["infinite-bench"], *BABILONG_TASKS} <= known
    # All that belongs to the two; of one of them, what is in English.
    (longbench,) = (text for text in files if text.startswith("group: longbench2\n"))
    members = re.findall(r"- (\w+)", longbench.split("aggregate")[0])
    assert {name.removesuffix("_tasks") for name in members} == set(TASK_SETS["longbench-v2"])
    (infinite,) = (text for text in files if text.startswith("group: infinitebench\n"))
    assert set(re.findall(r"- (\w+)", infinite)) == {*TASK_SETS["infinite-bench"], "infinitebench_longbook_qa_chn"}


def test_babilong_has_a_name_at_each_length(own_tasks_only, demo_tokenizer, monkeypatch):
    assert expand_names(["babilong@8k"]) == [f"babilong_qa{number}@8k" for number in range(1, 6)]
    assert expand_names(["babilong_qa2@0k", "babilong_qa2"]) == ["babilong_qa2@0k", "babilong_qa2"]
    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        row = {"input": "Ann went to the park.", "question": "Where is Ann?", "target": "park"}
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    folder = Path(lm_eval.__file__).parent / "tasks" / "babilong"
    loaded = load_tasks(["babilong_qa1@4k", "babilong_qa1@16k"], demo_tokenizer, folder)
    assert [(name, task.task_name) for name, (task,) in loaded.items()] == [(name, name) for name in loaded]
    assert asked == [("RMT-team/babilong-1k-samples", length, "qa1") for length in ("4k", "16k")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["babilong@5k"], "BABILong has the lengths 0k, 1k, 2k"),
        (["babilong_qa9@8k"], "babilong_qa1 to babilong_qa5 have lengths"),
        ([""], "no task is named"),
        (["hylora-ruler"], "without a length"),
        (["hylora-ruler:niah_singel_1@4096"], "did you mean 'niah_single_1'"),
        (["colors"], "unknown task 'colors'; did you mean 'colours'"),
        (["scrolls_qaspr"], "did you mean 'scrolls_qasper'"),
        (["hylora-ruler:vt@100"], "length=100 is too small for vt"),
        (["colours"], "could not be loaded"),
    ],
)
def test_wrong_names_are_named(own_tasks_only, task_folder, demo_tokenizer, names, message):
    if names == ["colours"]:
        (task_folder / "questions.jsonl").write_text("not JSON\n")
    with pytest.raises(ValueError, match=message):
        load_tasks(names, demo_tokenizer, task_folder)


def test_a_folder_that_is_none_is_named(demo_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load_tasks(["colours"], demo_tokenizer, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["hub_task", "scrolls_narrativeqa"])
def test_missing_data_says_where_to_get_it(own_tasks_only, monkeypatch, task_folder, demo_tokenizer, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    text = (task_folder / "colours.yaml").read_text()
    text = text.replace("task: colours", "task: hub_task").replace("dataset_path: json", "dataset_path: no/where")
    lines = [line for line in text.splitlines() if "data_files" not in line]
    (task_folder / "hub.yaml").write_text("\n".join(lines))
    with pytest.raises(OSError, match=f"(?s)data of task '{name}' is not to be had: .*HF_HOME.*HF_HUB_OFFLINE=1"):
        load_tasks([name], demo_tokenizer, task_folder)


def test_code_that_a_model_writes_is_not_run(own_tasks_only, task_folder, demo_tokenizer):
    with (task_folder / "colours.yaml").open("a") as file:
        file.write("unsafe_code: true\n")
    with pytest.raises(ValueError, match="runs code that a model wrote"):
        load_tasks(["colours"], demo_tokenizer, task_folder)


def test_a_package_that_a_task_needs_is_named(own_tasks_only, task_folder, demo_tokenizer):
    (task_folder / "needs.py").write_text("import a_package_that_is_not_there\n\n\ndef score(doc, results): ...\n")
    with (task_folder / "colours.yaml").open("a") as file:
        file.write("process_results: !function needs.score\n")
    with pytest.raises(ImportError, match="needs a package.*a_package_that_is_not_there"):
        load_tasks(["colours"], demo_tokenizer, task_folder)


def test_without_lm_eval_the_remedy_is_named():
    code = "import sys; sys.modules['lm_eval'] = None; import hylora_eval.harness"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "pip install 'hylora[eval]'" in result.stderr
