# SPDX-License-Identifier: Apache-2.0
"""Spoken words and moving digits: the same in every process, and what is held out is in no clip to learn from."""

from __future__ import annotations

import sys

import pytest
import torch

from vision_extras.clips import ClipsRecipe, UnreadableClip, load_clips
from vision_extras.clips.speech import HELD_OUT_VOICES, VOICES, spoken
from vision_extras.clips.spoken import DIGITS

RATE = 16000
RECIPE = ClipsRecipe(name="spoken_digits", count=60, seconds=1.0, side=40)


@pytest.fixture(scope="module")
def split():
    return load_clips(RECIPE, video=True)


def test_clips_have_words_and_digits_in_equal_shares(split):
    assert (len(split.train), len(split.held_out), split.classes, split.multilabel) == (48, 12, DIGITS, False)
    assert sorted(split.train.labels[:40]) == sorted([(number,) for number in range(10)] * 4)
    for rows in (split.train, split.held_out):
        for index in range(len(rows)):
            clip = rows[index]
            sound, frames = clip.sound(RATE), clip.frames(0.0, 1.0, 3)
            assert clip.labels == rows.labels[index]
            assert sound.shape == (RATE,) and sound.dtype == torch.float32 and 0.1 < sound.abs().max() <= 1
            assert frames.shape == (3, 40, 40, 3) and frames.dtype == torch.uint8


def test_a_word_is_in_its_clip_whole(split):
    """What remains without it is low noise."""
    for index in range(20):
        clip = split.train[index]
        sound, word = clip.sound(RATE), clip.word
        spectrum = torch.fft.rfft(sound, 2 * RATE) * torch.fft.rfft(word, 2 * RATE).conj()
        first = int(torch.fft.irfft(spectrum).argmax())
        sound[first : first + len(word)] -= word
        assert sound.std() < 0.011 and len(word) < RATE


def test_a_digit_moves_in_a_line_and_stays_within(split):
    for index in range(10):
        frames = split.train[index].frames(0.0, 1.0, 10).int()
        assert all(not torch.equal(one, other) for one, other in zip(frames[:-3], frames[3:], strict=True))
        ink = ((frames - frames[:, :1, :1]).abs().sum(-1) > 60).float()
        # Of the same digit, equally much ink is in every frame, but for its colour's rounding.
        assert ink.sum((1, 2)).tolist() == [float(ink[0].sum())] * 10
    later = split.train[0].frames(0.3, 0.4, 4)
    assert torch.equal(later[2], split.train[0].frames(0.5, 0.1, 1)[0])


def test_a_clip_depends_on_its_number_and_set_alone(split):
    again = load_clips(RECIPE, video=True)
    other = split.train[0].sound(RATE)
    split.train[7].sound(RATE)
    assert torch.equal(again.train[0].sound(RATE), other)
    assert torch.equal(again.train[0].frames(0, 1, 2), split.train[0].frames(0, 1, 2))
    assert not torch.equal(split.train[10].sound(RATE), other)
    assert not torch.equal(split.held_out[0].sound(RATE), other)
    assert again.train.fingerprint() == split.train.fingerprint() != split.held_out.fingerprint()


def test_voices_and_digits_that_are_held_out_are_not_learned_from(split):
    assert not set(VOICES) & set(HELD_OUT_VOICES)
    assert split.train.voices == VOICES and split.held_out.voices == HELD_OUT_VOICES
    images = [{image.numpy().tobytes() for image in rows.digits.pixels} for rows in (split.train, split.held_out)]
    assert not images[0] & images[1] and len(images[0]) + len(images[1]) == 5000
    said = spoken(DIGITS, RATE)
    voices = {voice: {said[key].numpy().tobytes() for key in said if key[1] == voice} for voice in VOICES}
    heard = {clip.word.numpy().tobytes() for clip in map(split.train.__getitem__, range(48))}
    assert heard <= set.union(*voices.values())
    # Neither is any word the same in two voices.
    assert len({word.numpy().tobytes() for word in said.values()}) == len(said)


def test_words_are_the_same_whenever_they_are_said():
    """The synthesizer draws noise and keeps a state, of which nothing may be heard."""
    one, other = (spoken.__wrapped__(("yes", "no"), RATE) for _ in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_speech_is_sound_alone():
    recipe = ClipsRecipe(name="speech", count=30, seconds=1.0, held_out=0.5)
    split = load_clips(recipe, video=False)
    assert (len(split.train), len(split.held_out)) == (15, 15) and split.classes[:2] == ("yes", "no")
    with pytest.raises(UnreadableClip, match="^clip 3 of train speech has sound alone"):
        split.train[3].frames(0.0, 1.0, 2)
    with pytest.raises(ValueError, match="name='speech' has sound alone"):
        load_clips(recipe, video=True)
    with pytest.raises(UnreadableClip, match="is made with rate=16000, and not 8000"):
        split.train[3].sound(8000)


def test_no_clips_are_held_out_where_none_are_to_be():
    split = load_clips(ClipsRecipe(name="speech", count=10, held_out=0.0), video=False)
    assert (len(split.train), len(split.held_out)) == (10, 0)


@pytest.mark.parametrize("package", ["av", "espeakng_loader"])
def test_a_package_that_is_missing_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"name='speech' needs .*{package}.*pip install 'hylora\[av\]'"):
        load_clips(ClipsRecipe(name="speech", rate=12000), video=False)  # at which no word has been said yet
