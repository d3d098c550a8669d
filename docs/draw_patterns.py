# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/patterns.png: which keys each query reads, as computed by the functions themselves.

Run from the repository's root: `python docs/draw_patterns.py`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap

from hylora_kernels import shifted_sparse_attention, sliding_window_attention, span_attention

LENGTH, CHUNK, BLOCK = 96, 24, 4
COLORS = ListedColormap(["#f4f4f2", "#33658a", "#f26419"])


def read_by(attention, **options) -> torch.Tensor:
    """[L, L] bool: where the second head's output depends on the value of a key."""
    generator = torch.Generator().manual_seed(4)
    query, key = (torch.randn(1, 2, LENGTH, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    # One-hot values make the output of a query its row of attention weights.
    value = torch.eye(LENGTH, dtype=torch.float64).expand(1, 2, LENGTH, LENGTH)
    weights = []
    for start in range(0, LENGTH, 16):
        weights.append(attention(query, key, value[..., start : start + 16].contiguous(), **options)[0, 1])
    return torch.cat(weights, dim=-1) > 0


def main() -> None:
    """Draw the patterns side by side."""
    # The summary in key space does not depend on the slice of values that is looked at.
    span = {"chunk_size": CHUNK, "block_size": BLOCK, "top_k": 3, "summary": "mean_key"}
    panels = {
        "full attention": read_by(span_attention, chunk_size=LENGTH),
        "sliding window (sw_attn)": read_by(sliding_window_attention, window=CHUNK),
        "shifted sparse, second head (s2_attn)": read_by(shifted_sparse_attention, group=CHUNK),
        "span-expanded, a chunk chooses": read_by(span_attention, **span),
        "span-expanded, each token chooses": read_by(span_attention, selection="token", **span),
    }
    chunk = torch.arange(LENGTH) // CHUNK
    figure, axes = plt.subplots(1, len(panels), figsize=(17, 3.9))
    for axis, (title, mask) in zip(axes, panels.items(), strict=True):
        image = mask.int()
        if title.startswith("span"):
            image[mask & (chunk[:, None] != chunk)] = 2
        axis.imshow(image, cmap=COLORS, vmin=0, vmax=2, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("key")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel("query")
    figure.text(0.5, 0.01, "orange: memory blocks retrieved into the expansion span", ha="center", color="#c24e10")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path = Path(__file__).parent / "images/patterns.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
