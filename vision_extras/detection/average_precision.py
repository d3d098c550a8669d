# SPDX-License-Identifier: Apache-2.0
"""How good found boxes are, as COCO measures it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Found", "average_precision"]


class Found(NamedTuple):
    """What was found in an image, or is there.

    Args:
        boxes: [N, 4]: left, top, right and bottom, in pixels.
        labels: [N].
        scores: [N], None for what is there.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None


def average_precision(truth: Sequence[Found], found: Mapping[int, Found]) -> dict[str, float]:
    """Average precision over all classes, by COCO's own code (pycocotools).

    Args:
        truth: of each image.
        found: by the image's number.

    Returns:
        `ap`, the mean over intersections over union of 0.5, 0.55, ... 0.95; `ap50` and `ap75`, at one of them.

    Raises:
        ValueError: if pycocotools cannot be imported.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ValueError(
            f"average precision needs pycocotools, which cannot be imported ({error}); pip install 'hylora[vision]'"
        ) from error
    there = _annotations(dict(enumerate(truth)))
    guesses = _annotations(found)
    if not there or not guesses:
        return dict.fromkeys(("ap", "ap50", "ap75"), 0.0)
    # It tells its progress to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": label} for label in sorted({entry["category_id"] for entry in there})],
            "annotations": there,
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(guesses), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for place, name in enumerate(("ap", "ap50", "ap75"))}


def _annotations(images: Mapping[int, Found]) -> list[dict]:
    """Boxes as COCO writes them, numbered from 1."""
    entries: list[dict] = []
    for number, (boxes, labels, scores) in images.items():
        for place, (left, top, right, bottom) in enumerate(boxes.tolist()):
            width, height = right - left, bottom - top
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": number,
                    "category_id": int(labels[place]),
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    **({} if scores is None else {"score": float(scores[place])}),
                }
            )
    return entries
