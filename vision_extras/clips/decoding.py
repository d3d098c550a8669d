# SPDX-License-Identifier: Apache-2.0
"""Sound and frames out of files: sound alone by soundfile where it can, and all else by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vision_extras.clips.clip import UnreadableClip

__all__ = ["read_frames", "read_seconds", "read_sound", "resampled"]

# Moments are compared up to this, in seconds: times of frames are fractions.
_INSTANT = 1e-6


def read_sound(file: str | BinaryIO, name: str, rate: int, resample: bool) -> Tensor:
    """All sound of a file, the mean of its channels: [N] in float32 within [-1, 1].

    Args:
        file: a path, or what can be read and sought.
        name: of the file, for people.
        rate: samples per second.
        resample: whether a file of another rate is converted.

    Raises:
        UnreadableClip: if the file has no sound, has another rate and is not to be resampled, or cannot be decoded.
    """
    sound = _read_by_soundfile(file, name, rate, resample)
    if sound is None:
        with _opened(file, name, "audio") as (container, stream):
            _check_rate(name, stream.rate, rate, resample)
            sound = _resampled(container.decode(stream), rate)
    if not len(sound):
        raise UnreadableClip(f"{name} has no sound")
    return sound.clamp(-1, 1)


def _read_by_soundfile(file: str | BinaryIO, name: str, rate: int, resample: bool) -> Tensor | None:
    """As `read_sound`, and twenty times as fast of a short wav file; None of formats that libsndfile does not know."""
    import soundfile

    try:
        with soundfile.SoundFile(_from_its_beginning(file)) as opened:
            _check_rate(name, opened.samplerate, rate, resample)
            sound = torch.from_numpy(opened.read(dtype="float32", always_2d=True).mean(1))
            return sound if opened.samplerate == rate else resampled(sound, opened.samplerate, rate)
    except soundfile.LibsndfileError:
        return None


def _check_rate(name: str, found: int, rate: int, resample: bool) -> None:
    if found != rate and not resample:
        raise UnreadableClip(
            f"{name} has {found} samples of sound per second, and rate={rate}; convert it with clips.resample=true, "
            f"or set clips.rate={found}"
        )


def resampled(sound: Tensor, rate: int, to: int) -> Tensor:
    """Sound, [N] in float32, at another rate of samples per second."""
    import av

    frame = av.AudioFrame.from_ndarray(sound.numpy()[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    return _resampled([frame], to)


def read_frames(file: str | BinaryIO, name: str, start: float, seconds: float, count: int) -> Tensor:
    """What a file shows at `count` moments that are evenly apart: [count, H, W, 3] in uint8, red, green and blue.

    Args:
        file: a path, or what can be read and sought.
        name: of the file, for people.
        start: the first moment, in seconds from the beginning.
        seconds: of the window, in which the moments are `seconds / count` apart.
        count: how many.

    Raises:
        UnreadableClip: if the file has no frames, fewer than `count` of them in the window, or cannot be decoded.
    """
    moments = [start + number * seconds / count for number in range(count)]
    chosen: list[Any] = []
    within, shown = 0, None
    with _opened(file, name, "video") as (container, stream):
        first = (stream.start_time or 0) * stream.time_base
        if start > 0:
            container.seek(int((first + start) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            time = float(frame.pts * stream.time_base - first)
            if time > start + seconds - _INSTANT:
                break
            within += time > start - _INSTANT
            # A frame is shown until the next one is.
            while len(chosen) < count and moments[len(chosen)] < time - _INSTANT:
                chosen.append(shown or frame)
            shown = frame
        if within < count:
            raise UnreadableClip(
                f"{name} has {within} frames in the {seconds:g} seconds from {start:g} on, and frames={count}; ask "
                "for fewer with clips.frames, or for more time with clips.video_seconds"
            )
        chosen += [shown] * (count - len(chosen))
        return torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in chosen]))


def read_seconds(file: str | BinaryIO, name: str) -> float:
    """How long the frames of a file are, or its sound if it has none.

    Raises:
        UnreadableClip: if it does not say so, or cannot be opened.
    """
    with _opened(file, name, "video", "audio") as (container, stream):
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return container.duration / 1e6
        raise UnreadableClip(f"{name} does not say how long it is; write it into a container that does")


def _resampled(frames: Iterable[Any], rate: int) -> Tensor:
    """The mean of the channels of frames, at a rate."""
    import av

    resampler = av.AudioResampler(format="fltp", rate=rate)
    # Given None in the end, it returns what it has kept. Told to mix channels, it would add them up.
    pieces = [piece.to_ndarray().mean(0) for frame in (*frames, None) for piece in resampler.resample(frame)]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *pieces]))


@contextmanager
def _opened(file: str | BinaryIO, name: str, *kinds: str) -> Iterator[tuple[Any, Any]]:
    """A file's container, and its stream of the first kind that it has; whatever goes wrong there names the file."""
    import av

    try:
        with av.open(_from_its_beginning(file)) as container:
            stream = next(filter(None, map(container.streams.best, kinds)), None)
            if stream is None:
                raise UnreadableClip(f"{name} has no {' or '.join(kinds)}")
            yield container, stream
    except UnreadableClip:
        raise
    except Exception as error:  # decoders raise whatever they trip over
        raise UnreadableClip(f"{name} cannot be decoded: {error}") from error


def _from_its_beginning(file: str | BinaryIO) -> str | BinaryIO:
    """A file that may have been read already."""
    if not isinstance(file, str):
        file.seek(0)
    return file
