# SPDX-License-Identifier: Apache-2.0
"""Images with boxes in the format of COCO, from a folder or through the library `datasets`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vision_extras.detection.objects import Marked, ObjectSplit
from vision_extras.images.data import Encoded, decoded
from vision_extras.images.dataset import EncodedColumn, open_split
from vision_extras.images.folder import Files

__all__ = ["CocoRows", "read_coco", "read_object_dataset"]


@dataclass(frozen=True)
class CocoRows:
    """Images that are decoded when they are asked for.

    Args:
        images: where they are.
        objects: of each image the boxes, [left, top, width, height] in pixels, with their labels.
        digest: says which images and objects there are.
    """

    images: Encoded
    objects: Sequence[list[tuple[list[float], int]]]
    digest: str

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Marked:
        """An image in colour, and its objects.

        Raises:
            UnreadableImage: if it cannot be decoded.
        """
        image = decoded(self.images, index, "RGB")
        return Marked(image, *_shares(self.objects[index], image.size))

    def fingerprint(self) -> str:
        """The digest."""
        return self.digest


def _shares(objects: Iterable[tuple[list[float], int]], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes as shares of the image and cut off at its edges, and labels; boxes without an area are left out."""
    boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    corners = (corners / torch.tensor([*size, *size])).clamp(0, 1)
    some = (corners[:, 2:] > corners[:, :2]).all(1)
    return corners[some], labels[some]


def read_coco(path: str, train: str, held_out: str | None) -> ObjectSplit:
    """A folder with `annotations/instances_SPLIT.json` and the images of each split in `SPLIT/`.

    Boxes that stand for crowds are left out.

    Args:
        path: of the folder.
        train: the split to learn from.
        held_out: the split to evaluate on, or None.

    Raises:
        ValueError: if an annotation file cannot be read, names an image that is not there, or the splits have other
            classes.
    """
    rows, classes = _read_annotations(path, train)
    if held_out is None:
        return ObjectSplit(rows, _none(), tuple(classes.values()))
    kept, others = _read_annotations(path, held_out)
    if others != classes:
        raise ValueError(f"held_out_split={held_out!r} has other categories than train_split={train!r}")
    return ObjectSplit(rows, kept, tuple(classes.values()))


def _read_annotations(path: str, split: str) -> tuple[CocoRows, dict[int, str]]:
    file = Path(path, "annotations", f"instances_{split}.json")
    try:
        text = file.read_bytes()
        tree = json.loads(text)
        classes = {entry["id"]: entry["name"] for entry in sorted(tree["categories"], key=lambda entry: entry["id"])}
        labels = {category: label for label, category in enumerate(classes)}
        images = sorted(tree["images"], key=lambda entry: entry["id"])
        names = np.array([entry["file_name"] for entry in images], dtype=str)
        objects: dict[int, list[tuple[list[float], int]]] = {entry["id"]: [] for entry in images}
        for entry in tree["annotations"]:
            if not entry.get("iscrowd"):
                objects[entry["image_id"]].append((entry["bbox"], labels[entry["category_id"]]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"path={path!r}: {file} cannot be read as annotations of COCO: {error!r}") from error
    files = Files(str(Path(path, split)), names)
    missing = next((number for number in range(len(names)) if not Path(files.open(number)).is_file()), None)
    if missing is not None:
        raise ValueError(f"path={path!r} has no file {files.open(missing)!r}, which {file} names")
    return CocoRows(files, list(objects.values()), hashlib.sha256(text).hexdigest()), classes


def read_object_dataset(path: str, train: str, held_out: str | None, image: str, objects: str) -> ObjectSplit:
    """Datasets with a column of images and one of objects, as CPPE-5 and COCO have them on the Hub.

    Args:
        path: name on the Hub, or a folder.
        train: the split to learn from.
        held_out: the split to evaluate on, or None.
        image: column of images.
        objects: column with `bbox`, [left, top, width, height] in pixels, and `category` or `categories`.

    Raises:
        ValueError: if the dataset cannot be had, a column is missing or of another kind, or the splits have other
            classes.
    """
    rows, classes = _read_split(path, train, image, objects)
    if held_out is None:
        return ObjectSplit(rows, _none(), classes)
    kept, others = _read_split(path, held_out, image, objects)
    if others != classes[: len(others)]:
        raise ValueError(f"held_out_split={held_out!r} has other categories than train_split={train!r}")
    return ObjectSplit(rows, kept, classes)


def _read_split(path: str, split: str, image: str, objects: str) -> tuple[CocoRows, tuple[str, ...]]:
    import datasets

    rows = open_split(path, None, split)
    for field, column in (("image_column", image), ("objects_column", objects)):
        if column not in rows.column_names:
            raise ValueError(f"{field}={column!r} is no column of {path!r}, but {', '.join(rows.column_names)} are")
    feature = rows.features[objects]
    name = next((name for name in ("category", "categories") if isinstance(feature, dict) and name in feature), None)
    if name is None or "bbox" not in feature:
        raise ValueError(
            f"objects_column={objects!r} of {path!r} must have lists bbox, and category or categories, not {feature}"
        )
    # Of this column alone: with the others, every image would be decoded.
    entries = rows.select_columns(objects)[:][objects]
    marked = [list(zip(entry["bbox"] or (), entry[name] or (), strict=True)) if entry else [] for entry in entries]
    for number, boxes in enumerate(marked):
        for box, label in boxes:
            if len(box) != 4 or not isinstance(label, int) or label < 0:
                raise ValueError(
                    f"objects_column={objects!r} of {path!r} has bbox {box} of {name} {label!r} in row {number}; they "
                    "must be [left, top, width, height], and whole numbers from 0"
                )
    count = max((label for boxes in marked for _, label in boxes), default=-1) + 1
    names = getattr(getattr(feature[name], "feature", None), "names", None)
    encoded = EncodedColumn(rows.cast_column(image, datasets.Image(decode=False)), image, f"{split} of {path!r}")
    return CocoRows(encoded, marked, rows._fingerprint), tuple(names or map(str, range(count)))


def _none() -> CocoRows:
    """No images at all."""
    return CocoRows(Files("", np.array([], dtype=str)), [], "")
