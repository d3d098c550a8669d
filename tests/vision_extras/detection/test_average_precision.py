# SPDX-License-Identifier: Apache-2.0
"""Average precision against its definition, worked out by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vision_extras.detection.average_precision import Found, average_precision


def overlap(one, other):
    across, down = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    shared = max(across, 0) * max(down, 0)
    return shared / (area(one) + area(other) - shared)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def reference(truth, found, least):
    """At one overlap: guesses in order of their scores take the best object that is left, recall in hundredths."""
    values = []
    for label in sorted({int(label) for there in truth for label in there.labels}):
        objects = {
            number: [box.tolist() for box, of in zip(there.boxes, there.labels, strict=True) if of == label]
            for number, there in enumerate(truth)
        }
        guesses = [
            (float(score), number, box.tolist())
            for number, guess in found.items()
            for box, of, score in zip(*guess, strict=True)
            if of == label
        ]
        right, taken = [], set()
        for _, number, box in sorted(guesses, key=lambda guess: -guess[0]):
            left = [
                (overlap(box, other), place)
                for place, other in enumerate(objects[number])
                if (number, place) not in taken and overlap(box, other) >= least
            ]
            right.append(bool(left))
            if left:
                taken.add((number, max(left)[1]))
        hits = np.cumsum(right)
        precision, recall = hits / np.arange(1, len(hits) + 1), hits / sum(map(len, objects.values()))
        at = [precision[recall >= wanted - 1e-9].max(initial=0) for wanted in np.linspace(0, 1, 101)]
        values.append(np.mean(at))
    return float(np.mean(values))


def boxes(draw, count):
    corners = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 50
    return torch.cat([corners, corners + 10 + 20 * torch.rand(count, 2, generator=draw, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_what_brute_force_gives(seed):
    draw = torch.Generator().manual_seed(seed)
    truth, found = [], {}
    for number in range(12):
        count = int(torch.randint(4, (), generator=draw)) + (number == 0)
        there = Found(boxes(draw, count), torch.randint(3, (count,), generator=draw))
        near = there.boxes + torch.randn(count, 4, generator=draw, dtype=torch.float64)
        guessed = torch.cat([near, boxes(draw, 3)])
        labels = torch.cat([there.labels, torch.randint(3, (3,), generator=draw)])
        truth.append(there)
        found[number] = Found(guessed, labels, torch.rand(count + 3, generator=draw, dtype=torch.float64))
    result = average_precision(truth, found)
    steps = [0.5 + 0.05 * step for step in range(10)]
    assert result["ap50"] == pytest.approx(reference(truth, found, 0.5), abs=1e-9)
    assert result["ap75"] == pytest.approx(reference(truth, found, 0.75), abs=1e-9)
    assert result["ap"] == pytest.approx(np.mean([reference(truth, found, least) for least in steps]), abs=1e-9)
    assert 0.05 < result["ap"] < result["ap50"] < 0.99


def test_all_right_is_one_and_nothing_found_is_zero():
    there = Found(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([4]))
    assert average_precision([there], {0: Found(*there[:2], torch.tensor([0.3]))})["ap"] == pytest.approx(1.0)
    assert average_precision([there], {}) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
