# SPDX-License-Identifier: Apache-2.0
"""The study of the language side: its questions can be asked, verdicts follow from results, and the page from both."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/language"


@pytest.fixture
def study(monkeypatch):
    """Its modules, as its scripts see them."""
    monkeypatch.syspath_prepend(STUDY)
    import cells
    import claims

    return cells, claims


def cell(facts: float, nll: float, own: float | None = None) -> dict:
    found = {"overrides": [], "full": {"facts": {"1024": facts, "2048": facts + 2}, "nll": {"1024": nll}}}
    return found if own is None else {**found, "own": {"facts": {"1024": own}}}


def test_every_question_names_settings_and_measures_that_exist(study):
    cells, claims = study
    result = json.loads((STUDY / "results/hybrid/recall-0.json").read_text())
    for name in cells.QUESTIONS:
        question = cells.Question.load(name)
        for claim in question.claims:
            margins = {"as_good_within", "alike_within"}
            assert set(claim) <= {"claim", "thesis", "better", "than", "measure", "models", *margins}
            assert claim["measure"].split()[0] in result and claims.figure(result, claim["measure"]) is not None, claim
            for model in claim.get("models", question.settings):
                assert {claim["better"], claim["than"]} <= set(question.settings[model]), claim


def test_settings_are_recipes(study, monkeypatch):
    cells, _ = study
    monkeypatch.chdir(ROOT)
    from hylora.language import LanguageRecipe

    for setting in cells.settings():
        for model in cells.MODELS:
            overrides = cells.Cell(model, setting, 0).overrides
            if overrides is not None:
                LanguageRecipe.load(STUDY / "recipes/tune.yaml", overrides)


def test_no_two_settings_are_the_same_run(study, monkeypatch):
    cells, _ = study
    monkeypatch.chdir(ROOT)
    from hylora.language import LanguageRecipe

    tuned = [name for name, overrides in cells.settings().items() if overrides is not None]
    recipes = [
        LanguageRecipe.load(STUDY / "recipes/tune.yaml", cells.Cell("hybrid", name, 0).overrides).to_tree()
        for name in tuned
    ]
    assert len({json.dumps(recipe) for recipe in recipes}) == len(tuned)


def test_a_question_that_names_an_unknown_setting_is_refused(study, tmp_path, monkeypatch):
    cells, _ = study
    (tmp_path / "questions").mkdir()
    question = {"title": "?", "settings": {"hybrid": ["fll"]}}
    (tmp_path / "questions/bad.yaml").write_text(yaml.safe_dump(question))
    monkeypatch.setattr(cells, "HERE", tmp_path)
    with pytest.raises(SystemExit, match="'fll'"):
        cells.Question.load("bad")


def test_a_result_counts_for_the_overrides_it_was_made_with(study, tmp_path, monkeypatch):
    cells, _ = study
    one = cells.Cell("hybrid", "s2 lr/10", 3)
    monkeypatch.setattr(cells, "HERE", tmp_path)
    cells.settings.cache_clear()
    (tmp_path / "settings.yaml").write_text((STUDY / "settings.yaml").read_text())
    assert one.result() is None
    one.path.parent.mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes/tune.yaml"
    recipe.write_text("optimizer: { lr: 1 }")
    cells.recipe_sha256.cache_clear()
    for overrides, counts in ((one.overrides, True), ([*one.overrides, "adapter.r=3"], False)):
        one.path.write_text(json.dumps({"overrides": overrides, "recipe": cells.recipe_sha256()}))
        assert (one.result() is not None) == counts
    one.path.write_text(json.dumps({"overrides": one.overrides, "recipe": cells.recipe_sha256()}))
    for content, counts in (("# A comment.\noptimizer: { lr: 1 }", True), ("optimizer: { lr: 2 }", False)):
        recipe.write_text(content)
        cells.recipe_sha256.cache_clear()
        assert (one.result() is not None) == counts
    cells.recipe_sha256.cache_clear()
    cells.settings.cache_clear()


def test_figures_are_means_of_what_lies_below(study):
    _, claims = study
    result = cell(10, 3.5, own=7)
    assert claims.figure(result, "full facts") == 11
    assert claims.figure(result, "full facts 1024") == 10
    assert claims.figure(result, "own facts 1024") == 7
    assert claims.figure(result, "own steps") is None
    # A model without an attention of its own is one with full attention.
    assert claims.figure(cell(10, 3.5), "own facts 1024") == 10
    assert claims.figure(result, "onw facts 1024") is None


def test_a_clear_difference_by_hand(study):
    _, claims = study
    # With two settings it is the paired t test's: differences 1, 2 and 6, t of two degrees of freedom is 4.3027.
    assert claims.clear_difference([[11, 32, 76], [10, 30, 70]]) == pytest.approx(4.3027 * (7 / 3) ** 0.5, rel=1e-4)
    # What seeds bring to all settings alike is no chance.
    assert claims.clear_difference([[1, 51, 91], [2, 52, 92], [5, 55, 95]]) == pytest.approx(0, abs=1e-9)
    # Three settings: what remains is 1, 0, -1 / -1, 0, 1 / 0, 0, 0, over four degrees of freedom.
    figures = [[11, 20, 29], [9, 20, 31], [10, 20, 30]]
    assert claims.clear_difference(figures) == pytest.approx(2.7764 * (2 / 3) ** 0.5, rel=1e-4)


def test_differences_are_found_as_often_as_intervals_promise(study):
    """Where nothing differs but seeds, one in twenty differences of two among five settings looks clear."""
    _, claims = study
    draw, clear, trials = random.Random(0), 0, 2000
    for _ in range(trials):
        seeds = [draw.gauss(0, 5) for _ in range(3)]
        figures = [[seed + draw.gauss(0, 1) for seed in seeds] for _ in range(5)]
        clear += abs(fmean(figures[0]) - fmean(figures[1])) > claims.clear_difference(figures)
    assert 0.035 < clear / trials < 0.065


@pytest.mark.parametrize(
    ("measure", "better", "than", "margin", "verdict"),
    [
        ("full facts", (90, 91, 92), (50, 52, 53), {}, "held"),
        ("full facts", (50, 52, 53), (90, 91, 92), {}, "not held"),
        ("full facts", (50, 70, 60), (55, 60, 65), {}, "unclear"),
        # Of losses less is better.
        ("full nll", (3.0, 3.1, 3.2), (3.5, 3.6, 3.71), {}, "held"),
        ("full facts", (50, 51, 52), (50.5, 51.4, 52.6), {"alike_within": 5}, "held"),
        ("full facts", (50, 51, 52), (90, 91, 92.5), {"alike_within": 5}, "not held"),
        ("full facts", (90, 91, 92.5), (50, 51, 52), {"alike_within": 5}, "not held"),
        ("full facts", (50, 51, 52), (55, 56, 57.1), {"alike_within": 5}, "unclear"),
        # More is as good.
        ("full facts", (90, 91, 92.5), (50, 51, 52), {"as_good_within": 5}, "held"),
        ("full facts", (48, 49, 50), (50, 51, 52.5), {"as_good_within": 5}, "held"),
        ("full facts", (50, 51, 52), (90, 91, 92.5), {"as_good_within": 5}, "not held"),
        # Seeds pair: what is common to both moves nothing.
        ("full facts", (10, 50, 90), (9, 49, 89.2), {}, "held"),
        # A seed is missing.
        ("full facts", (90, 91, 92), (50, 52), {}, None),
    ],
)
def test_verdicts(study, tmp_path, monkeypatch, measure, better, than, margin, verdict):
    cells, claims = study
    sha = cells.recipe_sha256()
    for setting, values in (("se", better), ("sw", than)):
        for seed, value in enumerate(values):
            path = tmp_path / "results/hybrid" / f"{setting}-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = cell(value, value) | {"overrides": cells.Cell("hybrid", setting, seed).overrides, "recipe": sha}
            path.write_text(json.dumps(found))
    monkeypatch.setattr(cells, "HERE", tmp_path)
    claim = {"claim": "?", "better": "se", "than": "sw", "measure": measure, **margin}
    question = cells.Question("?", "?", None, {"hybrid": ["se", "sw"]}, [claim])
    assert [judged.verdict for judged in claims.judge(question)] == ([] if verdict is None else [verdict])


def test_results_of_two_bases_are_refused(study, tmp_path, monkeypatch):
    cells, _ = study
    monkeypatch.setattr(cells, "HERE", tmp_path)
    (tmp_path / "results/hybrid").mkdir(parents=True)
    for name, base in (("se-0", "a"), ("sw-0", "b")):
        (tmp_path / f"results/hybrid/{name}.json").write_text(json.dumps({"base": base}))
    with pytest.raises(SystemExit, match="two models"):
        cells.check_bases()


def test_the_page_follows_from_the_results(study):
    pytest.importorskip("matplotlib")
    import page

    text = (ROOT / "docs/concepts/study.md").read_text()
    cells, _ = study
    cells.check_bases()
    assert page.fill(text, page.sections()) == text
    with pytest.raises(SystemExit, match="'nothing'"):
        page.fill("<!-- nothing --><!-- end -->", iter([("something", "")]))


def test_correlation_by_hand(study):
    pytest.importorskip("matplotlib")
    import page

    assert page.ranks([3.0, 1.0, 3.0]) == [1.5, 0, 1.5]
    # 1 - 6 * 2 / (4 * 15)
    middle, low, high = page.correlation([1, 2, 3, 4], [10, 20, 40, 30])
    assert middle == pytest.approx(0.8) and low <= middle <= high


@pytest.mark.slow
def test_a_model_is_measured_in_full_and_in_its_own_way(study, monkeypatch):
    import measure

    from hylora.demo.miniature import load_miniature, load_tokenizer

    for name, value in {
        "TUNED": 128,
        "LENGTHS": (64, 128),
        "OWN_LENGTHS": (64,),
        "DOCUMENTS": 2,
        "TOKENS": 256,
        "FACT_LENGTHS": (128,),
        "FACTS_EACH": 2,
        "ASKED": 2,
        "AWAY": 32,
        "RULER_LENGTHS": (512,),
        "SAMPLES": 1,
    }.items():
        monkeypatch.setattr(measure, name, value)
    options = {"chunk_size": 32, "block_size": 4, "top_k": 2}
    found = measure.Material(load_tokenizer(), 0).measure(load_miniature(), ("se_attn_recall", options))
    assert set(found["full"]) == {"nll", "facts", "ruler", "ruler exact"}
    assert set(found["own"]) == {"nll", "facts", "steps"}
    assert set(found["full"]["nll"]) == {64, 128} and set(found["own"]["nll"]) == {64}
    assert found["full"]["nll"][64] != found["own"]["nll"][64]
    exact, tokens = found["full"]["ruler exact"][512], found["full"]["ruler"][512]
    assert set(exact) == set(measure.TASKS) and all(0 <= exact[task] <= tokens[task] <= 100 for task in exact)
