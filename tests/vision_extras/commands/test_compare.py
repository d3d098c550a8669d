# SPDX-License-Identifier: Apache-2.0
"""`hylora images compare`: two runs on what both have held out, against a plain loop."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from hylora.training.whole_run import run as train
from hylora_cli import build_app
from vision_extras import commands
from vision_extras.images import load_split
from vision_extras.models import load_network
from vision_extras.models.weights import write_weights
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

TREE = {
    "task": "images",
    "images": {"name": "digits", "held_out": 0.8},
    "training": {"epochs": 1, "global_batch_size": 64, "batch_size": 64},
    "evaluation": {"at_end": False, "batch_size": 97},
    "tracking": {"progress": False},
}


def trained(path, **settings):
    tree = {**TREE, "output": {"path": str(path), "checkpoint_every": 0}}
    train(ImageRecipe.from_tree({**tree, **settings}), make_task)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), average={"decay": 0.9})


def invoke(*arguments):
    line = ["compare", *map(str, arguments)]
    return CliRunner().invoke(build_app(line, commands.COMMANDS), line)


def test_two_outcomes_of_a_run_are_compared(folder, tmp_path):
    output = tmp_path / "pair.json"
    done = invoke(folder / "average.safetensors", folder, "--output", output)
    assert done.exception is None, done.output
    result = json.loads(output.read_text())
    split = load_split(ImageRecipe.load(folder / "recipe.yaml").images)
    batch = split.plain([split.held_out[n] for n in range(len(split.held_out))], [None] * len(split.held_out), (8, 8))
    with torch.no_grad():
        average, own = (
            load_network(path).eval()(batch["images"]).double() for path in (folder / "average.safetensors", folder)
        )
    expected = {
        "agreement": float((average.argmax(1) == own.argmax(1)).double().mean()),
        "cross_entropy": float(-(own.softmax(1) * average.log_softmax(1)).sum(1).mean()),
    }
    found = result["evaluation"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    for name, logits in (("sparse", average), ("dense", own)):
        right = float((logits.argmax(1) == batch["labels"]).double().mean())
        assert found[name]["accuracy"] == pytest.approx(right)
    assert found["agreement"] < 1 and found["sparse"]["loss"] != found["dense"]["loss"]
    assert (result["kind"], result["images"], result["shape"]) == ("image_pair", len(split.held_out), [8, 8])
    assert "cross entropy" in done.output


def test_what_cannot_be_compared_is_refused(folder, tmp_path):
    """In the order in which it shows: a result that is there, a run that is not, images that differ."""
    output = tmp_path / "pair.json"
    output.write_text("{}")
    assert "exists" in str(invoke(folder, folder, "--output", output).exception)
    assert "nowhere" in str(invoke(folder, tmp_path / "nowhere").exception)
    for overrides, message in (
        ({"images": {"name": "digits", "held_out": 0.5}}, "different held-out images"),
        ({"sampler": {"side": 12}}, "different resolutions"),
        ({"images": {"name": "digits", "held_out": 0.8, "mean": [0.5]}}, "different means"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        ImageRecipe.from_tree({**TREE, "output": {"path": str(other)}, **overrides}).save(other / "recipe.yaml")
        assert message in str(invoke(folder, other).exception)
    assert "held out no images" in str(invoke(folder, folder, "images.held_out=0").exception)


def test_another_outcome_can_be_evaluated(folder, tmp_path):
    """By `hylora images eval`; weights that are the run's own give what the run gives."""
    write_weights(folder / "same.safetensors", load_network(folder).state_dict())
    found = []
    for number, run in enumerate((folder, folder / "same.safetensors", folder / "average.safetensors")):
        line = ["eval", str(run), "--output", str(tmp_path / f"{number}.json")]
        done = CliRunner().invoke(build_app(line, commands.COMMANDS), line)
        assert done.exception is None, done.output
        found.append(json.loads((tmp_path / f"{number}.json").read_text())["evaluation"])
    assert found[0] == found[1] != found[2]
