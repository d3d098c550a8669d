# SPDX-License-Identifier: Apache-2.0
"""Which files are read, which are skipped, and what is said of damaged ones."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import operator
from functools import reduce

import pytest
from peft import LoraConfig

from hylora_eval.report.collect import collect
from hylora_eval.report.markdown import markdown
from hylora_eval.report.page import page
from hylora_eval.report.thesis_tables import lay_tables
from tests.eval.report import made


def test_folders_are_searched_and_other_files_named(tmp_path):
    result = made.write(tmp_path, "run/evaluation/ppl.json", made.perplexity({8: 10.0}))
    made.write(tmp_path, "run/config.json", {"hidden_size": 8})
    made.write(tmp_path, "run/model.safetensors.index.json", {})
    made.write(tmp_path, "run/checkpoints/step_1/ppl.json", made.perplexity({8: 1.0}))
    made.write(tmp_path, "run/.cache/ppl.json", made.perplexity({8: 2.0}))
    other = made.write(tmp_path, "run/other.json", {"a": 1})
    hits = made.write(tmp_path, "run/plan.json", {**made.header("plan"), "results": []})
    broken = tmp_path / "run/broken.json"
    broken.write_text("{")
    found = collect([tmp_path])
    assert [source.path for source in found.sources] == [result]
    assert found.sources[0].sha256 == hashlib.sha256(result.read_bytes()).hexdigest()
    assert found.sources[0].created == "2026-01-02T10:00:00+00:00"
    assert found.sources[0].versions == "hylora 0.1.0, torch 2.13.0, transformers 5.23.0"
    reasons = dict(found.skipped)
    assert set(reasons) == {other, hits, broken}
    assert reasons[broken] == "not JSON" and "'plan'" in reasons[hits]


def test_a_file_counts_once(tmp_path):
    path = made.write(tmp_path, "a/ppl.json", made.perplexity({8: 10.0}))
    copy = made.write(tmp_path, "b/copy.json", json.loads(path.read_text()))
    found = collect([path, tmp_path / "a", tmp_path])
    assert len(found.measurements) == 1 and not found.superseded
    assert found.skipped == ((copy, f"the same as {path}"),)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda record: record["results"][1].pop("perplexity"), "results[1].perplexity is missing"),
        (lambda record: record["results"][0].update(length="long"), "results[0].length is 'long', not of type int"),
        (lambda record: record["data"].pop("tokens_sha256"), "data.tokens_sha256 is missing"),
        (lambda record: record.update(results=3), "results is 3, not of type list"),
        (lambda record: record["model"].pop("path"), "model.path is missing"),
        (lambda record: record.pop("attention"), "attention is missing"),
        (lambda record: record["results"][0].update(perplexity=True), "results[0].perplexity is True"),
        (lambda record: record["model"].update(base_model=float("nan")), "model.base_model is nan, not of type str"),
        (lambda record: record.update(created=float("inf")), "created=inf is no time in seconds"),
        (
            lambda record: record["results"][0].update(low=1.0, high=2.0, mode="chunks", documents=None),
            "results[0].documents is None",
        ),
    ],
)
def test_a_damaged_result_is_named_with_its_field(tmp_path, damage, words):
    record = made.perplexity({8: 10.0, 16: 9.0})
    damage(record)
    path = made.write(tmp_path, "ppl.json", record)
    with pytest.raises(ValueError) as caught:
        collect([tmp_path])
    assert f"\n  {path}: {words}" in str(caught.value)
    good = made.write(tmp_path, "good.json", made.perplexity({8: 3.0}))
    found = collect([tmp_path])
    assert [source.path for source in found.sources] == [good] and len(found.measurements) == 1
    assert [path for path, why in found.damaged if words in why] == [path]


def test_nothing_to_report_says_why(tmp_path):
    path = made.write(tmp_path, "other.json", [1, 2])
    empty = made.write(tmp_path, "started.json", {**made.perplexity({}), "results": []})
    with pytest.raises(ValueError) as caught:
        collect([tmp_path])
    assert f"{path}: JSON, but no result" in str(caught.value)
    assert f"{empty}: holds no number yet" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        collect([tmp_path / "nowhere"])


def test_lm_evals_own_files_are_read(tmp_path):
    path = made.write(tmp_path, "results.json", made.harness({"piqa": 0.5}, errors={"piqa": 0.02}, bare=True))
    found = collect([path])
    (measurement,) = found.measurements
    assert (measurement.value, measurement.error) == (50.0, 2.0)
    assert measurement.subject.run == "some/model"
    assert measurement.subject.label == "attention not recorded"
    assert measurement.places[0].pointer == "results.piqa['acc,none']"
    assert found.sources[0].created.startswith("2026-01-02T") and found.sources[0].versions == "transformers 5.23.0"


def test_the_metric_of_the_thesis_is_chosen(tmp_path):
    record = made.harness({"arc_challenge": 0.4})
    record["results"]["arc_challenge"] = {"acc,none": 0.3, "acc_norm,none": 0.4, "acc_norm_stderr,none": 0.01}
    (measurement,) = collect([made.write(tmp_path, "a.json", record)]).measurements
    assert measurement.value == 40.0 and "acc_norm" in measurement.places[0].pointer


@pytest.mark.parametrize(
    "saved, recipe, expected",
    [
        (None, None, "LoRA"),
        (["embed_tokens", "norm"], None, "LoRA+"),
        (["embed_tokens", "norm", "conv1d"], None, "HyLoRA"),
        (["embed_tokens"], "adapter: {variant: hylora}", "HyLoRA"),
    ],
)
def test_the_adapter_is_read_from_the_runs_folder(tmp_path, saved, recipe, expected):
    folder = tmp_path / "moved" / "run"
    LoraConfig(r=4, lora_alpha=16, modules_to_save=saved).save_pretrained(folder)
    if recipe:
        (folder / "recipe.yaml").write_text(recipe)
    # The run has moved since it was evaluated, and its results with it.
    path = made.write(folder, "results/ppl.json", made.perplexity({8: 10.0}, run="out/run"))
    subject = collect([path]).measurements[0].subject
    assert (subject.variant, subject.rank) == (expected, 4)
    assert ("alpha", "16") in subject.facts


def test_what_the_result_says_of_the_adapter_comes_first(tmp_path):
    folder = tmp_path / "run"
    LoraConfig(r=4).save_pretrained(folder)
    record = made.perplexity({8: 10.0}, run=str(folder), adapter=("longlora", 8, 16))
    subject = collect([made.write(folder, "ppl.json", record)]).measurements[0].subject
    assert (subject.variant, subject.rank) == ("LoRA+", 8)


def test_a_run_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{")
    path = made.write(folder, "ppl.json", made.perplexity({8: 10.0}, run="run"))
    with pytest.raises(ValueError, match="the run's folder"):
        collect([path])


def numbers(values, keys=()):
    """Where the numbers of a record stand."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, (dict, list)):
            yield from numbers(value, (*keys, key))
        elif isinstance(value, (int, float)):
            yield (*keys, key)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "record",
    [
        made.runtime({("forward", "full", 8): 1.0}),
        made.harness({"piqa": 0.5}, errors={"piqa": 0.1}),
        made.ruler(lambda task, length: 50.0, lengths=(8,), tasks=("vt",), error=1.0),
        made.retrieval({"min_max": 0.5}, attended={"min_max": 0.5}),
    ],
    ids=lambda record: record["kind"],
)
def test_no_number_of_a_file_ends_a_report(tmp_path, record, value):
    """In the place of each number in turn it is shown, left out, or named with its file and field."""
    good = made.write(tmp_path, "good.json", made.perplexity({8: 3.0}))
    for *keys, last in numbers(record["results"]):
        damaged = copy.deepcopy(record)
        place = reduce(operator.getitem, keys, damaged["results"])
        place[last] = value
        path = made.write(tmp_path, "bad.json", damaged)
        found = collect([tmp_path])
        assert found.sources[-1].path == good
        assert all(file == path and str(last) in why for file, why in found.damaged)
        text = page("t", lay_tables(found), found, tmp_path) + markdown("t", lay_tables(found), found)
        assert text.count("Damaged, and not in this report") == 2 * len(found.damaged)


def test_values_that_are_not_finite_are_shown_or_named(tmp_path):
    made.write(tmp_path, "a.json", made.harness({"piqa": float("nan")}))
    record = made.runtime({("forward", "full", 8): 1.0})
    record["results"][0]["time"]["smallest"] = float("nan")
    path = made.write(tmp_path, "b.json", record)
    found = collect([tmp_path])
    assert [math.isnan(measurement.value) for measurement in found.measurements] == [True]
    assert found.damaged == ((path, "results[0].time.smallest=nan must be a finite number; measure it anew"),)
