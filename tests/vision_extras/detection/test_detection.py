# SPDX-License-Identifier: Apache-2.0
"""Detectors: their loss, runs under a sampler, what they write, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForObjectDetection

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from vision_extras.detection import run
from vision_extras.detection.detector import Detection, DetectorRecipe, build_detector, load_detector
from vision_extras.detection.recipe import DetectionRecipe
from vision_extras.models import ModelRecipe, build_network, save_network

BACKBONE = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
SIZES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 5, "dropout": 0.0}
SIZES |= {"auxiliary_loss": True, "backbone_config": {**BACKBONE, "out_features": ["stage2"]}}
DAB = {key: value for key, value in SIZES.items() if key != "d_model"} | {"hidden_size": 16}
DETECTORS = {
    "conditional_detr": {"model_type": "conditional_detr", **SIZES},
    "detr": {"model_type": "detr", **SIZES},
    "dab-detr": {"model_type": "dab-detr", **DAB},
    "deformable_detr": {
        "model_type": "deformable_detr",
        **SIZES,
        "d_model": 32,
        "backbone_config": {**BACKBONE, "out_features": ["stage1", "stage2"]},
        "num_feature_levels": 2,
    },
    "rt_detr": {
        "model_type": "rt_detr",
        "backbone_config": {
            "model_type": "rt_detr_resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "encoder_in_channels": [8, 16, 16],
        "encoder_hidden_dim": 16,
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "d_model": 16,
        "decoder_in_channels": [16, 16, 16],
        "decoder_layers": 1,
        "decoder_ffn_dim": 16,
        "decoder_attention_heads": 2,
        "num_queries": 5,
        "num_denoising": 5,
        "freeze_backbone_batch_norms": False,
    },
    "yolos": {
        "model_type": "yolos",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": [32, 32],
        "patch_size": 8,
        "num_detection_tokens": 5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
# Their loss is a sum over objects, and nothing else.
SUMMED = ("conditional_detr", "dab-detr", "deformable_detr")


def built(name, channels=1, classes=10, seed=0):
    recipe = DetectorRecipe(config=DETECTORS[name])
    return build_detector(recipe, channels, classes, torch.Generator().manual_seed(seed))


def batch(side, seed=0):
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.rand(4, 3, 4, generator=draw) * 0.4 + 0.2
    labels = torch.randint(10, (4, 3), generator=draw)
    labels[1, 1:] = labels[2] = -100
    return {"images": torch.rand(4, 1, side, side, generator=draw), "boxes": boxes, "labels": labels}


@pytest.mark.parametrize("name", DETECTORS)
def test_it_learns_at_several_resolutions_and_is_read_back(name, tmp_path):
    network = built(name)
    model = Detection(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sides = (network.stride, 2 * network.stride)
    for side in sides:
        loss_sum, count = model(**batch(side))
        assert count == 7
        optimizer.zero_grad()
        loss_sum.backward()
        optimizer.step()
    network.save(tmp_path)
    again = load_detector(tmp_path)
    assert_same(again.state_dict(), network.state_dict())
    with torch.no_grad():
        expected, found = (Detection(each).eval()(batch(sides[1])["images"]) for each in (network, again))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    scores, boxes = expected
    assert scores.shape == (4, 5, 10) and boxes.shape == (4, 5, 4) and ((scores >= 0) & (scores <= 1)).all()
    assert AutoModelForObjectDetection.from_pretrained(tmp_path).config.num_labels == 10


@pytest.mark.parametrize("name", SUMMED)
def test_the_loss_is_a_sum_however_images_are_spread(name):
    model, whole = Detection(built(name)), batch(32)
    for module in model.modules():
        assert not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    expected, count = model(**whole)
    parts = [model(**{key: value[part] for key, value in whole.items()}) for part in (slice(0, 1), slice(1, 4))]
    assert sum(int(number) for _, number in parts) == count
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(expected.item(), rel=1e-5)
    # An image without objects has a loss, and counts none.
    loss, none = model(**{key: value[2:3] for key, value in whole.items()})
    assert none == 0 and loss > 0


SAMPLER = {"name": "msc_vbs", "side": 32, "smallest": 24, "largest": 40, "scales": 3, "multiple": 8}


def recipe(path, objects=None, **sections):
    tree = {
        "task": "detection",
        "objects": objects or {"name": "scenes", "scenes": 80, "side": 32, "most": 2, "held_out": 0.2},
        "model": {"config": DETECTORS["conditional_detr"]},
        "sampler": SAMPLER,
        "training": {"epochs": 1, "global_batch_size": 16, "batch_size": 8, "mixed_precision": "float32"},
        "tracking": {"progress": False},
        **sections,
        "output": {"path": str(path), "checkpoint_every": 0, **sections.get("output", {})},
    }
    return DetectionRecipe.from_tree(tree)


@pytest.mark.slow
def test_a_detector_is_trained_under_a_sampler(tmp_path):
    result = run.train(recipe(tmp_path))
    records = [record for record in records_of(tmp_path) if "objects" in record]
    assert len({record["height"] for record in records}) > 1
    assert sum(record["images"] for record in records) == 64
    assert set(result.evaluation) == {"ap", "ap50", "ap75"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images_seen"] == 64 and results["updates"] == result.steps
    # Nearly all of it is the backbone's, which takes as much for each pixel.
    pixels = sum(record["images"] * record["height"] * record["width"] for record in records)
    (tmp_path / "one").mkdir()
    once = run.train(recipe(tmp_path / "one", sampler={"side": 32}))
    plain = json.loads((once.folder / "results.json").read_text())
    assert results["flops"] / plain["flops"] == pytest.approx(pixels / (64 * 32 * 32), rel=0.1)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    class Stop(Exception):
        pass

    def make(settings, accelerator):
        task = run.make_task(settings, accelerator)

        def end(moment):
            if moment.step == 3:
                raise Stop

        task.end = end
        return task

    whole, parts = (recipe(tmp_path / name, output={"checkpoint_every": 2}) for name in ("whole", "parts"))
    result = run.train(whole)
    with pytest.raises(Stop):
        run.run(parts, make)
    resumed = run.train(dataclasses.replace(parts, training=dataclasses.replace(parts.training, resume=True)))
    assert_same(load_detector(resumed.folder).state_dict(), load_detector(result.folder).state_dict())
    assert resumed.evaluation == result.evaluation


# What each process runs; the entry point may not be that of this source tree.
COMMAND = """
import sys
from vision_extras.detection.recipe import DetectionRecipe
from vision_extras.detection.run import train

train(DetectionRecipe.load(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Objects are spread unevenly over the two, and each counts the same."""
    (tmp_path / "command.py").write_text(COMMAND)
    records = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        recipe(folder, training={"epochs": 1, "global_batch_size": 4, "batch_size": 1}).save(tmp_path / "recipe.yaml")
        launch(processes, tmp_path / "command.py", tmp_path / "recipe.yaml")
        records.append(records_of(folder))
    for one, two in zip(*records, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("kind", ["convnext", "bit", "resnet"])
def test_a_backbone_starts_from_a_classifier(kind, tmp_path):
    shape = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    shape |= {"convnext": {"num_stages": 2}, "bit": {"embedding_size": 8, "num_groups": 4}}.get(
        kind, {"embedding_size": 8, "layer_type": "basic"}
    )
    classifier = ModelRecipe(name="transformers", config={"model_type": kind, **shape})
    save_network(build_network(classifier, 1, 10, torch.Generator()), tmp_path)
    backbone = {"model_type": kind, "out_features": ["stage2"], **shape}
    config = {**DETECTORS["conditional_detr"], "backbone_config": backbone}
    network = build_detector(DetectorRecipe(config=config, backbone=str(tmp_path)), 1, 3, torch.Generator())
    learned = {tuple(value.flatten()[:9].tolist()) for value in build_state(tmp_path) if value.ndim == 4}
    found = {tuple(value.flatten()[:9].tolist()) for value in network.state_dict().values() if value.ndim == 4}
    assert learned and learned <= found
    other = {**config, "backbone_config": {**backbone, "hidden_sizes": [8, 24]}}
    with pytest.raises(ValueError, match="has no weight .* of the backbone's shape"):
        build_detector(DetectorRecipe(config=other, backbone=str(tmp_path)), 1, 3, torch.Generator())


@pytest.mark.parametrize("name", ["nowhere", "resnet8"])
def test_a_backbone_that_transformers_cannot_read_is_refused(name, tmp_path):
    if name != "nowhere":
        (tmp_path / name).mkdir()
        save_network(build_network(ModelRecipe(name=name), 1, 10, torch.Generator()), tmp_path / name)
    recipe = DetectorRecipe(config=DETECTORS["conditional_detr"], backbone=str(tmp_path / name))
    with pytest.raises(ValueError, match=f"backbone='.*{name}' gives no image classifier"):
        build_detector(recipe, 1, 3, torch.Generator())


def build_state(folder):
    from vision_extras.models import load_network

    return list(load_network(folder).state_dict().values())


def write_coco(folder, split, categories=("cat", "dog")):
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / split).mkdir()
    images, annotations = [], []
    for number in range(4):
        Image.new("RGB", (40, 20), (number, 0, 0)).save(folder / split / f"{number}.png")
        images.append({"id": 10 + number, "file_name": f"{number}.png"})
        annotations.append({"image_id": 10 + number, "category_id": 5, "bbox": [30, 5, 20, 10]})
    annotations.append({"image_id": 10, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1})
    annotations.append({"image_id": 11, "category_id": 3, "bbox": [0, 0, 10, 20], "iscrowd": 0})
    named = [{"id": 3 + 2 * place, "name": name} for place, name in enumerate(categories)]
    tree = {"images": images, "annotations": annotations, "categories": named}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))


def test_folders_in_cocos_format_are_read(tmp_path):
    write_coco(tmp_path, "train2017")
    write_coco(tmp_path, "val2017")
    split = run.read_coco(str(tmp_path), "train2017", "val2017")
    assert split.classes == ("cat", "dog") and len(split.train) == len(split.held_out) == 4
    image, boxes, labels = split.train[0]
    assert image.mode == "RGB" and labels.tolist() == [1]  # the crowd is left out
    torch.testing.assert_close(boxes, torch.tensor([[0.75, 0.25, 1.0, 0.75]]))  # cut off at the edge
    assert split.train[1].labels.tolist() == [1, 0]
    objects = {"name": "coco", "path": str(tmp_path), "flip": 0.5}
    result = run.train(
        recipe(tmp_path / "run", objects, training={"epochs": 1, "global_batch_size": 4, "batch_size": 4})
    )
    assert set(result.evaluation) == {"ap", "ap50", "ap75"}
    write_coco(tmp_path, "other", ("cat", "bird"))
    with pytest.raises(ValueError, match="held_out_split='other' has other categories than train_split='train2017'"):
        run.read_coco(str(tmp_path), "train2017", "other")
    (tmp_path / "val2017" / "2.png").unlink()
    with pytest.raises(ValueError, match="has no file '.*val2017/2.png', which .*instances_val2017.json names"):
        run.read_coco(str(tmp_path), "train2017", "val2017")


def test_datasets_with_objects_are_read(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["mask", "glove"])),
            },
        }
    )
    rows = {
        "image": [Image.new("RGB", (20, 10)), Image.new("RGB", (20, 10))],
        "objects": [{"bbox": [[0, 0, 10, 5]], "category": [1]}, {"bbox": [], "category": []}],
    }
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)}).save_to_disk(tmp_path)
    split = run.read_object_dataset(str(tmp_path), "train", None, "image", "objects")
    assert split.classes == ("mask", "glove") and len(split.held_out) == 0
    torch.testing.assert_close(split.train[0].boxes, torch.tensor([[0.0, 0.0, 0.5, 0.5]]))
    assert split.train[0].labels.tolist() == [1] and split.train[1].boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="objects_column='boxes' is no column of .*, but image, objects are"):
        run.read_object_dataset(str(tmp_path), "train", None, "image", "boxes")


def objects_saved(path, images=None, **splits):
    import datasets

    images = images or [Image.new("RGB", (20, 10))]
    made = {
        split: datasets.Dataset.from_dict({"image": images, "objects": [*objects]}).cast_column(
            "image", datasets.Image()
        )
        for split, objects in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(path)
    return str(path), "train", "test" if "test" in splits else None, "image", "objects"


def test_no_image_is_decoded_before_it_is_asked_for(tmp_path):
    images, objects = [{"bytes": b"no image", "path": None}], [{"bbox": [[0, 0, 1, 1]], "category": [0]}]
    split = run.read_object_dataset(*objects_saved(tmp_path, images, train=objects))
    with pytest.raises(ValueError, match="row 0 of train of .* cannot be read as an image"):
        split.train[0]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"bbox": [[0, 0, 1, 1]], "category": ["cat"]}, None, "of category 'cat' in row 0; they must be"),
        ({"bbox": [[0, 0, 1]], "category": [0]}, None, r"has bbox \[0, 0, 1\] of category 0 in row 0"),
        ([{"bbox": [0, 0, 1, 1], "category": 0}], None, "must have lists bbox, and category or categories, not List"),
        (
            {"bbox": [[0, 0, 1, 1]], "category": [0]},
            {"bbox": [[0, 0, 1, 1]], "category": [1]},
            "held_out_split='test' has other categories than train_split='train'",
        ),
    ],
    ids=["names", "three sides", "a list of objects", "other classes"],
)
def test_objects_of_other_kinds_are_refused(tmp_path, train, test, message):
    splits = {"train": [train]} if test is None else {"train": [train], "test": [test]}
    with pytest.raises(ValueError, match=message):
        run.read_object_dataset(*objects_saved(tmp_path, **splits))


REFUSED = {
    "a resolution below the stride": (
        {"sampler": {"side": 4}},
        "sampler: images of 4x4 pixels are below the network's stride, 8",
    ),
    "a resolution that no pyramid can be made of": (
        {"model": {"config": DETECTORS["rt_detr"]}},
        "sampler: images of 24x24 pixels are below the network's stride, 32",
    ),
    "sides that cannot be halved so often": (
        {"model": {"config": DETECTORS["rt_detr"]}, "sampler": {"side": 48}},
        "sampler: images of 48x48 pixels must have sides that are multiples of 32; set sampler.multiple",
    ),
    "more queries than places": (
        {"model": {"config": {**DETECTORS["rt_detr"], "num_queries": 30}}, "sampler": {"side": 32}},
        "model: the detector fails on an image of 32x32 pixels",
    ),
    "no such detector": (
        {"model": {"config": {"model_type": "mask_rcnn"}}},
        "model.config.model_type='mask_rcnn' must be an object detector of transformers",
    ),
    "nothing to make": ({"model": {}}, "config=None and path=None must be given one and not the other"),
    "no folder": ({"objects": {"name": "coco"}}, "path=None must name the folder"),
    "a field of others": ({"objects": {"name": "scenes", "path": "x"}}, "path='x' must be left out"),
    "no annotations": (
        {"objects": {"name": "coco", "path": "nowhere"}},
        "objects.path='nowhere': .*instances_train2017.json cannot be read as annotations",
    ),
    "colours of scenes": (
        {"objects": {"name": "scenes", "mean": [0.5, 0.5, 0.5]}},
        r"objects.mean=\[0.5, 0.5, 0.5\] must have a number for each of 1 channels",
    ),
    "no size": ({"objects": {"name": "coco", "path": "x"}, "sampler": {}}, "sampler.side=None must be given"),
    "nothing to evaluate on": (
        {"objects": {"name": "scenes", "held_out": 0.0}, "evaluation": {"every": 1}},
        "evaluation.every=1 has nothing to evaluate on",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_recipes_are_refused(case, tmp_path):
    sections, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        run.train(recipe(tmp_path, **sections))


def test_missing_packages_are_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "pycocotools" else name)
    with pytest.raises(RecipeError, match=r"task='detection' needs pycocotools; pip install 'hylora\[vision\]'"):
        run.train(recipe(tmp_path))
