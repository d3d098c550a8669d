# SPDX-License-Identifier: Apache-2.0
"""`hylora images eval`: what a run measured of itself, and images and classes that are not the run's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hylora.training.run import run as train
from hylora_cli import build_app
from vision_extras import commands
from vision_extras.commands.evaluate import read_classes
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


def test_other_images_sides_and_classes(folder, tmp_path):
    (tmp_path / "classes").write_text("\n".join("9876543210"))
    plain = result_of(tmp_path / "plain.json", folder, "evaluation.sides=[]")
    found = result_of(
        tmp_path / "eval.json", folder, "--sides", 6, "--sides", 8, "--classes", tmp_path / "classes",
        "--name", "reversed", "--part", "held_out",
    )  # fmt: skip
    assert found["data"] == plain["data"] | {"name": "reversed", "classes": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}
    # Other labels, the same certainty.
    found, plain = found["evaluation"], plain["evaluation"]
    assert found["accuracy_by_side"].keys() == {"6", "8"} and "accuracy_by_side" not in plain
    assert found["accuracy"] < 0.3 < plain["accuracy"] and found["loss"] > plain["loss"]
    assert found["entropy_skewness"] == pytest.approx(plain["entropy_skewness"])


def test_the_part_and_the_resolution_are_named(folder, tmp_path):
    found = result_of(tmp_path / "eval.json", folder, "--part", "train", "sampler.side=4", "images.held_out=0.9")
    assert found["shape"] == [4, 4] and found["data"]["images"] < 300


def test_what_is_there_is_not_replaced_unasked(folder, tmp_path):
    (tmp_path / "eval.json").write_text("kept")
    refused = invoke("eval", folder, "--output", tmp_path / "eval.json")
    assert "--overwrite" in str(refused.exception) and (tmp_path / "eval.json").read_text() == "kept"


def test_there_must_be_images(folder):
    refused = invoke("eval", folder, "images.held_out=0", "evaluation.every=0")
    assert "--part held_out has no images" in str(refused.exception)


@pytest.mark.parametrize(
    ("text", "words"), [("0 one 2", "'one'"), ("0 1 1", "twice"), ("0 1", "2 numbers"), ("-1 0 1", "'-1'")]
)
def test_classes_that_cannot_be(tmp_path, text, words):
    (tmp_path / "classes").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_classes(tmp_path / "classes", 3)


def test_listing_the_commands_loads_no_library():
    script = "import sys, vision_extras.commands; print(sorted({'torch', 'hylora'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "[]\n"
