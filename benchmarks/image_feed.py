# SPDX-License-Identifier: Apache-2.0
"""Compare batches of images from `RowFeed` with a bare torch DataLoader that does the same work in as many workers.

Both decode JPEG files of a photograph's size, take a random crop, resize it, flip it and normalise it; and both take
MNIST's digits out of memory, shift and resize them. What is compared is the time to get a batch when nothing else is
done. The two take turns, block by block, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import describe
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from hylora.training.feed import RowFeed, WindowSize
from hylora.training.moment import Moment
from vision_extras.images import Augmented, AugmentRecipe, Images, ImagesRecipe, Split, load_split


class BareFiles(Dataset):
    """A crop of a file at random, as a plain data set has it."""

    def __init__(self, split: Split, side: int) -> None:
        self.paths = [split.train.encoded.open(number) for number in split.train.numbers.tolist()]
        self.labels = split.train.labels.tolist()
        self.side = side
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (split.plain.mean, split.plain.std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        width, height = image.size
        area = width * height * float(torch.empty(()).uniform_(0.25, 1.0))
        ratio = float(torch.empty(()).uniform_(np.log(3 / 4), np.log(4 / 3)).exp())
        across, down = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
        left, top = int(torch.randint(width - across + 1, ())), int(torch.randint(height - down + 1, ()))
        image = image.crop((left, top, left + across, top + down))
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        return pixels.sub_(self.mean).div_(self.std), self.labels[index]


class BareMemory(Dataset):
    """Digits in memory, moved and resized, as a plain data set has them."""

    def __init__(self, images: Images, split: Split, side: int) -> None:
        self.images, self.side = images, side
        self.mean, self.std = split.plain.mean[0], split.plain.std[0]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images.pixels[index, 0].numpy())
        left, top = (torch.randint(5, (2,)) - 2).tolist()
        image = image.crop((left, top, left + image.width, top + image.height))
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image))[None].float().div_(255)
        return pixels.sub_(self.mean).div_(self.std), int(self.images.labels[index])


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of 500 by 375 pixels, cut from scikit-image's photographs."""
    import skimage.data

    names = ("astronaut", "coffee", "hubble_deep_field", "rocket", "immunohistochemistry")
    for number in range(count):
        name = names[number % len(names)]
        picture = Image.fromarray(getattr(skimage.data, name)())
        draw = np.random.default_rng(number)
        width, height = 400 * picture.width // 512, 300 * picture.height // 512
        left, top = draw.integers(picture.width - width), draw.integers(picture.height - height)
        part = picture.crop((left, top, left + width, top + height)).resize((500, 375))
        (folder / name).mkdir(exist_ok=True)
        part.save(folder / name / f"{number}.jpg", quality=90)


def ours(split: Split, recipe: AugmentRecipe, side: int, batch_size: int, workers: int) -> Iterator[Any]:
    """Batches without end, as a run gets them."""
    collate = Augmented(split.plain.mean, split.plain.std, recipe=recipe, classes=len(split.classes))
    feed = RowFeed(split.train, collate, WindowSize(batch_size, batch_size, (side, side)), workers=workers)
    for step in range(100_000):
        yield from feed.window(Moment(step, 100_000, 0))


def bare(data: Dataset, batch_size: int, workers: int) -> Iterator[Any]:
    """Batches without end, one epoch after another in one order."""
    sampler = RandomSampler(data, replacement=True, num_samples=100_000 * batch_size)
    yield from DataLoader(data, batch_size, sampler=sampler, num_workers=workers, worker_init_fn=leave_session)


def leave_session(worker: int) -> None:
    """As the workers of `RowFeed` do; on a busy machine, Linux shares its processors out by session."""
    os.setsid()


def compare(feeds: dict[str, Iterator[Any]], rounds: int, batches: int, ahead: int) -> dict[str, list[float]]:
    """Seconds for a batch in each block, the feeds taking turns.

    Args:
        feeds: by name.
        rounds: blocks of each.
        batches: of a block.
        ahead: batches that workers make while the other feed has its turn; they are taken before the clock starts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(rounds):
        for name in sorted(feeds, reverse=bool(number % 2)):
            for _ in range(ahead):
                next(feeds[name])
            start = time.perf_counter()
            for _ in range(batches):
                next(feeds[name])
            seconds[name].append((time.perf_counter() - start) / batches)
    return seconds


def main() -> None:
    """Write the comparison as JSON, and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25, help="blocks of each feed")
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/image_feed_cpu.json"))
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), options.files)
        files = load_split(ImagesRecipe(name="folder", path=folder, held_out=0.0, unreadable="trust"))
        digits = load_split(ImagesRecipe(name="mnist", held_out=0.0))
        crop, shift = AugmentRecipe(scale=(0.25, 1.0), flip=0.5), AugmentRecipe(shift=2, flip=0.5)
        cases = {
            "files, 224 pixels": (files, BareFiles(files, 224), crop, 224, 32, 2),
            "memory, 32 pixels": (digits, BareMemory(digits.train, digits, 32), shift, 32, 128, 10),
        }
        for name, (split, data, recipe, side, batch_size, batches) in cases.items():
            for workers in options.workers:
                feeds = {
                    "ours": ours(split, recipe, side, batch_size, workers),
                    "bare": bare(data, batch_size, workers),
                }
                seconds = compare(feeds, options.rounds, batches, ahead=2 * workers + 1)
                ratios = [bare / ours for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
                result = {
                    "case": name,
                    "workers": workers,
                    "batch_size": batch_size,
                    "images_per_second": {k: batch_size / statistics.median(v) for k, v in seconds.items()},
                    "ratio": statistics.median(ratios),
                    "quartiles": statistics.quantiles(ratios, n=4)[::2],
                }
                results.append(result)
                print(f"{name}, {workers} workers: ratio {result['ratio']:.2f} {result['quartiles']}")
                # Before the next workers are forked, which would find the old ones' iterators.
                del feeds
                gc.collect()
    options.output.write_text(json.dumps({"environment": describe(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
