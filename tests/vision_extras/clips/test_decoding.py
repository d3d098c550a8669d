# SPDX-License-Identifier: Apache-2.0
"""Sound and frames out of files: what was written comes back, at the rate and the moments asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from tests.vision_extras.clips.files import RATE, tone, write_sound, write_video
from vision_extras.clips import UnreadableClip
from vision_extras.clips.decoding import read_frames, read_seconds, read_sound, resampled

GREY = [10 * number for number in range(24)]


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_sound_comes_back_as_it_was(tmp_path, ending):
    sound = tone(440)
    file = write_sound(tmp_path / f"a.{ending}", sound)
    read = read_sound(str(file), "a", RATE, resample=False)
    assert read.dtype == torch.float32 and read.numpy() == pytest.approx(sound, abs=2**-15)
    assert torch.equal(read_sound(io.BytesIO(file.read_bytes()), "a", RATE, resample=False), read)
    assert read_seconds(str(file), "a") == pytest.approx(0.5)


def test_formats_of_two_libraries_sound_alike(tmp_path):
    """A video's sound is read by another library than a sound file's."""
    sound = tone(440)
    film = read_sound(str(write_video(tmp_path / "a.mp4", GREY, sound=sound)), "a", RATE, resample=False)
    assert hertz(film, RATE) == pytest.approx(440, abs=3) and film[2000:6000].std() == pytest.approx(
        sound.std(), rel=0.05
    )
    loud = write_sound(tmp_path / "a.wav", 4 * sound, subtype="FLOAT")
    assert read_sound(str(loud), "a", RATE, resample=False).abs().max() == 1


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_compressed_sound_comes_back_about_as_it_was(tmp_path, ending):
    sound = tone(440)
    read = read_sound(str(write_sound(tmp_path / f"a.{ending}", sound)), "a", RATE, resample=False)
    assert hertz(read, RATE) == pytest.approx(440, abs=3)
    assert read[2000:6000].std() == pytest.approx(sound.std(), rel=0.05)


def test_channels_are_mixed_evenly(tmp_path):
    left, right = tone(440), tone(1000)
    file = write_sound(tmp_path / "a.wav", np.stack([left, right], axis=1))
    read = read_sound(str(file), "a", RATE, resample=False)
    assert read.numpy() == pytest.approx((left + right) / 2, abs=2**-14)


def hertz(sound, rate):
    return float(torch.fft.rfft(sound).abs().argmax()) * rate / len(sound)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_sound_is_resampled_only_if_told_to(tmp_path, rate):
    file = str(write_sound(tmp_path / "a.wav", tone(440, rate=rate), rate))
    with pytest.raises(UnreadableClip, match=rf"^my\.wav has {rate} samples .* rate=16000.*clips\.resample=true"):
        read_sound(file, "my.wav", RATE, resample=False)
    read = read_sound(file, "my.wav", RATE, resample=True)
    assert len(read) == pytest.approx(8000, abs=2) and hertz(read, RATE) == pytest.approx(440, abs=3)
    # Away from its ends, where the filter sees nothing, it is the same tone sampled at the other rate.
    assert read[500:7500].numpy() == pytest.approx(tone(440)[500:7500], abs=2e-3)


def test_resampling_keeps_what_both_rates_have():
    sound = torch.from_numpy(tone(300, rate=22050))
    assert resampled(sound, 22050, RATE)[500:7500].numpy() == pytest.approx(tone(300)[500:7500], abs=1e-3)
    assert torch.equal(resampled(sound, RATE, RATE), sound)


@pytest.mark.parametrize(
    ("start", "seconds", "count", "expected"),
    [
        (0.0, 3.0, 24, range(24)),
        (0.0, 3.0, 6, [0, 4, 8, 12, 16, 20]),
        (1.0, 1.0, 4, [8, 10, 12, 14]),
        # Between two frames, the earlier one is still shown.
        (1.05, 1.0, 8, range(8, 16)),
        (2.0, 1.0, 8, range(16, 24)),
    ],
)
def test_frames_are_those_shown_at_the_moments(tmp_path, start, seconds, count, expected):
    file = str(write_video(tmp_path / "a.mp4", GREY))
    frames = read_frames(file, "a", start, seconds, count)
    assert frames.dtype == torch.uint8 and frames.shape == (count, 32, 48, 3)
    assert frames.float().mean((1, 2, 3)).tolist() == pytest.approx([GREY[number] for number in expected], abs=4)


def test_fewer_frames_than_asked_are_refused(tmp_path):
    file = str(write_video(tmp_path / "a.mp4", GREY))
    with pytest.raises(UnreadableClip, match=r"^my\.mp4 has 8 frames in the 1 seconds from 1 on, and frames=9"):
        read_frames(file, "my.mp4", 1.0, 1.0, 9)


def test_what_cannot_be_read_names_the_file(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(write_video(tmp_path / "a.mp4", GREY, sound=tone(440, 3)).read_bytes()[:500])
    silent, deaf = str(write_video(tmp_path / "b.mp4", GREY)), str(write_sound(tmp_path / "c.wav", tone(440)))
    for file in (str(broken), str(tmp_path / "none.mp4")):
        with pytest.raises(UnreadableClip, match=r"^my\.mp4 cannot be decoded"):
            read_sound(file, "my.mp4", RATE, resample=True)
        with pytest.raises(UnreadableClip, match=r"^my\.mp4 cannot be decoded"):
            read_frames(file, "my.mp4", 0.0, 1.0, 2)
        with pytest.raises(UnreadableClip, match=r"^my\.mp4 cannot be decoded"):
            read_seconds(file, "my.mp4")
    with pytest.raises(UnreadableClip, match=r"^my\.mp4 has no audio"):
        read_sound(silent, "my.mp4", RATE, resample=True)
    with pytest.raises(UnreadableClip, match=r"^my\.wav has no video"):
        read_frames(deaf, "my.wav", 0.0, 1.0, 2)
    with pytest.raises(UnreadableClip, match=r"^my\.wav has no sound"):
        read_sound(str(write_sound(tmp_path / "d.wav", tone(440)[:0])), "my.wav", RATE, resample=True)
