# SPDX-License-Identifier: Apache-2.0
"""Spectrograms against one that is written out step by step, and against those of transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from tests.vision_extras.clips.files import tone
from vision_extras.clips.spectrogram import SILENCE, log_mel


def by_hand(sound, rate=16000, bands=128):
    """Log-mel of float64 sound: windows of 25 ms every 10 ms, triangles on the mel scale of Kaldi."""

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    long, step, size = rate * 25 // 1000, rate * 10 // 1000, 512
    edges = np.linspace(mel(20), mel(rate / 2), bands + 2)
    filters = np.zeros((size // 2 + 1, bands))
    for line in range(size // 2 + 1):
        at = mel(line * rate / size)
        for band in range(bands):
            low, peak, high = edges[band : band + 3]
            filters[line, band] = max(0, min((at - low) / (peak - low), (high - at) / (high - peak)))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(long) / (long - 1))
    rows = []
    for first in range(0, len(sound) - long + 1, step):
        piece = sound[first : first + long] - sound[first : first + long].mean()
        piece = np.concatenate([[piece[0] * (1 - 0.97)], piece[1:] - 0.97 * piece[:-1]]) * hann
        power = np.abs(np.fft.rfft(piece, size)) ** 2
        rows.append(np.log(np.maximum(power @ filters, 2.0**-23)))
    return np.array(rows)


def noisy(seconds):
    noise = np.random.default_rng(0).normal(0, 0.05, round(16000 * seconds))
    return (tone(700, seconds) + noise).astype(np.float32)


def test_it_is_the_one_written_by_hand():
    sound = noisy(0.3)
    got = log_mel(torch.from_numpy(sound)[None], 16000, 128)
    assert got.shape == (1, 28, 128) and got.dtype == torch.float32
    assert got[0].numpy() == pytest.approx(by_hand(sound.astype(np.float64)), abs=2e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_it_is_that_of_transformers():
    sound = noisy(1.0)
    library = ASTFeatureExtractor(do_normalize=False)(sound, sampling_rate=16000, return_tensors="pt").input_values[0]
    assert torch.allclose(log_mel(torch.from_numpy(sound)[None], 16000, 128)[0], library[:98], atol=2e-3)


def test_silence_has_its_value_everywhere():
    assert math.exp(SILENCE) == pytest.approx(2**-23)
    assert (log_mel(torch.zeros(2, 1600), 16000, 128) == SILENCE).all()


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_a_tone_is_in_its_band_at_every_rate(rate):
    heard = log_mel(torch.from_numpy(tone(1000, rate=rate))[None], rate, 40)
    assert heard.shape == (1, 1 + (rate // 2 - rate // 40) // (rate // 100), 40)
    low, high, here = (1127 * math.log(1 + hertz / 700) for hertz in (20, rate // 2, 1000))
    assert heard.mean((0, 1)).argmax() == pytest.approx(41 * (here - low) / (high - low) - 1, abs=0.6)
