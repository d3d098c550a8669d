# SPDX-License-Identifier: Apache-2.0
"""Phases of epochs: the thesis's schedules, gradual pruning by hand, and what does not fit."""

from __future__ import annotations

import pytest

from vision_extras.sparse import SparseRecipe
from vision_extras.sparse.phases import Phase, last_dense, plan_phases

TRANSFORMER_XL = {"warmup": 5, "sparse": 3, "dense": 3, "last_dense": 7, "last_sparse": 9}


def planned(epochs, schedule="alternating", **options):
    return plan_phases(SparseRecipe(schedule=schedule, **options), epochs)


def sparse_epochs(phases):
    return [(phase.first, phase.end - 1) for phase in phases if not phase.is_dense]


def test_a_hundred_epochs_are_half_dense_and_half_sparse():
    """The default of section 3.4.1."""
    phases = planned(100)
    assert sparse_epochs(phases) == [(first, first + 4) for first in range(10, 80, 10)] + [(85, 99)]
    assert sum(phase.epochs for phase in phases if phase.is_dense) == 50
    assert last_dense(phases) == Phase(75, 10, 0)


@pytest.mark.parametrize("epochs", [200, 300])
def test_longer_training_has_more_phases_of_the_same_lengths(epochs):
    """Section 3.4.4."""
    expected = [(first, first + 4) for first in range(10, epochs - 20, 10)] + [(epochs - 15, epochs - 1)]
    assert sparse_epochs(planned(epochs)) == expected


def test_short_dense_phases_leave_the_rest_to_the_last_sparse_one():
    """Section 3.5.1."""
    phases = planned(100, dense=2, last_dense=2)
    assert {phase.epochs for phase in phases[1:-1]} == {5, 2}
    assert sparse_epochs(phases) == [(first, first + 4) for first in range(10, 80, 7)] + [(80, 99)]


def test_the_phases_of_transformer_xl():
    """Section 3.5.2: 48 epochs, of which it counts the first as 1."""
    expected = [(first - 1, first + 1) for first in (6, 12, 18, 24, 30)] + [(39, 47)]
    phases = planned(48, **TRANSFORMER_XL)
    assert sparse_epochs(phases) == expected and phases[-2] == Phase(32, 7, 0)


def test_a_dense_finish_is_one_long_dense_phase():
    sparse, dense = planned(100), planned(100, finish="dense")
    assert dense == (*sparse[:-2], Phase(75, 25, 0)) and last_dense(dense) is None


@pytest.mark.parametrize("options", [{}, {"dense": 3}, {"sparse": 4, "dense": 1}, {"warmup": 0}])
def test_phases_fill_the_run_and_take_turns(options):
    recipe = SparseRecipe(**options)
    for epochs in range(40, 75):
        phases = planned(epochs, **options)
        assert [phase.end for phase in phases] == [*[phase.first for phase in phases[1:]], epochs]
        assert all(one.is_dense != other.is_dense for one, other in zip(phases, phases[1:], strict=False))
        assert phases[-2].epochs == recipe.last_dense and phases[-1].epochs >= recipe.last_sparse
        assert {phase.epochs for phase in phases[:-1] if not phase.is_dense} == {recipe.sparse}


def test_sparsity_rises_along_the_cubic():
    """s (1 - (1 - t)^3), t from 0 at epoch 0 to 1 at epoch 11; the last rise comes sooner, as the run has it."""
    phases = planned(16, "gradual", sparsity=0.8, warmup=3, sparse=3, last_sparse=5)
    expected = [(0, 0.0), *((epoch, 0.8 * (1 - (1 - epoch / 11) ** 3)) for epoch in (3, 6, 9, 11))]
    assert [phase.first for phase in phases] == [first for first, _ in expected]
    assert [phase.level for phase in phases] == pytest.approx([level for _, level in expected], abs=1e-6)
    assert phases[-1] == Phase(11, 5, 0.8)
    assert last_dense(phases) is None


def test_other_schedules_have_one_phase():
    assert planned(7, "fixed") == (Phase(0, 7, None),)
    assert planned(7, "none") == (Phase(0, 7, 0),) and planned(7, "none")[0].is_dense
    assert not planned(7, "fixed")[0].is_dense


@pytest.mark.parametrize(
    ("epochs", "options", "message"),
    [
        (
            39,
            {},
            "warmup=10, sparse=5, last_dense=10, last_sparse=15 come to 40 epochs, and training has 39; shorten them, "
            "or train for 40 or more",
        ),
        (5, {"schedule": "gradual"}, "warmup=10, last_sparse=15 come to 25 epochs, and training has 5"),
        (100, {"last_dense": 0}, "last_dense=0 leaves no dense phase before the last sparse one; set it to 1"),
        (100, {"sparsity": 0.0}, "sparsity=0.0 leaves nothing away; set it above 0"),
        (100, {"schedule": "gradual", "sparsity": "2:4"}, "sparsity='2:4' cannot rise, and schedule='gradual'"),
        (100, {"schedule": "gradual", "finish": "dense"}, "finish='dense' trains the dense network that"),
        (100, {"schedule": "fixed", "finish": "dense"}, "finish='dense' trains the dense network that"),
    ],
)
def test_what_does_not_fit_is_refused(epochs, options, message):
    with pytest.raises(ValueError) as caught:
        planned(epochs, **options)
    assert str(caught.value).startswith(message)
