# SPDX-License-Identifier: Apache-2.0
"""The study of the language side: its questions can be asked, verdicts follow from results, and the page from both."""

from __future__ import annotations

import json
from pathlib import Path

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
            assert set(claim) <= {"claim", "thesis", "better", "than", "measure", "models", "within"}
            assert claims.figure(result, claim["measure"]) is not None, claim
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


def test_no_two_settings_are_the_same_run(study):
    cells, _ = study
    found = [json.dumps(overrides) for overrides in cells.settings().values()]
    assert len(set(found)) == len(found)


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
    for overrides, counts in ((one.overrides, True), ([*one.overrides, "adapter.r=3"], False)):
        one.path.write_text(json.dumps({"overrides": overrides}))
        assert (one.result() is not None) == counts
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


def test_an_interval_over_three_seeds_by_hand(study):
    _, claims = study
    found = claims.estimate([1.0, 2.0, 6.0])
    # Standard deviation sqrt(7), and 4.303 standard errors for two degrees of freedom.
    assert found.mean == 3 and found.reach == pytest.approx(4.3027 * (7 / 3) ** 0.5, rel=1e-4)
    assert claims.estimate([1.0]).reach is None


@pytest.mark.parametrize(
    ("measure", "better", "than", "within", "verdict"),
    [
        ("full facts", (90, 91, 92), (50, 52, 53), None, "held"),
        ("full facts", (50, 52, 53), (90, 91, 92), None, "not held"),
        ("full facts", (50, 70, 60), (55, 60, 65), None, "unclear"),
        # Of losses less is better.
        ("full nll", (3.0, 3.1, 3.2), (3.5, 3.6, 3.71), None, "held"),
        ("full facts", (50, 51, 52), (50.5, 51.4, 52.6), 5, "held"),
        ("full facts", (50, 51, 52), (90, 91, 92.5), 5, "not held"),
        ("full facts", (50, 51, 52), (55, 56, 57.1), 5, "unclear"),
        # Seeds pair: what is common to both moves nothing.
        ("full facts", (10, 50, 90), (9, 49, 89.2), None, "held"),
        ("full facts", (90,), (50,), None, "unclear"),
    ],
)
def test_verdicts(study, tmp_path, monkeypatch, measure, better, than, within, verdict):
    cells, claims = study
    for setting, values in (("se", better), ("sw", than)):
        for seed, value in enumerate(values):
            path = tmp_path / "results/hybrid" / f"{setting}-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {**cell(value, value), "overrides": cells.Cell("hybrid", setting, seed).overrides}
            path.write_text(json.dumps(found))
    monkeypatch.setattr(cells, "HERE", tmp_path)
    claim = {"claim": "?", "better": "se", "than": "sw", "measure": measure}
    claim |= {} if within is None else {"within": within}
    question = cells.Question("?", "?", None, {"hybrid": ["se", "sw"]}, [claim])
    (judged,) = claims.judge(question)
    assert judged.verdict == verdict


def test_the_page_follows_from_the_results(study):
    pytest.importorskip("matplotlib")
    import page

    text = (ROOT / "docs/concepts/study.md").read_text()
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
