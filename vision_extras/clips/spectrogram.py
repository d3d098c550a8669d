# SPDX-License-Identifier: Apache-2.0
"""Spectrograms of sound, as networks for sound are customarily given them."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

__all__ = ["SILENCE", "hop", "log_mel", "window"]

# Power is taken to be no less, so that silence has a logarithm; it is float32's epsilon, as in Kaldi.
_LEAST = torch.finfo(torch.float32).eps

SILENCE = float(torch.tensor(_LEAST).log())
"""What a spectrogram of nothing has everywhere."""


def window(rate: int) -> int:
    """Samples in 25 ms."""
    return rate // 40


def hop(rate: int) -> int:
    """Samples in 10 ms."""
    return rate // 100


def log_mel(sound: Tensor, rate: int, bands: int) -> Tensor:
    """Logarithms of the power in each band of the mel scale, of windows of 25 ms that begin every 10 ms.

    What it computes is Kaldi's filter bank with a window of Hann, which `transformers.ASTFeatureExtractor` gives too,
    one window after another.

    Args:
        sound: [B, N] in float32 within [-1, 1].
        rate: samples per second.
        bands: from 20 Hz to half the rate, evenly apart on the mel scale.

    Returns:
        [B, T, bands] in float32, where T counts the windows that lie wholly within the sound.
    """
    windows = sound.unfold(-1, window(rate), hop(rate))
    windows = windows - windows.mean(-1, keepdim=True)
    before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
    shape, filters = _shape(rate), _filters(rate, bands)
    # A Fourier transform of the next power of two.
    power = torch.fft.rfft((windows - 0.97 * before) * shape, 2 * (len(filters) - 1)).abs().square()
    return (power @ filters).clamp(min=_LEAST).log()


@cache
def _shape(rate: int) -> Tensor:
    return torch.hann_window(window(rate), periodic=False)


@cache
def _filters(rate: int, bands: int) -> Tensor:
    """[frequencies, bands]."""
    frequencies = 1 + (1 << (window(rate) - 1).bit_length()) // 2
    with warnings.catch_warnings():
        # The lowest of 128 bands lie between two frequencies of the transform, at every customary rate.
        warnings.filterwarnings("ignore", "At least one mel filter")
        filters = mel_filter_bank(
            frequencies, bands, 20, rate // 2, rate, mel_scale="kaldi", triangularize_in_mel_space=True
        )
    return torch.from_numpy(filters).float()
