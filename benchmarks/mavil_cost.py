# SPDX-License-Identifier: Apache-2.0
"""Measure updates of masked audio-video learners in the rows of table 5.3, and what their clips take to be made.

    OMP_NUM_THREADS=1 python benchmarks/mavil_cost.py

A learner smaller than the thesis's takes turns in each round as MAViL and as each row. R3 and R4 are at the mean of
their masks, R4 with as many clips as its batch has there. Reported are times for a clip, as ratios to MAViL's within a
round, as medians with their quartiles; and beside them the same ratios of counted operations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from environment import describe
from mavil_flops import ROWS

from vision_extras.clips.clip import Clip
from vision_extras.clips.collate import SoundAndFrames
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.clips.sources import load_clips
from vision_extras.clips.spectrogram import log_mel
from vision_extras.mavil import MavilForPreTraining
from vision_extras.mavil.masking import Masked
from vision_extras.mavil.operations import clip_flops
from vision_extras.mavil.recipe import LearnerRecipe
from vision_extras.metrics.runtime import interleaved

CLIPS = ClipsRecipe(name="bunny", seconds=4.0, frames=16, video_seconds=4.0, side=112, resample=True)
SIZES = {
    "hidden_size": 192,
    "num_attention_heads": 3,
    "audio_layers": 6,
    "video_layers": 6,
    "fusion_layers": 1,
    "decoder_size": 128,
    "decoder_layers": 4,
    "decoder_heads": 4,
}


def update(model: LearnerRecipe, clips: list[Clip], ratio: float) -> Callable[[], None]:
    """What makes an update of a learner on clips that are at hand."""
    torch.manual_seed(0)
    network = MavilForPreTraining(model.config(CLIPS.bands)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    batch = Masked(SoundAndFrames(CLIPS), network.config)(clips, [None] * len(clips), ratio)

    def work() -> None:
        network(**batch).loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def making(clip: Clip) -> dict[str, Callable[[], object]]:
    """What makes a clip, with and without the rest of it."""
    sound = clip.sound(CLIPS.rate)[None, : CLIPS.samples]
    return {
        "clip": partial(SoundAndFrames(CLIPS), [clip], [None]),
        "sound decoded": partial(clip.sound, CLIPS.rate),
        "frames decoded": partial(clip.frames, 0.0, CLIPS.video_seconds, CLIPS.frames),
        "spectrogram": partial(log_mel, sound, CLIPS.rate, CLIPS.bands),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clips", type=int, default=6, help="in the reference batch")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/mavil_cost_cpu.json"))
    options = parser.parse_args()
    clip = load_clips(CLIPS, video=True).train[0]
    works, clips, counted = making(clip), dict.fromkeys(making(clip), 1), {}
    for name, (recipe, mask) in ROWS.items():
        model, ratio = dataclasses.replace(recipe, **SIZES), mask.ratio(1, 3)
        clips[name] = mask.batch_size(ratio, options.clips)
        works[name] = update(model, [clip] * clips[name], ratio)
        counted[name] = clip_flops(model, CLIPS, ratio)["total"]
    seconds = interleaved(works, options.rounds)
    found = {}
    for name, times in seconds.items():
        each = zip(times, seconds["MAViL"], strict=True)
        ratios = [taken / clips[name] / (whole / clips["MAViL"]) for taken, whole in each]
        found[name] = {"median": statistics.median(ratios), "quartiles": statistics.quantiles(ratios, n=4)[::2]}
        if name in counted:
            found[name] |= {"clips": clips[name], "counted": counted[name] / counted["MAViL"]}
        print(name, {key: value for key, value in found[name].items() if key != "quartiles"}, flush=True)
    report = {
        "environment": {**describe(), "load": os.getloadavg()[1]},
        "rounds": options.rounds,
        "learner": SIZES,
        "seconds_mavil_clip": statistics.median(seconds["MAViL"]) / clips["MAViL"],
        "over_mavil": found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
