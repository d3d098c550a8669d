# SPDX-License-Identifier: Apache-2.0
"""The pages about the comparisons have the numbers of their results."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from tests.pages import ROOT, page
from vision_extras.recipe import ImageRecipe

SUBSPACES = [path.stem for path in sorted((ROOT / "studies/vision").glob("subspaces_*.yaml"))]


def script(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["samplers", "growth"])
def test_the_page_has_the_tables_of_the_results(name):
    results = json.loads((ROOT / f"studies/vision/results/{name}.json").read_text())
    lines = page("docs/guides/vision_demo.md").splitlines()
    for line in script("studies/vision/tell.py").TABLES[name](results):
        assert line in lines


def test_the_page_on_subspaces_has_the_tables_of_the_results(monkeypatch):
    # As if it were run: it has another script of its folder.
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    drawing = script("studies/vision/tell_subspaces.py")
    found = drawing.read(ROOT / "studies/vision/results")
    assert found.keys() == drawing.COMPARISONS.keys()
    lines = page("docs/guides/subspace_figures.md").splitlines()
    for runs in found.values():
        for row in [*drawing.table(runs), *drawing.drift_table(runs), *drawing.costs_table(runs)]:
            assert row in lines


def test_the_page_on_sparse_networks_is_what_the_script_makes_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    telling = script("studies/vision/tell_sparse.py")
    begin, end = telling.MARKERS
    shown = page("docs/guides/sparse_figures.md").partition(begin)[2].partition(end)[0]
    assert shown.strip() == telling.told(json.loads(telling.RESULTS.read_text())["runs"])
    assert "| gradual | —" in shown and "| dense | 9" in shown


def test_methods_are_told_by_sparsity_and_over_seeds(monkeypatch):
    """Also of a setting with one seed, and where a level or a dense outcome was not measured."""
    monkeypatch.syspath_prepend(ROOT / "studies/vision")
    telling = script("studies/vision/tell_sparse.py")

    def run(setting, accuracy, **found):
        flops = {"training": 55, "dense_training": 100, "inference": 1, "dense_inference": 8}
        changes = [(0, None), (6, None), (12, accuracy / 8)]
        phases = [{"first": first, "mask_change": change, "pruned_filters": 0.25} for first, change in changes]
        return {"setting": setting, "evaluation": {"accuracy": accuracy}, "epochs": [1], **found} | (
            {} if "one_shot" in found else {"sparse": {"flops": flops, "phases": phases}}
        )

    at_once = {"0.9": {"accuracy": 0.25, "tuned_accuracy": 0.5}}
    runs = [run("AC/DC 0.95", 0.8), run("AC/DC 0.95", 0.6), run("SAM", 0.9, one_shot=at_once)]
    runs += [run("AC/DC 0.95, local", 0.5, dense={"accuracy": 0.75})]
    _, _, trained, sam = telling.levels_table(runs, "tuned_accuracy")
    assert trained == "| AC/DC | — | — | — | — | — | 70.0 ± 14.1 | — | — | — |"
    assert sam == "| SAM | 90.0 | — | — | — | 50.0 | — | — | — | — |"
    assert [*telling.flops_table(runs)][2:] == [
        "| AC/DC 0.95 | 0.550 | 0.125 |",
        "| AC/DC 0.95, local | 0.550 | 0.125 |",
    ]
    assert [*telling.variants_table(runs)][3] == "| AC/DC 0.95, local | 50.0 | 75.0 | 25.0 | 0.550 | 0.125 |"
    assert [*telling.outcomes_table(runs)][2] == "| AC/DC 0.95 | 70.0 ± 14.1 | — | — | — |"
    assert [*telling.masks_table(runs)][0] == "| new weights [%] | 12 |"
    assert [*telling.masks_table(runs)][2] == "| AC/DC 0.95 | 8.75 ± 1.77 |"


@pytest.mark.parametrize("name", ["samplers", "growth", *SUBSPACES])
def test_results_are_of_the_settings_that_are_there(name):
    """Each with three seeds, as the comparison's file and the recipe that it names have them now."""
    plan = yaml.safe_load((ROOT / f"studies/vision/{name}.yaml").read_text())
    runs = json.loads((ROOT / f"studies/vision/results/{name}.json").read_text())["runs"]
    assert {(run["setting"], run["seed"]) for run in runs} == {
        (s, seed) for s in plan["settings"] for seed in range(3)
    }
    for run in runs:
        overrides = [*plan.get("set", []), *plan["settings"][run["setting"]]["set"]]
        overrides += [f"training.seed={run['seed']}", f"output.path={run['recipe']['output']['path']}"]
        overrides += ["output.checkpoint_every=0", f"output.overwrite={run['recipe']['output']['overwrite']}"]
        expected = ImageRecipe.load(ROOT / plan["recipe"], overrides).to_tree()
        # What recipes have learned to say since stands at its default.
        assert expected == ImageRecipe.from_tree(run["recipe"]).to_tree()


def test_the_tables_average_over_seeds():
    def run(setting, seed, accuracy, flops):
        evaluation = {"accuracy": accuracy, "ece": 0.01}
        return {"setting": setting, "seed": seed, "flops": flops, "updates": 10, "evaluation": evaluation}

    runs = [run("a", 0, 0.9, 100), run("b", 0, 0.5, 50), run("a", 1, 0.8, 100), run("b", 1, 0.7, 30)]
    *_, first, second = script("studies/vision/tell.py").growth_table(runs)
    assert first == "| a | 1.00x | 10 | 85.00 ± 7.07 |" and second == "| b | 0.40x | 10 | 60.00 ± 14.14 |"
