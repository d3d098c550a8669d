# SPDX-License-Identifier: Apache-2.0
"""Small files of sound and video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16000


def tone(hertz, seconds=0.5, rate=RATE):
    """[N] in float32: a sine of half the greatest amplitude."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_sound(path, sound, rate=RATE, subtype=None):
    """A file of the format that its ending says; `sound` is [N] or [N, channels]."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype)
    return path


def write_video(path, grey, fps=8, sound=None, size=(48, 32)):
    """Plain frames, each of one grey, with sound of 16 kHz if there is any."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = *size, "yuv420p"
        pictures.bit_rate = 4_000_000
        if sound is not None:
            heard = container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            for packet in (*heard.encode(frame), *heard.encode(None)):
                container.mux(packet)
        for number, value in enumerate(grey):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), value, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            for packet in pictures.encode(frame):
                container.mux(packet)
        for packet in pictures.encode(None):
            container.mux(packet)
    return path
