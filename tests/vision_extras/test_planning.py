# SPDX-License-Identifier: Apache-2.0
"""What runs take, against sums over every update, and the order in which a budget makes them begin smaller."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from accelerate import Accelerator

from hylora.training.whole_run import run
from tests import command_line
from tests.pages import ROOT
from vision_extras import planning
from vision_extras.curricula import Plan, SamplerRecipe
from vision_extras.metrics.flops import on_meta, training_flops
from vision_extras.models import build_network
from vision_extras.planning import ImageSet, compound, plan_run
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

DATA = ImageSet(images=500, channels=1, classes=10)
EXPANDING = {"name": "msc_vbswc", "side": 16, "smallest": 8, "largest": 24, "multiple": 4, "start": 0.5}


def recipe(**sections):
    tree = {
        "task": "images",
        "images": {"name": "digits"},
        "model": {"name": "resnet20"},
        "training": {"epochs": 8, "global_batch_size": 32, "batch_size": 32},
        "tracking": {"progress": False},
        "output": {"path": "unused", "checkpoint_every": 0},
    }
    return ImageRecipe.from_tree({**tree, **{key: {**tree.get(key, {}), **value} for key, value in sections.items()}})


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"sampler": EXPANDING},
        {"sampler": EXPANDING, "growth": {"width": 0.25, "depth": 0.25, "until": 0.5}},
        {"growth": {"width": 0.5}, "sharpness": {"radius": 0.1}},
    ],
    ids=["dense", "resolution", "compound", "sharpness"],
)
def test_a_run_takes_what_its_updates_sum_to(sections):
    made = recipe(training={"epochs": 4}, **sections)
    plan, loop = plan_run(made, DATA), made.training
    updates = Plan(made.sampler, DATA.images, loop.epochs, loop.global_batch_size, loop.batch_size, loop.seed)
    counted, expected = {}, [0] * loop.epochs
    for step in range(updates.steps):
        epoch = updates.epoch(step)
        model = made.growth.network_at(made.model, epoch, loop.epochs)
        for rows, shape in updates.batches(step):
            if (model, shape) not in counted:
                counted[model, shape] = training_flops(build_network(model, 1, 10, None), (1, *shape))
            expected[epoch] += rows * counted[model, shape] * (2 if made.sharpness.radius else 1)
    assert [epoch.flops for epoch in plan.epochs] == expected
    assert plan.flops == sum(expected) and plan.updates == updates.steps
    full = training_flops(build_network(made.model, 1, 10, None), (1, *made.sampler.shape))
    assert plan.share == pytest.approx(
        plan.flops / (full * DATA.images * loop.epochs * (2 if made.sharpness.radius else 1))
    )
    if not sections:
        assert plan.share == 1


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_rows_by_shape_are_those_of_the_updates(processes, own):
    sampler = SamplerRecipe(**EXPANDING, shape_per_rank=own)
    plan = Plan(sampler, 333, 4, 24, 24, 0, processes)
    expected = [{} for _ in range(4)]
    for step in range(plan.steps):
        for rows, shape in plan.batches(step):
            seen = expected[plan.epoch(step)]
            seen[shape] = seen.get(shape, 0) + rows
    assert [plan.rows_by_shape(epoch) for epoch in range(4)] == expected
    assert all(sum(images.values()) == 333 for images in expected)


# Subspaces


@pytest.mark.parametrize(
    ("subspace", "networks"),
    [
        ({"kind": "line"}, 1),
        ({"kind": "point"}, 1),
        ({"kind": "line", "compression": "bits"}, 1),
        ({"kind": "point", "targets": [0.5, 0.9]}, 2),
        ({"kind": "line", "compression": "bits", "samples": 3}, 3),
    ],
)
@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_zeros_and_few_bits_spare_no_operation_of_training(subspace, networks, name):
    sections = {"model": {"name": name}, "sampler": {"side": 32}, "training": {"epochs": 2}}
    dense, plan = (plan_run(recipe(**sections, **more), DATA) for more in ({}, {"subspace": subspace}))
    assert plan.flops == networks * dense.flops and plan.dense == dense.dense and plan.share == networks
    assert plan.parameters == dense.parameters * (2 if subspace["kind"] == "line" else 1)


def of_widths(made, widths):
    """Operations of an image in plain networks of these widths, summed."""
    subspace = made.subspace.make(build_network(made.model, 1, 10, torch.Generator()))
    return sum(training_flops(on_meta(subspace.export(width)), (1, 8, 8)) for width in widths)


def test_of_widths_those_that_are_trained_are_counted():
    subspace = {"kind": "point", "compression": "width", "targets": [0.25, 0.5, 0.75, 1.0]}
    made = recipe(model={"name": "resnet8"}, training={"epochs": 2}, subspace=subspace)
    plan = plan_run(made, DATA)
    assert [epoch.flops for epoch in plan.epochs] == [DATA.images * of_widths(made, made.subspace.targets)] * 2


@pytest.mark.slow
def test_of_widths_at_random_the_mean_is_counted():
    subspace = {"kind": "line", "compression": "width", "curriculum": "hold", "warmup": 0.5}
    made = recipe(model={"name": "resnet8", "width": 2.0}, training={"epochs": 2}, subspace=subspace)
    plan = plan_run(made, DATA)
    assert plan.epochs[0].flops == DATA.images * of_widths(made, [1.0]) == plan.dense
    parts = 12
    between = of_widths(made, [0.25 + 0.75 * (part + 0.5) / parts for part in range(parts)]) / parts
    assert plan.epochs[1].flops / DATA.images == pytest.approx(of_widths(made, [0.25, 1.0]) + 2 * between, rel=3e-3)


@pytest.mark.parametrize("compression", ["sparsity", pytest.param("width", marks=pytest.mark.slow), "bits"])
def test_the_results_of_a_subspace_are_what_was_planned(compression):
    measured = {"sparsity": 0.0, "width": 1.0, "bits": 8}[compression]
    subspace = {"kind": "line", "compression": compression, "measured": [measured]}
    made = recipe(model={"name": "resnet8"}, training={"epochs": 2}, subspace=subspace)
    found, plan = make_task(made, Accelerator(cpu=True)).results(), plan_run(made)
    assert (found["flops"], found["parameters"]) == (plan.flops, plan.parameters)


@pytest.mark.slow
def test_a_budget_is_kept_by_resolution_alone_where_a_subspace_is_trained():
    made = recipe(
        sampler=EXPANDING, training={"epochs": 4}, subspace={"kind": "point", "compression": "width", "samples": 2}
    )
    plan = compound(made, 0.6, DATA)
    assert 0.25 <= begins(plan)[0] < 1 and begins(plan)[1:] == (1.0, 1.0) and plan.share <= 0.6


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "recipes/vision").glob("lcs_*.yaml")))
def test_the_command_plans_recipes_of_subspaces(name, tmp_path):
    file = tmp_path / "plan.json"
    path = str(ROOT / "recipes/vision" / name)
    result = command_line.run("plan", path, "training.epochs=2", "images.name=digits", "--json", str(file))
    assert result.exit_code == 0, result.output
    share = json.loads(file.read_text())["flops_over_dense"]
    assert 1.8 < share < 2.1 if "width" in name else share == 1


def test_a_network_that_a_compression_cannot_take_is_refused_by_the_plan():
    made = recipe(model={"name": "resnet8", "norm": "group"}, subspace={"kind": "point", "compression": "width"})
    with pytest.raises(ValueError, match="subspace.compression='width': .*groups would not divide"):
        plan_run(made, DATA)


@pytest.mark.slow
def test_a_trained_run_took_what_was_planned(tmp_path):
    made = recipe(
        images={"held_out": 0.9},
        model={"name": "resnet8"},
        sampler={**EXPANDING, "side": 8, "smallest": 4, "largest": 8},
        growth={"width": 0.25, "until": 0.5},
        training={"epochs": 3},
        output={"path": str(tmp_path)},
    )
    result = run(made, make_task)
    found = json.loads((result.folder / "results.json").read_text())
    plan = plan_run(made)
    assert found["flops"] == plan.flops
    assert (found["images_seen"], found["parameters"]) == (3 * plan.data.images, plan.parameters)
    assert result.steps == plan.updates


def test_planning_reads_no_image_where_the_numbers_are_given(monkeypatch):
    monkeypatch.setattr(planning, "load_split", None)
    plan = plan_run(recipe(model={"name": "resnet50"}, sampler={"side": 64}), ImageSet(1000, 3, 1000))
    assert plan.parameters == 25_557_032 and plan.dense == plan.epochs[0].flops


# A budget


def begins(plan):
    return tuple(plan.start.values())


@pytest.mark.slow
def test_a_budget_is_kept_by_resolution_then_width_then_depth():
    """Each phase begins only at the end of the one before, and no factor is smaller than it has to be."""
    made = recipe(sampler=EXPANDING, training={"epochs": 16})
    starts = []
    for budget in (2.0, 0.7, 0.52, 0.49, 0.46, 0.44, 0.42):
        try:
            plan = compound(made, budget, DATA)
        except ValueError:
            break
        resolution, width, depth = begins(plan)
        assert plan.share <= budget and plan_run(plan.recipe, DATA) == plan
        assert width == 1 or resolution == 0.25
        assert depth == 1 or width == 0.25
        starts.append((resolution, width, depth))
        # A hundredth more of the factor that was reduced last would be too much.
        reduced = [factor for factor in starts[-1] if factor < 1]
        if reduced:
            before = [*reduced[:-1], reduced[-1] + 0.01, 1.0, 1.0][:3]
            assert planned(made, *before).share > budget
    assert starts[0] == (1.0, 1.0, 1.0)
    assert starts == sorted(starts, reverse=True)
    assert {sum(factor < 1 for factor in factors) for factors in starts} == {0, 1, 2, 3}


@pytest.mark.slow
def test_operations_may_rise_where_a_start_falls_and_the_first_that_keeps_to_the_budget_is_found():
    made = recipe(sampler=EXPANDING, training={"epochs": 16})
    starts = [number / 100 for number in range(100, 24, -1)]
    shares = [planned(made, start, 1.0, 1.0).share for start in starts]
    budget = next(share for share, after in itertools.pairwise(shares) if share < after)
    first = next(start for start, share in zip(starts, shares, strict=True) if share <= budget)
    assert begins(compound(made, budget, DATA)) == (first, 1.0, 1.0)


def planned(made, resolution, width, depth):
    tree = made.to_tree()
    tree["sampler"]["start"], tree["growth"]["width"], tree["growth"]["depth"] = resolution, width, depth
    return plan_run(ImageRecipe.from_tree(tree), DATA)


def test_the_recipes_own_start_is_not_looked_at():
    made = recipe(sampler=EXPANDING, growth={"width": 0.5, "depth": 0.5})
    assert compound(made, 0.6, DATA) == compound(recipe(sampler={**EXPANDING, "start": 0.9}), 0.6, DATA)


def test_a_network_that_cannot_grow_keeps_to_a_budget_by_resolution_alone():
    made = recipe(
        model={"name": "vgg11"}, sampler={**EXPANDING, "side": 64, "smallest": 32, "largest": 96, "multiple": 32}
    )
    plan = compound(made, 0.42, DATA)
    assert (
        plan.share <= 0.42 < compound(made, 1.0, DATA).share and begins(plan)[0] < 1 and begins(plan)[1:] == (1.0, 1.0)
    )
    with pytest.raises(ValueError, match=r"budget=0.01 cannot be kept: with sampler.start=0.25, growth.width=1,"):
        compound(made, 0.01, DATA)


@pytest.mark.parametrize(
    ("sections", "budget", "message"),
    [
        ({"sampler": EXPANDING}, 0.01, r"with sampler.start=0.25, growth.width=0.25, growth.depth=0.25 the run still"),
        ({"sampler": EXPANDING}, 0.0, "budget=0.0 must be above 0"),
        ({"sampler": EXPANDING}, float("nan"), "budget=nan must be above 0"),
        ({}, 0.5, "sampler.name='ssc_fbs' cannot keep to a budget"),
        (
            {"sampler": {**EXPANDING, "multiple": 2}},
            0.3,
            "sampler: images of 2x2 pixels are below the network's stride, 4",
        ),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(sections, budget, message):
    with pytest.raises(ValueError, match=message):
        compound(recipe(**sections), budget, DATA)


# The command


def test_the_command_shows_writes_and_draws_a_plan(tmp_path):
    path = ROOT / "recipes/vision/growth/compound.yaml"
    files = [tmp_path / name for name in ("plan.json", "plan.png")]
    given = [
        "training.epochs=4",
        "model.name=resnet8",
        "--budget",
        "0.7",
        "--json",
        str(files[0]),
        "--plot",
        str(files[1]),
    ]
    result = command_line.run("plan", str(path), *given)
    assert result.exit_code == 0, result.output
    plan = json.loads(files[0].read_text())
    assert plan["flops_over_dense"] <= 0.7 and f"{plan['flops_over_dense']:.3f}" in result.output
    assert plan["recipe"]["sampler"]["start"] == plan["start"]["sampler.start"]
    assert f"sampler.start={plan['start']['sampler.start']:g}" in result.output
    assert len(plan["epochs"]) == 4 and sum(epoch["flops"] for epoch in plan["epochs"]) == plan["flops"]
    assert ImageRecipe.from_tree(plan["recipe"]).training.epochs == 4
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes/vision/growth/width.yaml", "--context", "8"], "is for language models, which"),
        (["recipes/llama_16k.yaml", "--budget", "0.5"], "budget='0.5' is for recipes of images"),
        (["recipes/vision/growth/width.yaml", "model.name=vgg11"], "model.name='vgg11' cannot; use one of resnet8"),
    ],
)
def test_options_of_other_tasks_are_refused(arguments, message):
    path, *others = arguments
    result = command_line.run("plan", str(ROOT / path), *others)
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/vision/growth").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_take_less_than_the_dense_run(path):
    assert plan_run(ImageRecipe.load(path), ImageSet(4000, 1, 10)).share < 0.8
