# SPDX-License-Identifier: Apache-2.0
"""`hylora images eval`: what a run measured of itself, and images and classes that are not the run's."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from hylora.training.whole_run import run as train
from hylora_cli import build_app
from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from tests.processes import launch
from vision_extras import commands
from vision_extras.commands.evaluate import read_outputs
from vision_extras.images import Images
from vision_extras.images.embedded import read_digits
from vision_extras.recipe import ImageRecipe
from vision_extras.run import make_task

TREE = {
    "task": "images",
    "images": {"name": "digits", "held_out": 0.3},
    "training": {"epochs": 1, "global_batch_size": 64, "batch_size": 64},
    "evaluation": {"sides": [8, 12]},
    "tracking": {"progress": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    train(ImageRecipe.from_tree({**TREE, "output": {"path": str(path), "checkpoint_every": 0}}), make_task)
    return path


def invoke(*arguments):
    return CliRunner().invoke(build_app(list(map(str, arguments)), commands.COMMANDS), list(map(str, arguments)))


def result_of(path, *arguments):
    done = invoke("eval", *arguments, "--output", path)
    assert done.exception is None, done.output
    return json.loads(path.read_text())


def test_it_measures_what_the_run_did(folder, tmp_path):
    trained = json.loads((folder / "results.json").read_text())
    found = result_of(tmp_path / "eval.json", folder)
    evaluation = found["evaluation"]
    assert evaluation.pop("accuracy_by_side") == pytest.approx(trained["accuracy_by_side"])
    embeddings = {name: trained[name] for name in ("embedding_variance", "embedding_variance_share")}
    assert evaluation == pytest.approx(trained["evaluation"] | embeddings, rel=1e-4)
    assert trained["accuracy_by_side"]["8"] == trained["evaluation"]["accuracy"] > 0.4
    assert (found["kind"], found["data"]["name"], found["shape"]) == ("images", "digits", [8, 8])
    assert trained["images_seen"] == 1797 - found["data"]["images"]


def test_a_subspace_is_measured_at_its_levels(tmp_path):
    tree = {**TREE, "subspace": {"kind": "line"}, "output": {"path": str(tmp_path / "run"), "checkpoint_every": 0}}
    train(ImageRecipe.from_tree(tree), make_task)
    trained = json.loads((tmp_path / "run/results.json").read_text())["curve"]
    found = result_of(tmp_path / "eval.json", tmp_path / "run", "subspace.measured=[0.5,0.975]")["evaluation"]
    assert found["accuracy"] == pytest.approx(trained["0"]["accuracy"])
    assert found["curve"] == {level: pytest.approx(trained[level], rel=1e-4) for level in ("0.5", "0.975")}


@pytest.mark.slow
def test_several_processes_measure_what_one_does(tmp_path):
    """With an odd share of the images for each."""
    recipe = ImageRecipe.from_tree({**TREE, "output": {"path": str(tmp_path / "run"), "checkpoint_every": 0}})
    recipe.save(tmp_path / "recipe.yaml")
    settings = ["training.batch_size=32", "evaluation.batch_size=97"]
    launch(2, "-m", "hylora.train", tmp_path / "recipe.yaml", *settings)
    trained = json.loads((tmp_path / "run" / "results.json").read_text())
    found = result_of(tmp_path / "eval.json", tmp_path / "run")["evaluation"]
    by_side = found.pop("accuracy_by_side")
    assert by_side == trained["accuracy_by_side"]
    once = {name: value for name, value in trained.items() if name.startswith("embedding_variance")}
    assert found == pytest.approx(trained["evaluation"] | once, rel=1e-5)


def test_sides_and_outputs_are_named(folder, tmp_path):
    (tmp_path / "classes").write_text("\n".join("9876543210"))
    plain = result_of(tmp_path / "plain.json", folder, "evaluation.sides=[]")
    found = result_of(
        tmp_path / "eval.json", folder, "--sides", 6, "--sides", 8, "--classes", tmp_path / "classes",
        "--name", "reversed",
    )  # fmt: skip
    assert plain["data"]["outputs"] == list(range(10))
    assert found["data"] == plain["data"] | {"name": "reversed", "outputs": list(range(9, -1, -1))}
    # Other labels, the same certainty.
    found, plain = found["evaluation"], plain["evaluation"]
    assert found["accuracy_by_side"].keys() == {"6", "8"} and "accuracy_by_side" not in plain
    assert found["accuracy"] < 0.3 < plain["accuracy"] and found["loss"] > plain["loss"]
    assert found["entropy_skewness"] == pytest.approx(plain["entropy_skewness"])


def test_folders_with_some_of_the_classes(folder, tmp_path):
    """Their names say which; all images are looked at where none is held out."""
    digits = Images(*load_digits_of_classes("3", "8"))
    for index in range(len(digits)):
        image, label = digits[index]
        (tmp_path / "images" / ("3", "8")[label]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / ("3", "8")[label] / f"{index}.png")
    settings = ("images.name=folder", f"images.path={tmp_path / 'images'}", "images.held_out=0")
    found = result_of(tmp_path / "eval.json", folder, *settings)
    assert found["data"]["outputs"] == [3, 8] and found["data"]["images"] == len(digits) > 300
    assert found["evaluation"]["accuracy"] > 0.6
    # They are grey and normalised as those that the network has learned from, unless told otherwise.
    source = found["data"]["source"]
    assert (source["channels"], source["mean"], source["std"]) == (1, [0.305], [0.376])
    other = result_of(tmp_path / "other.json", folder, *settings, "images.mean=[0.131]", "images.std=[0.309]")
    assert other["data"]["source"]["mean"] == [0.131] and other["evaluation"]["loss"] != found["evaluation"]["loss"]
    (tmp_path / "images" / "8").rename(tmp_path / "images" / "eight")
    refused = invoke("eval", folder, *settings)
    assert "'eight'" in str(refused.exception) and "--classes" in str(refused.exception)


def load_digits_of_classes(*names):
    images = read_digits()
    chosen = torch.tensor([str(label) in names for label in images.labels.tolist()])
    labels = torch.tensor([names.index(str(label)) for label in images.labels[chosen].tolist()])
    return images.pixels[chosen], labels


def test_a_report_has_what_was_trained_and_evaluated(folder, tmp_path):
    result_of(tmp_path / "eval.json", folder, "--name", "others")
    tables = {table.slug: table for table in lay_tables(collect([folder, tmp_path]))}
    assert tables.keys() >= {"training-ratios", "training-measured", "training-sides", "training-images"}
    (section,) = tables["training-images"].sections
    trained = json.loads((folder / "results.json").read_text())["evaluation"]
    assert section.rows[0].cells[0].measurement.value == pytest.approx(100 * trained["accuracy"])


def test_what_is_there_is_not_replaced_unasked(folder, tmp_path):
    (tmp_path / "eval.json").write_text("kept")
    refused = invoke("eval", folder, "--output", tmp_path / "eval.json")
    assert "--overwrite" in str(refused.exception) and (tmp_path / "eval.json").read_text() == "kept"


def test_resolutions_that_the_network_cannot_take(folder):
    refused = invoke("eval", folder, "--sides", 8, "--sides", 2)
    assert "2x2" in str(refused.exception) and "stride" in str(refused.exception)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 one 2", "'one'"),
        ("0 1 1", "twice"),
        ("0 1", "2 numbers"),
        ("0 1 2 3", "4 numbers"),
        ("-1 0 1", "'-1'"),
        ("0 1 9", "has 9, and the network's outputs go from 0 to 8"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, text, words):
    (tmp_path / "classes").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_outputs(tmp_path / "classes", ("a", "b", "c"), 9)
