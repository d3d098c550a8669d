# SPDX-License-Identifier: Apache-2.0
"""Draw masked learners: a clip on its way through one, a run's masks and batches, and which patches attend to which.

    python -m hylora.train recipes/vision/mavil_digits.yaml training.epochs=30
    python docs/draw_mavil.py outputs/mavil_digits

The pictures are docs/images/mavil.png, docs/images/mavil_training.png and docs/images/mavil_attention.png.
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor, nn

from hylora.randomness import generator
from vision_extras.clips.collate import SoundAndFrames
from vision_extras.clips.sources import load_clips
from vision_extras.mavil import MavilConfig, MavilForPreTraining, completed
from vision_extras.mavil.decoder import CrossLayers, SelfLayers
from vision_extras.mavil.masking import Masked
from vision_extras.mavil.recipe import MavilRecipe

IMAGES = Path(__file__).parent / "images"

# Of the noise, in the picture of a clip.
STEP = 120

# In the picture of attention; one in five is visible.
PATCHES, VISIBLE = 20, 4


@torch.no_grad()
def clip(folder: Path, number: int) -> plt.Figure:
    """A held-out clip: as it is, masked, with noise, and reconstructed from that and from nothing but noise."""
    recipe = MavilRecipe.load(folder / "recipe.yaml")
    network = MavilForPreTraining.from_pretrained(folder).eval()
    config, held_out = network.config, load_clips(recipe.clips, video=True).held_out[number]
    batch = Masked(SoundAndFrames(recipe.clips), config)([held_out], [None], recipe.mask.last)

    def found(step: int):
        return network(**{**batch, "steps": torch.tensor([step])})

    some, all_noise = found(STEP), found(config.noise_steps)
    gone = torch.full_like(some.audio_predicted, torch.nan), torch.full_like(some.video_predicted, torch.nan)
    stages = {
        "as it is": (batch["input_values"], batch["frames"]),
        f"masked, {recipe.mask.last:g}": completed(config, batch, *gone),
        f"what decoders\nget at t = {STEP}": completed(config, batch, some.audio_noisy, some.video_noisy),
        f"reconstructed\nfrom t = {STEP}": completed(config, batch, some.audio_predicted, some.video_predicted),
        f"reconstructed\nfrom t = {config.noise_steps}": completed(
            config, batch, all_noise.audio_predicted, all_noise.video_predicted
        ),
    }
    shown = range(0, recipe.clips.frames, config.tubelet)
    figure, axes = plt.subplots(len(stages), 1 + len(shown), figsize=(6.8, 7.0), layout="constrained")
    low, high = batch["input_values"].min(), batch["input_values"].max()
    colors = plt.get_cmap("magma").with_extremes(bad="white")
    for row, (name, (heard, seen)) in zip(axes, stages.items(), strict=True):
        row[0].imshow(heard[0].T, cmap=colors, vmin=low, vmax=high, origin="lower", interpolation="nearest")
        row[0].set_ylabel(name, fontsize=9)
        for axis, frame in zip(row[1:], shown, strict=True):
            pixels = (seen[0, :, frame] * 0.225 + 0.45).nan_to_num(1.0).clamp(0, 1)
            axis.imshow(pixels.permute(1, 2, 0), interpolation="nearest")
        for axis in row:
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("spectrogram", fontsize=9)
    for axis, frame in zip(axes[0, 1:], shown, strict=True):
        axis.set_title(f"frame {frame}", fontsize=9)
    return figure


def training(folder: Path) -> plt.Figure:
    """Masks and clips of each update, and the errors of reconstruction on held-out clips."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates, evaluations = ([line for line in lines if name in line] for name in ("mask_ratio", "eval_loss"))
    figure, (ratio, clips, error) = plt.subplots(1, 3, figsize=(9.6, 2.7), layout="constrained")
    steps = [update["step"] for update in updates]
    ratio.plot(steps, [update["mask_ratio"] for update in updates], color="#33658a", drawstyle="steps-post")
    ratio.set_title("share of patches that is masked", fontsize=9)
    clips.plot(steps, [update["clips"] for update in updates], ".", markersize=2, color="#f26419")
    clips.set_ylim(0)
    clips.set_title("clips in an update", fontsize=9)
    for name, color in (("audio", "#2f9e44"), ("video", "#7048a8")):
        values = [evaluation[f"eval_{name}_loss"] for evaluation in evaluations]
        error.plot([evaluation["step"] for evaluation in evaluations], values, ".-", color=color, label=name)
    error.set_ylim(0)
    error.set_title("squared error on held-out clips", fontsize=9)
    error.legend(fontsize=8)
    for axis in (ratio, clips, error):
        axis.set_xlabel("update")
    return figure


def attends(layers: nn.Module, context: int) -> Tensor:
    """Whether the token of a patch after a decoder's layer has a gradient at that of another before, [L, L] of bool.

    The first are given as visible patches, of which the layer gives nothing.
    """
    tokens = torch.randn(1, PATCHES, 16, generator=generator("attention"), requires_grad=True)
    out = layers(tokens[:, :context], tokens[:, context:], torch.arange(PATCHES)[None], (PATCHES,))
    sees = torch.zeros(PATCHES, PATCHES, dtype=torch.bool)
    for number, token in enumerate(out[0], start=context):
        sees[number] = torch.autograd.grad(token.sum(), tokens, retain_graph=True)[0][0].any(1)
    return sees


def attention() -> plt.Figure:
    """Which patches attend to which, in self-attention and in cross-attention (figure 5.2)."""
    config = MavilConfig(hidden_size=16, num_attention_heads=2, decoder_size=16, decoder_heads=2, decoder_layers=1)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
    itself = torch.eye(PATCHES, dtype=torch.bool)
    # Self-attention knows no visible patches: all are given, and all are asked for.
    for axis, name, sees in (
        (axes[0], "self", attends(SelfLayers(config), 0)),
        (axes[1], "cross", attends(CrossLayers(config), VISIBLE)),
    ):
        # Without attention to themselves tokens have a gradient there still, by the way around it.
        around = sees & itself if name == "cross" else torch.zeros_like(sees)
        pairs = sees & ~around
        axis.imshow(pairs.float() + 0.3 * around, cmap="Blues", vmin=0, vmax=1.3)
        axis.set_title(f"{name}-attention: {int(pairs.sum())} of {PATCHES**2} pairs", fontsize=10)
        for lines in (axis.axhline, axis.axvline):
            for place in range(PATCHES + 1):
                lines(place - 0.5, color="white", linewidth=0.6)
            lines(VISIBLE - 0.5, color="#f26419", linewidth=1.5)
        places = [(VISIBLE - 1) / 2, (PATCHES + VISIBLE - 1) / 2]
        axis.set_xticks(places, ("visible", "masked"))
        axis.set_yticks(places, ("visible", "masked"), rotation=90, va="center")
        axis.set_xlabel("attended to")
        axis.tick_params(length=0, which="both")
    axes[0].set_ylabel("attending")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--clip", type=int, default=0, help="number of a held-out clip")
    options = parser.parse_args()
    figures = {
        "mavil": clip(options.run, options.clip),
        "mavil_training": training(options.run),
        "mavil_attention": attention(),
    }
    for name, figure in figures.items():
        path, drawn = IMAGES / f"{name}.png", BytesIO()
        figure.savefig(drawn, dpi=90)
        few = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
