# SPDX-License-Identifier: Apache-2.0
"""What a recipe leaves open is as the thesis has it, and what cannot work is refused."""

from __future__ import annotations

import pytest

from hylora.training.recipe import RecipeError
from tests.vision_extras import small
from vision_extras.subspaces import SubspaceRecipe

PLAIN = {"growth": {}, "pruning": {}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "line"}, {"curriculum": "anneal", "bias": 0.5, "samples": 1, "norm": "group", "strongest": 0.975}),
        ({"kind": "point"}, {"curriculum": "hold", "bias": 0.0, "samples": 1, "norm": "group", "weakest": 0.0}),
        (
            {"kind": "line", "compression": "width"},
            {"curriculum": "none", "samples": 4, "norm": "instance", "weakest": 1.0, "strongest": 0.25},
        ),
        ({"kind": "line", "samples": 4}, {"bias": 0.0, "samples": 4}),
        ({"kind": "line", "compression": "bits"}, {"bias": 0.0, "weakest": 8, "strongest": 3, "norm": "group"}),
        ({"kind": "point", "targets": (0.9,)}, {"curriculum": "anneal", "samples": 1, "norm": "keep"}),
        (
            {"kind": "point", "compression": "width", "targets": (0.5, 1.0)},
            {"curriculum": "none", "samples": 1, "norm": "keep"},
        ),
    ],
)
def test_what_is_left_open(settings, expected):
    recipe = SubspaceRecipe(**settings)
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "lines"}, "kind='lines' must be none | line | point"),
        ({"strongest": 0.9}, "strongest=0.9 must be left out; kind='none' does not read it"),
        ({"kind": "line", "curriculum": "annealed"}, "curriculum='annealed' must be anneal | hold | none"),
        ({"kind": "line", "strongest": 1.0}, "strongest=1.0 must be shares of the weights that go"),
        ({"kind": "line", "compression": "width", "strongest": 0.0}, "strongest=0.0 must be shares of the channels"),
        ({"kind": "line", "compression": "bits", "strongest": 2}, "strongest=2 must be numbers of bits from 8 to 3"),
        ({"kind": "line", "compression": "bits", "strongest": 3.5}, "strongest=3.5 must be numbers of bits"),
        ({"kind": "line", "targets": (0.5,)}, "targets=(0.5,) are for kind='point'"),
        ({"kind": "point", "targets": (0.99,)}, "targets=(0.99,): level=0.99 must be from 0.0 to 0.975"),
        ({"kind": "point", "compression": "bits", "measured": (5.5,)}, "level=5.5 must be 8 or 7 or 6 or 5 or 4 or 3"),
        ({"kind": "line", "bias": 1.5}, "bias=1.5 must be at least 0 and at most 1"),
        ({"compression": "bits"}, "compression='bits' must be left out; kind='none' does not read it"),
        (
            {"kind": "point", "targets": (0.5,), "samples": 2},
            "samples=2 and bias=0.0 must be left out where targets=(0.5,)",
        ),
        ({"kind": "line", "samples": 4, "bias": 0.5}, "bias=0.5 must be left out where samples=4 have both ends"),
        ({"kind": "line", "norm": "instance", "groups": 8}, "groups=8 must be left out; norm='instance' does not"),
        ({"kind": "line", "warmup": 1.0}, "warmup=1.0 must be at least 0 and below 1"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError) as refused:
        SubspaceRecipe(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"pruning": {"sparsity": 0.5}, "growth": {}}, "pruning.sparsity"), ({"pruning": {}}, "growth.width"),
     ({**PLAIN, "signals": {"fisher": 8}}, "signals.fisher")],
)  # fmt: skip
def test_what_changes_weights_in_another_way_is_refused(settings, key):
    with pytest.raises(RecipeError, match=f"subspace.kind='line' and {key}="):
        small.recipe(**{"subspace.kind": "line", **settings})


@pytest.mark.parametrize("compression", ["sparsity", "width", "bits"])
@pytest.mark.parametrize("settings", [{"kind": "line"}, {"kind": "point"}, {"kind": "point", "targets": True}])
def test_a_written_recipe_reads_back(compression, settings):
    targets = {"targets": [{"sparsity": 0.5, "width": 0.5, "bits": 4}[compression]]} if "targets" in settings else {}
    recipe = small.recipe(**PLAIN, subspace={**settings, "compression": compression, **targets})
    assert type(recipe).from_tree(recipe.to_tree()) == recipe
