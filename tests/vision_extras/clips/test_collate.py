# SPDX-License-Identifier: Apache-2.0
"""What of a clip is heard and seen: its place, its length, its scale and its labels."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch

from hylora.randomness import generator
from vision_extras.clips import ClipsRecipe, SoundAndFrames, Sounds
from vision_extras.clips.spectrogram import SILENCE, log_mel

RATE = 16000


@dataclass
class Ramp:
    """Sound that says where it is, and frames that say when they are: grey is the moment in hundredths of seconds."""

    seconds: float = 2.0
    labels: tuple[int, ...] = (3,)
    name: str = "ramp"
    size: tuple[int, int] = (20, 30)

    def sound(self, rate):
        count = round(self.seconds * rate)
        # A chirp, of which no two parts are alike.
        return torch.sin(torch.arange(count).double().square() * 2e-5).float()

    def frames(self, start, seconds, count):
        moments = torch.tensor([start + number * seconds / count for number in range(count)])
        return (100 * moments).round().byte()[:, None, None, None].expand(-1, *self.size, 3).contiguous()


def recipe(**changes):
    return ClipsRecipe(name="speech", **{"seconds": 1.0, "frames": 4, "video_seconds": 1.0, "side": 8} | changes)


def heard(sound, of):
    """As transformers' extractor scales it, filled up with silence."""
    rows = log_mel(sound[None], RATE, of.bands)[0]
    silence = torch.full((of.steps - len(rows), of.bands), SILENCE)
    return (torch.cat([rows, silence]) + 4.268) / (2 * 4.569)


@pytest.mark.parametrize(("seconds", "steps"), [(10, 1024), (5, 512), (1, 128), (0.3, 64)])
def test_spectrograms_have_the_published_lengths(seconds, steps):
    of = recipe(seconds=float(seconds))
    assert of.steps == steps
    batch = Sounds(of)([Ramp(seconds)], [None])
    assert batch["input_values"].shape == (1, steps, 128) and batch["input_values"].dtype == torch.float32


def test_without_randomness_the_middle_is_heard():
    of = recipe()
    got = Sounds(of)([Ramp(2.0)], [None])["input_values"][0]
    assert torch.allclose(got, heard(Ramp(2.0).sound(RATE)[RATE // 2 : 3 * RATE // 2], of), atol=1e-5)


def test_a_shorter_clip_is_followed_by_silence():
    of = recipe()
    got = Sounds(of)([Ramp(0.5)], [None])["input_values"][0]
    sound = torch.cat([Ramp(0.5).sound(RATE), torch.zeros(RATE // 2)])
    assert torch.allclose(got, heard(sound, of), atol=1e-5)
    assert torch.allclose(got[60:], torch.tensor((SILENCE + 4.268) / (2 * 4.569)))


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_in_training_sound_rolls_from_a_random_place(seconds):
    """Each spectrogram is that of some rotation of the whole clip, and rotations differ."""
    of, clip = recipe(), Ramp(seconds)
    whole = clip.sound(RATE)
    whole = torch.cat([whole, torch.zeros(max(0, RATE - len(whole)))])
    places = set()
    for number in range(8):
        got = Sounds(of)([clip], [generator("roll", number)])["input_values"][0]
        place = int(torch.randint(len(whole), (), generator=generator("roll", number)))
        rolled = torch.cat([whole[place:], whole[:place]])[:RATE]
        assert torch.allclose(got, heard(rolled, of), atol=1e-5)
        places.add(place)
    assert len(places) == 8 and max(places) > len(whole) / 2


def test_frames_are_of_the_middle_or_of_a_random_window():
    of = recipe()
    collate = SoundAndFrames(of)
    middle = collate([Ramp(2.0)], [None])["frames"]
    assert middle.shape == (1, 3, 4, 8, 8) and middle.dtype == torch.float32

    def grey(frames):
        return (255 * (0.225 * frames + 0.45)).mean((1, 3, 4))

    assert grey(middle)[0].tolist() == pytest.approx([50, 75, 100, 125], abs=0.01)
    starts = []
    for number in range(20):
        seen = grey(collate([Ramp(2.0)], [generator("window", number)])["frames"])[0]
        assert seen.diff().tolist() == pytest.approx([25, 25, 25], abs=1.01)
        starts.append(float(seen[0]))
    assert 0 <= min(starts) < 25 and 75 < max(starts) <= 100
    # A clip that is shorter than the window is seen whole.
    assert grey(collate([Ramp(0.4)], [None])["frames"])[0].tolist() == pytest.approx([0, 10, 20, 30], abs=0.01)


def test_frames_are_the_central_square():
    class Halves(Ramp):
        def frames(self, start, seconds, count):
            frames = super().frames(start, seconds, count)
            frames[:, :, :5], frames[:, :, 5:25], frames[:, :, 25:] = 0, 90, 255
            return frames

    seen = SoundAndFrames(recipe())([Halves()], [None])["frames"]
    # The edges are blended with what is beyond them.
    assert torch.allclose(255 * (0.225 * seen[..., 1:-1] + 0.45), torch.tensor(90.0), atol=1e-3)


def test_a_batch_is_a_function_of_its_rows_and_generators():
    collate = pickle.loads(pickle.dumps(SoundAndFrames(recipe())))
    clips = [Ramp(2.0), Ramp(1.5)]
    both, again = (collate(clips, [generator("row", 0), generator("row", 1)], None) for _ in range(2))
    alone = collate(clips[1:], [generator("row", 1)], None)
    for name in ("input_values", "frames", "labels"):
        assert torch.equal(both[name], again[name]) and torch.equal(both[name][1:], alone[name])


def test_labels_are_numbers_or_marks():
    clips = [Ramp(labels=(3,)), Ramp(labels=())]
    assert Sounds(recipe())(clips, [None] * 2)["labels"].tolist() == [3, -100]
    several = Sounds(recipe(), several=5)([Ramp(labels=(1, 4)), Ramp(labels=())], [None] * 2)["labels"]
    assert several.dtype == torch.float32 and several.tolist() == [[0, 1, 0, 0, 1], [0] * 5]
