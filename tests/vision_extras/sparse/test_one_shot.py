# SPDX-License-Identifier: Apache-2.0
"""Compressing a trained network at once, against a loop written out; and what the run and the command measure."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from typer.testing import CliRunner

from hylora.training.recipe import RecipeError
from hylora_cli import build_app
from tests.outcomes import assert_same
from tests.processes import launch
from tests.vision_extras import small
from vision_extras import commands
from vision_extras.images import AugmentRecipe, ImagesRecipe, load_split
from vision_extras.run import make_task
from vision_extras.sparse import OneShotRecipe
from vision_extras.sparse.compression import check_levels
from vision_extras.sparse.one_shot import Calibration, one_shot

SPLIT = load_split(ImagesRecipe(name="digits", held_out=0.95))
PLAIN = {"sampler": {"name": "ssc_fbs"}, "growth": {}, "pruning": {}, "model": {"name": "resnet8"}}


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)).double()
    made[1].weight.data.uniform_(0.5, 2)
    # Statistics and a counter that are not those of a new layer.
    made(torch.randn(7, 1, 8, 8).double())
    return made.eval()


def calibration(rows=SPLIT.train, seed=3, **settings):
    recipe = OneShotRecipe(**{"levels": (0.9,), "calibration": 40, "passes": 2, **settings})
    return Calibration(rows, SPLIT.augmented(AugmentRecipe(shift=2)), (8, 8), recipe, seed)


def by_hand(weights, level, batches):
    """Logits of the held-out images with the smallest weights gone, as the network is and with new statistics."""
    images = SPLIT.plain([SPLIT.held_out[n] for n in range(50)], [None] * 50, (8, 8))["images"].double()
    weights = {name: value.clone() for name, value in weights.items()}
    both = torch.cat([weights["0.weight"].flatten(), weights["4.weight"].flatten()])
    both[both.abs().argsort(stable=True)[: int(level * len(both) + 1e-9)]] = 0
    conv = both[:54].view(6, 1, 3, 3)

    def logits(mean, variance):
        features = F.conv2d(images, conv, weights["0.bias"]) - mean[:, None, None]
        features = features / (variance[:, None, None] + 1e-5).sqrt() * weights["1.weight"][:, None, None]
        features = (features + weights["1.bias"][:, None, None]).relu().flatten(1)
        return features @ both[54:].view(10, 216).T + weights["4.bias"]

    seen = [F.conv2d(batch.double(), conv, weights["0.bias"]).transpose(0, 1).flatten(1) for batch in batches]
    mean = torch.stack([batch.mean(1) for batch in seen]).mean(0)
    variance = torch.stack([batch.var(1) for batch in seen]).mean(0)
    return logits(weights["1.running_mean"], weights["1.running_var"]), logits(mean, variance)


def test_it_is_the_loop_written_out_and_leaves_no_trace():
    model, images = network(), [batch.double() for batch in calibration()]
    held = SPLIT.plain([SPLIT.held_out[n] for n in range(50)], [None] * 50, (8, 8))["images"].double()
    before, seen = copy.deepcopy(model.state_dict()), []

    @torch.no_grad()
    def evaluate():
        seen.append(model(held))
        return {"loss": len(seen), "accuracy": float(seen[-1].sum())}

    found = one_shot(model, OneShotRecipe(levels=(0.5, 0.95, "4bit")), evaluate, images)
    assert list(found) == ["0.5", "0.95", "4bit"] and len(seen) == 6
    for level, (raw, tuned) in zip((0.5, 0.95), (seen[:2], seen[2:4]), strict=True):
        torch.testing.assert_close((raw, tuned), by_hand(before, level, images))
        assert not raw.allclose(tuned)
        assert found[str(level)]["accuracy"] == float(raw.sum())
        assert found[str(level)]["tuned_accuracy"] == float(tuned.sum())
    assert [point["tuned_loss"] for point in found.values()] == [2, 4, 6]
    assert_same(model.state_dict(), before)
    assert not model.training


def test_norms_without_statistics_and_no_calibration_are_not_tuned():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LayerNorm(10))
    for model, count in ((plain, 40), (network(), 0)):
        recipe = OneShotRecipe(levels=(0.5,), calibration=count)
        found = one_shot(model, recipe, lambda: {"loss": 1.0, "accuracy": 0.5}, ())
        assert found == {"0.5": {"accuracy": 0.5, "loss": 1.0}}


def test_an_error_in_the_middle_leaves_no_trace():
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        one_shot(model, OneShotRecipe(levels=(0.5,)), lambda: 1 // 0, ())
    assert_same(model.state_dict(), before)


def test_images_are_some_of_the_training_set_each_as_often_and_changed_as_in_training():
    class Numbers:
        def __len__(self):
            return 90

        def __getitem__(self, index):
            return index

    def collate(rows, generators, shape):
        assert shape == (8, 8)
        return {"images": torch.tensor(rows), "draws": [float(torch.rand((), generator=g)) for g in generators]}

    recipe = OneShotRecipe(levels=(0.9,), calibration=40, passes=5)
    made = Calibration(Numbers(), collate, (8, 8), recipe, seed=3)
    passes = list(made)
    assert [len(batch) for batch in passes] == [128] * 5
    order = torch.cat(passes).tolist()
    assert len(set(order)) == 40 and max(order) > 60
    rounds = [order[first : first + 40] for first in range(0, 640, 40)]
    assert all(set(each) == set(order) for each in rounds) and rounds[0] != rounds[1]
    assert order == torch.cat(list(made)).tolist() != torch.cat(list(Calibration(*made_of(made), seed=4))).tolist()
    draws = made[0, [0] * 128]["draws"] + made[1, [0] * 128]["draws"]
    assert len(set(draws)) == 256


def made_of(made):
    return made.rows, made.collate, made.shape, made.recipe


def test_a_small_training_set_is_taken_whole():
    rows = SPLIT.train.select(torch.arange(len(SPLIT.train)) < 5)
    assert [tuple(batch.shape) for batch in calibration(rows, calibration=1000)] == [(128, 1, 8, 8)] * 2


REFUSED = {
    "a pattern that divides nothing": (
        {"levels": ("3:7",)},
        "levels: sparsity='3:7' divides the input channels of no weight",
    ),
    "a name that nothing has": ({"levels": (0.5,), "keep": ("4", "stem")}, "keep='stem' must name a module"),
    "nothing left": ({"levels": (0.5,), "keep": ("first", "last")}, "keep=['first', 'last'] leaves no weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compressed_is_refused(case):
    settings, message = REFUSED[case]
    with pytest.raises(ValueError) as error:
        recipe = OneShotRecipe(**settings)
        check_levels(network().to("meta"), recipe.levels, recipe.keep)
    assert str(error.value).startswith(message)


def test_a_network_of_vectors_is_refused():
    with pytest.raises(ValueError, match=r"levels=\[0.5\] compress weights of more than one dimension"):
        check_levels(nn.LayerNorm(4), [0.5], ())


IN_TRAINING = {
    "a level": ({"levels": [1.0]}, {}, "one_shot.levels: sparsity=1.0 must be at least 0 and below 1"),
    "a pattern of the whole network": ({"levels": ["3:7"]}, {}, "one_shot.levels: sparsity='3:7' divides"),
    "a subspace": (
        {"levels": [0.5]},
        {"subspace.kind": "line", "growth": {}, "pruning": {}},
        "subspace.kind='line' and one_shot.levels=(0.5,) cannot",
    ),
    "nothing held out": ({"levels": [0.5]}, {"evaluation.at_end": False}, "one_shot.levels=[0.5] is measured on held"),
}


@pytest.mark.parametrize("case", IN_TRAINING)
def test_runs_are_refused_before_they_start(case, tmp_path):
    settings, others, message = IN_TRAINING[case]
    with pytest.raises(RecipeError) as error:
        small.train(tmp_path / "run", **{"one_shot": settings, "evaluation.at_end": True, **others})
    assert str(error.value).startswith(message)


def command(folder, output, *arguments):
    line = ["eval", str(folder), *arguments, "--output", str(output)]
    done = CliRunner().invoke(build_app(line, commands.COMMANDS), line)
    assert done.exception is None, done.output
    return json.loads(output.read_text())["evaluation"], done.output


@pytest.mark.slow
def test_a_run_and_the_command_measure_the_same(tmp_path):
    """With weights of a network that grew."""
    settings = {"one_shot": {"levels": [0.6, "2:4"], "passes": 2, "keep": ["last"]}, "evaluation.at_end": True}
    settings |= {"model.norm": "batch"}
    result, _ = small.train(tmp_path / "run", **settings)
    trained = json.loads((result.folder / "results.json").read_text())["one_shot"]
    assert {level: set(point) for level, point in trained.items()} == dict.fromkeys(
        ("0.6", "2:4"), {"accuracy", "loss", "tuned_accuracy", "tuned_loss"}
    )
    found, table = command(result.folder, tmp_path / "eval.json", "--levels", "0.6", "2:4")
    assert found["one_shot"] == {level: pytest.approx(point, rel=1e-4) for level, point in trained.items()}
    assert "tuned accuracy compressed to 2:4" in table
    assert found["accuracy"] == pytest.approx(
        json.loads((result.folder / "results.json").read_text())["evaluation"]["accuracy"]
    )


@pytest.mark.slow
def test_several_processes_measure_what_one_does(tmp_path):
    settings = {**PLAIN, "one_shot": {"levels": [0.8], "passes": 2}, "evaluation.at_end": True, "training.epochs": 2}
    small.recipe(tmp_path / "run", **settings).save(tmp_path / "recipe.yaml")
    launch(2, "-m", "hylora.train", tmp_path / "recipe.yaml")
    trained = json.loads((tmp_path / "run" / "results.json").read_text())["one_shot"]
    found, _ = command(tmp_path / "run", tmp_path / "eval.json", "--levels", "0.8")
    assert found["one_shot"]["0.8"] == pytest.approx(trained["0.8"], rel=1e-4)


def test_averages_and_masks_do_not_see_it(tmp_path):
    """Evaluated in the run's own task: nothing of the model's state differs afterwards."""
    settings = {**PLAIN, "average.decay": 0.9, "pruning": {"sparsity": 0.5, "at": 0}, "evaluation.at_end": True}
    recipe = small.recipe(tmp_path, **settings, one_shot={"levels": [0.7, "4bit"], "passes": 1})

    task = make_task(recipe, Accelerator())
    before = copy.deepcopy(task.model.state_dict())
    task.model.eval()
    first = task.measure(task.model, Accelerator(), lambda: None)["one_shot"]
    assert first == task.measure(task.model, Accelerator(), lambda: None)["one_shot"]
    assert_same(task.model.state_dict(), before)
