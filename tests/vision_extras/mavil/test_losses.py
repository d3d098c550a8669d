# SPDX-License-Identifier: Apache-2.0
"""Noise and losses against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from vision_extras.mavil.diffusion import diffused, noise_for, signal_shares
from vision_extras.mavil.losses import info_nce, reconstruction, similarities


def test_shares_of_the_signal_by_hand():
    """The thesis's betas, to the power of phi."""
    shares, left = signal_shares(1000, 1e-4, 0.02, 0.8), 1.0
    for step in range(1, 1001):
        beta = 1e-4 + (0.02 - 1e-4) * (step - 1) / 999
        left *= 1 - beta**0.8
        if step in (1, 2, 500, 1000):
            assert float(shares[step - 1]) == pytest.approx(left, rel=1e-5)
    # An exponent below 1 has more noise, most so at the first steps.
    plain = signal_shares(1000, 1e-4, 0.02, 1.0)
    assert (1 - shares[0]) / (1 - plain[0]) == pytest.approx(1e-4**-0.2, rel=1e-2)
    assert bool((shares < plain).all())


@pytest.mark.parametrize("step", [1, 300, 1000])
def test_noise_has_the_variance_of_its_step(step):
    """Of patches that are all 2: their mean is the signal's share, and their variance what the signal lost."""
    left = float(signal_shares(1000, 1e-4, 0.02, 0.8)[step - 1])
    patches = torch.full((4, 500, 100), 2.0)
    noisy = diffused(patches, noise_for(patches, range(4)), torch.full((4,), left))
    assert float(noisy.mean()) == pytest.approx(2 * math.sqrt(left), abs=0.02)
    assert float(noisy.var()) == pytest.approx(1 - left, rel=0.02)


def test_noise_of_a_row_depends_on_its_seed_alone():
    patches = torch.zeros(3, 4, 5)
    noise = noise_for(patches, [7, 8, 7])
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise_for(patches[:1], [8])[0], noise[1])


def test_reconstruction_counts_masked_patches_over_all():
    predicted, true = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    found = reconstruction(predicted, true, patches=10)
    for row in range(2):
        errors = [sum((predicted[row, m, p] - true[row, m, p]) ** 2 for p in range(4)) / 4 for m in range(3)]
        assert float(found[row]) == pytest.approx(float(sum(errors)) / 10, rel=1e-5)


def test_info_nce_by_hand():
    one, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    found = info_nce(one, other, 0.3, (one, other, 0))

    def cosine(a, b):
        return float(a @ b) / (float(a.norm()) * float(b.norm()))

    for row in range(3):
        there = [math.exp(cosine(one[row], b) / 0.3) for b in other]
        back = [math.exp(cosine(other[row], a) / 0.3) for a in one]
        expected = -(math.log(there[row] / sum(there)) + math.log(back[row] / sum(back))) / 2
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def test_embeddings_that_lie_close_are_told_apart_under_autocast():
    """In bfloat16 their cosines would be one number."""
    one = torch.ones(16, 32) + 0.02 * torch.randn(16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarities(one, one).argmax(1), torch.arange(16))
        assert torch.equal(info_nce(one, one, 0.1, (one, one, 0)), info_nce(one.double(), one, 0.1, (one, one, 0)))


def test_info_nce_among_clips_of_other_processes():
    """Rows 1 and 2 of 4, told from all of them."""
    one, other = torch.randn(4, 6), torch.randn(4, 6)
    whole = info_nce(one, other, 0.5, (one, other, 0))
    torch.testing.assert_close(info_nce(one[1:3], other[1:3], 0.5, (one, other, 1)), whole[1:3])


def test_a_single_clip_has_nothing_to_be_told_from():
    one = torch.randn(1, 6)
    assert float(info_nce(one, torch.randn(1, 6), 0.1, (one, one, 0))) == 0
