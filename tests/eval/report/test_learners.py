# SPDX-License-Identifier: Apache-2.0
"""Tables of masked audio-video learners and of what is finetuned from them (tables 5.1 to 5.3)."""

from __future__ import annotations

import statistics

import pytest
import yaml

from tests.eval.report import made
from tests.eval.report.laid import tables_of, texts

AUDIOSET = {"name": "audioset", "path": "data/audioset", "held_out": 0.2, "fold": 1}
MAVIL = {"diffusion": False, "video_attention": "self"}
CURRICULUM = {"first": 0.9, "last": 0.8, "adaptive": True}
NAMES = {
    "mavil": "MAViL, self-attention, masks 0.8",
    "diff": "DiffMAViL, cross-attention, masks 0.9 to 0.8, adaptive batches",
}


def sections(task, run, seed, clips, **more):
    return {
        "task": task,
        "clips": clips,
        **more,
        "training": {"seed": seed, "epochs": 2, "workers": 0},
        "output": {"path": str(run)},
    }


def learner(run, seed=0, model=None, mask=None, **numbers):
    model = {"video": True, "diffusion": True, "video_attention": "cross", **(model or {})}
    mask = {"first": 0.8, "last": 0.8, "adaptive": False, **(mask or {})}
    recipe = sections("mavil", run, seed, AUDIOSET, model=model, mask=mask)
    return {**made.training(**numbers), "recipe": recipe}


def finetuned(path, accuracy, seed=0, clips=AUDIOSET, **numbers):
    """From the folder of a learner, or from scratch."""
    recipe = sections("sounds", "out/fine", seed, clips, model={"path": path, "train": "all"}, loss="ce")
    evaluation = {"loss": 1.0, "accuracy": accuracy, "map": accuracy / 2}
    return {**made.training(evaluation=evaluation, **numbers), "recipe": recipe}


def folds(accuracies, seed):
    """Finetuned from scratch on each fold of ESC-50."""
    clips = {**AUDIOSET, "name": "esc50"}
    return [
        finetuned(None, accuracy, seed, {**clips, "fold": fold}, seconds=float(fold))
        for fold, accuracy in enumerate(accuracies, 1)
    ]


def test_learners_are_compared_with_the_plain_one_over_seeds(tmp_path):
    """Whatever comes first among the files, and whether or not there is a video."""
    losses = {"loss": 2.5, "audio_loss": 0.5, "video_loss": 1.0, "inter_loss": 4.0, "intra_loss": 8.0}
    tables = tables_of(
        tmp_path,
        learner("a", model={"video": False}, flops=10),
        *(
            learner("b", seed, None, CURRICULUM, flops=68, seconds=seconds, evaluation={**losses, "retrieval": share})
            for seed, seconds, share in ((0, 40.0, 0.5), (1, 42.0, 0.7))
        ),
        learner("c", flops=99),
        learner("d", model=MAVIL, flops=100, seconds=50.0),
    )
    ratios = texts(tables["training-ratios"])
    assert [label for _, label in ratios] == [
        NAMES["mavil"], "DiffMAViL, cross-attention, masks 0.8", NAMES["diff"], "AudioMAE + diffusion, masks 0.8",
    ]  # fmt: skip
    row = ratios["", NAMES["diff"]]
    assert (row["Training FLOPs (×)"], row["Training time (×)"]) == ("0.68 ± 0.00", "0.82 ± 0.03")
    assert row["Retrieval (%)"] == "60.00 ± 14.14"
    assert [row.detail for row in tables["training-ratios"].sections[0].rows] == [
        "1 seed", "1 seed", "2 seeds", "1 seed",
    ]  # fmt: skip
    # What is not known of a held-out share is not said.
    assert tables["training-ratios"].conditions.endswith("Task mavil; learned from audioset, path data/audioset.")
    measured = texts(tables["training-measured"])["", NAMES["diff"]]
    for name, value in losses.items():
        assert float(measured[name.replace("_", " ").capitalize()].split(" ")[0]) == value


def test_what_is_finetuned_is_called_by_its_pre_training(tmp_path):
    """Over the seeds of both. Folders are found where runs lie together, and otherwise called by their names."""
    runs = tmp_path / "moved" / "out"
    designs = {"mavil": (MAVIL, None), "diff": (None, CURRICULUM)}
    for name, design in designs.items():
        for seed in (0, 1):
            (runs / f"{name}-{seed}").mkdir(parents=True)
            recipe = learner(f"out/{name}-{seed}", seed, *design)["recipe"]
            (runs / f"{name}-{seed}" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (runs / "broken").mkdir()
    (runs / "broken" / "recipe.yaml").write_text("a: [")
    tables = tables_of(
        runs,
        finetuned("out/diff-0", 0.5),
        finetuned("out/diff-1", 0.7),
        finetuned("out/mavil-0", 0.4),
        finetuned("out/mavil-1", 0.6),
        finetuned("out/mavil-1", 0.8, seed=1),
        finetuned("out/gone", 0.1),
        finetuned("out/broken", 0.2),
        finetuned(None, 0.3),
    )
    rows = texts(tables["training-measured"])
    shown = {label: (row["Top-1 accuracy (%)"], row["mAP (%)"]) for (_, label), row in rows.items()}
    assert shown == {
        "out/gone": ("10.00", "5.00"),
        "out/broken": ("20.00", "10.00"),
        "from scratch": ("30.00", "15.00"),
        NAMES["mavil"]: ("60.00 ± 20.00", "30.00 ± 10.00"),
        NAMES["diff"]: ("60.00 ± 14.14", "30.00 ± 7.07"),
    }


def test_learners_of_one_design_are_told_apart_by_the_rest_of_their_recipes(tmp_path):
    for epochs in (20, 60):
        recipe = learner("out", model=MAVIL)["recipe"]
        recipe["training"] = {**recipe["training"], "epochs": epochs}
        (tmp_path / str(epochs)).mkdir()
        (tmp_path / str(epochs) / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tables = tables_of(tmp_path, *(finetuned(str(tmp_path / epochs), 0.5) for epochs in ("20", "60")))
    labels = [label for _, label in texts(tables["training-measured"])]
    assert labels == [f"{NAMES['mavil']}, pretraining training epochs {epochs}" for epochs in (20, 60)]


def test_folds_are_averaged_before_seeds(tmp_path):
    accuracies = {0: (0.1, 0.2, 0.3, 0.4, 0.5), 1: (0.5, 0.5, 0.5, 0.5, 0.9)}
    runs = [run for seed in (0, 1) for run in folds(accuracies[seed], seed)]
    table = tables_of(tmp_path, *runs)["training-measured"]
    means = [100 * statistics.fmean(accuracies[seed]) for seed in (0, 1)]
    (row,) = table.sections[0].rows
    assert row.detail == "2 seeds" and "The number of a seed is the mean over its folds." in table.conditions
    expected = f"{statistics.fmean(means):.2f} ± {statistics.stdev(means):.2f}"
    assert texts(table)["", "from scratch"]["Top-1 accuracy (%)"] == expected == "44.00 ± 19.80"
    assert len(row.cells[0].measurement.places) == 10 and not table.notes


def test_missing_folds_are_noted(tmp_path):
    runs = folds((0.1, 0.3, 0.5, 0.7, 0.9), 0)
    table = tables_of(tmp_path, runs[2], runs[0])["training-measured"]
    assert texts(table)["", "from scratch"]["Top-1 accuracy (%)"] == "30.00"
    assert table.notes == ("of 5 folds, 1, 3 alone",)


@pytest.mark.parametrize("given", [True, False], ids=["named", "unnamed"])
def test_the_folds_of_a_comparison_are_one_setting(tmp_path, given):
    runs = [
        {**run, **({"setting": f"fold {number}"} if given else {}), "seed": 0}
        for number, run in enumerate(folds((0.1, 0.2, 0.3, 0.4, 0.5), 0), 1)
    ]
    comparison = {"kind": "comparison", "question": "?", "environment": made.ENVIRONMENT, "runs": runs}
    rows = texts(tables_of(tmp_path, comparison)["training-measured"])
    assert {key: row["Top-1 accuracy (%)"] for key, row in rows.items()} == {("", "from scratch"): "30.00"}
