# SPDX-License-Identifier: Apache-2.0
"""Words that espeak-ng says in several voices, speeds and pitches."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_extras.clips.decoding import resampled

__all__ = ["HELD_OUT_VOICES", "PITCHES", "SPEEDS", "VOICES", "spoken"]

VOICES = (
    "en",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us+f2",
    "en-us+f5",
    "en-us+m3",
    "en-us+m7",
)
HELD_OUT_VOICES = ("en-gb-x-rp", "en-us+f4", "en-us+m6")

# Words per minute, and of 0 to 99.
SPEEDS = (130, 160, 190)
PITCHES = (35, 50, 65)


@cache
def spoken(words: tuple[str, ...], rate: int) -> dict[tuple[str, str, int, int], Tensor]:
    """Each word in each voice, speed and pitch: [N] in float32 within [-1, 1]. They are made once in a process.

    Args:
        words: in English.
        rate: samples per second.

    Raises:
        ImportError: if espeakng-loader, which brings the synthesizer, is not there.
        RuntimeError: if the synthesizer fails.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ImportError("No module named 'espeakng_loader'")
    requests = list(itertools.product(words, (*VOICES, *HELD_OUT_VOICES), SPEEDS, PITCHES))
    program = Path(__file__).with_name("synthesizer.py")
    done = subprocess.run([sys.executable, "-P", program], input=json.dumps(requests).encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"espeak-ng failed: {done.stderr.decode().strip()}")
    header, samples = done.stdout.split(b"\n", 1)
    made = json.loads(header)
    sound = torch.from_numpy(np.frombuffer(samples, np.int16) / np.float32(2**15))
    # Filled up to whole samples at both rates, all words can be resampled at once, which is many times as fast.
    unit = made["rate"] // math.gcd(made["rate"], rate)
    filled = [F.pad(piece, (0, -len(piece) % unit)) for piece in sound.split(made["samples"])]
    lengths = [len(piece) * rate // made["rate"] for piece in filled]
    pieces = resampled(torch.cat(filled), made["rate"], rate).clamp(-1, 1).split(lengths)
    return dict(zip(requests, pieces, strict=True))
