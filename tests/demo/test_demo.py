# SPDX-License-Identifier: Apache-2.0
"""`hylora demo`: refusals, and the quick demo from end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rich.console import Console

from hylora.attention import SpanConfig
from hylora_eval.demo.measure import mean_of
from hylora_eval.demo.run import DemoError, run_demo
from hylora_eval.demo.settings import NOT_TUNED, RETRIEVALS, VARIANTS, DemoSettings
from hylora_eval.demo.worker import tuning_recipe


def demo(*arguments):
    command = [sys.executable, "-c", "from hylora_cli import main; main()", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_all_variants_train_alike_but_for_their_attention(tmp_path):
    trees = [tuning_recipe(tmp_path, variant, 1, DemoSettings()).to_tree() for variant in VARIANTS]
    attentions = [tree.pop("attention") for tree in trees]
    folders = [tree["output"].pop("path") for tree in trees]
    assert all(tree == trees[0] for tree in trees)
    assert len({json.dumps(attention) for attention in attentions}) == len(set(folders)) == len(VARIANTS)


def test_recall_variant_is_the_preset_at_the_demos_sizes():
    recall = next(variant for variant in VARIANTS if variant.name == "recall")
    sizes = {name: recall.options[name] for name in ("chunk_size", "block_size", "top_k")}
    assert SpanConfig.from_dict(recall.options) == SpanConfig.preset("recall", **sizes)
    # All retrieve as many tokens.
    assert {options["block_size"] * options["top_k"] for options in RETRIEVALS.values()} == {32}


def test_random_blocks_are_drawn_several_times():
    random = next(variant for variant in VARIANTS if variant.name == "random")
    seeds = [options["seed"] for options in random.evaluations()]
    assert len(set(seeds)) == len(seeds) > 1
    assert VARIANTS[0].evaluations() == [VARIANTS[0].options]


def test_figures_of_several_evaluations_are_averaged():
    trees = [{"a": [0.2, {"b": None}], "n": 3, "c": "x"}, {"a": [0.4, {"b": None}], "n": 3, "c": "x"}]
    assert mean_of(trees) == {"a": [pytest.approx(0.3), {"b": None}], "n": 3, "c": "x"}
    assert mean_of(trees[:1]) == trees[0]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DemoError, match="not empty"):
        run_demo(tmp_path, DemoSettings.quick(), Console())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_demo_with_other_settings_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"seeds": 9}))
    with pytest.raises(DemoError, match="other settings"):
        run_demo(tmp_path, DemoSettings.quick(), Console())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="seeds=0"):
        DemoSettings(seeds=0)


@pytest.mark.slow
def test_quick_demo_from_end_to_end(tmp_path):
    folder = tmp_path / "demo"
    first = demo("--quick", "--output", folder)
    assert first.returncode == 0, first.stderr
    record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert [entry["variant"] for entry in record["results"]] == [variant.name for variant in (NOT_TUNED, *VARIANTS)]
    assert "Recall with each one's own attention" in (folder / "demo.md").read_text(encoding="utf-8")
    assert "SE-Attn, published" in first.stdout

    # Finished models are kept, so that an interrupted demo goes on where it was.
    kept = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    lost = folder / "results" / "sw-0.json"
    lost.unlink()
    again = demo("--quick", "--output", folder)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in kept if path != lost} == {
        path: time for path, time in kept.items() if path != lost
    }
    assert lost.exists()
