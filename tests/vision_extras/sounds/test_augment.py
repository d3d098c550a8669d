# SPDX-License-Identifier: Apache-2.0
"""Changes to spectrograms: how wide masks are, how much noise there is, and that each clip draws its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from hylora.randomness import generator
from vision_extras.sounds.augment import AugmentedSounds, SoundAugmentRecipe, add_noise, mask_span

SHAPE = (32, 16)


@dataclass(frozen=True)
class Plain:
    """Rows are pairs of spectrogram and label."""

    def __call__(self, rows, generators, shape):
        sounds, labels = zip(*rows, strict=True)
        return {"input_values": torch.stack(sounds).clone(), "labels": torch.stack(labels)}


def rows(count=6, several=False):
    sounds = 1 + torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(4)[torch.arange(count) % 4] if several else torch.arange(count) % 4
    if several:
        labels[:, 3] = 1
    return list(zip(sounds, labels, strict=True))


def batch(given, numbers=None, **changes):
    draws = [generator("row", number) for number in numbers or range(len(given))]
    return AugmentedSounds(Plain(), SoundAugmentRecipe(**changes), classes=4)(given, draws, SHAPE)


def test_masks_are_spans_of_every_width_up_to_the_largest():
    widths, ends = Counter(), set()
    for number in range(600):
        sound = torch.ones(10, 3)
        mask_span(sound, 4, generator(number))
        masked = (sound == 0).all(1)
        assert torch.equal(masked, (sound == 0).any(1))
        places = masked.nonzero().flatten().tolist()
        assert places == list(range(places[0], places[-1] + 1)) if places else True
        widths[len(places)] += 1
        ends |= {*places[:1], *places[-1:]}
    # Each of five widths as likely, and spans at every place, from the first row to the last.
    assert set(widths) == {0, 1, 2, 3, 4} and min(widths.values()) > 85
    assert ends == set(range(10))


def test_a_mask_is_no_wider_than_the_spectrogram():
    sounds = [torch.ones(3, 2) for _ in range(40)]
    for number, sound in enumerate(sounds):
        mask_span(sound, 8, generator(number))
    assert {int((sound == 0).all(1).sum()) for sound in sounds} == {0, 1, 2, 3}


@pytest.mark.parametrize(("changes", "axis"), [({"time_mask": 8}, 1), ({"frequency_mask": 8}, 2)])
def test_each_axis_is_masked_by_its_own_setting(changes, axis):
    given = rows()
    sounds = batch(given, **changes)["input_values"]
    masked = sounds == 0
    assert torch.equal(masked.all(axis + 1 if axis == 1 else 1), masked.any(axis + 1 if axis == 1 else 1))
    assert masked.any() and 0 < masked.float().mean() < 0.5
    plain = torch.stack([sound for sound, _ in given])
    assert torch.equal(sounds[~masked], plain[~masked])


def test_noise_is_uniform_up_to_a_width_that_each_clip_draws():
    widths = []
    for number in range(200):
        sound = torch.zeros(20, 10)
        add_noise(sound, 0.1, generator(number))
        assert sound.min() >= 0 and 0.4 < sound.mean() / sound.max() < 0.6
        widths.append(float(sound.max()))
    assert max(widths) < 0.1 and 0.04 < sum(widths) / len(widths) < 0.06


def test_what_a_clip_draws_depends_on_its_generator_alone():
    given, changes = rows(), {"time_mask": 8, "frequency_mask": 4, "noise": 0.1}
    whole = batch(given, **changes)["input_values"]
    assert torch.equal(batch(given, **changes)["input_values"], whole)
    parts = [batch(given[part], [*range(6)][part], **changes)["input_values"] for part in (slice(2), slice(2, 6))]
    assert torch.equal(torch.cat(parts), whole)
    others = batch(given, [7, 8, 9, 10, 11, 12], **changes)["input_values"]
    assert all(not torch.equal(one, other) for one, other in zip(others, whole, strict=True))


def test_nothing_changes_by_default():
    given = rows()
    found = batch(given)
    assert torch.equal(found["input_values"], torch.stack([sound for sound, _ in given]))
    assert torch.equal(found["labels"], torch.stack([label for _, label in given]))


@pytest.mark.parametrize("several", [False, True])
def test_mixup_blends_labels_as_it_blends_spectrograms(several):
    given = rows(several=several)
    found = batch(given, mixup=0.5)
    sounds, labels = (torch.stack(values) for values in zip(*given, strict=True))
    if not several:
        labels = torch.eye(4)[labels]
    for place in range(6):
        before = place - 1
        blended, one, other = found["input_values"][place], sounds[place], sounds[before]
        share = ((blended - other) * (one - other)).sum() / (one - other).square().sum()
        torch.testing.assert_close(blended, share * one + (1 - share) * other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found["labels"][place], share * labels[place] + (1 - share) * labels[before], rtol=1e-3, atol=1e-4
        )


def test_cutmix_pastes_rectangles_and_counts_them():
    given = rows()
    found = batch(given, cutmix=1.0)
    sounds = torch.stack([sound for sound, _ in given])
    for place in range(6):
        own = found["input_values"][place] == sounds[place]
        assert torch.equal(found["input_values"][place][~own], sounds[place - 1][~own])
        assert found["labels"][place][place % 4] == pytest.approx(float(own.float().mean()), abs=1e-6)
