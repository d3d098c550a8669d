# SPDX-License-Identifier: Apache-2.0
"""How good a subspace is at each of its levels, and how good with the weights of other levels (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.nn.utils import parametrize

from vision_extras.batch_norms import recalibrate
from vision_extras.copies import restored
from vision_extras.subspaces.compression import Compression
from vision_extras.subspaces.subspace import CompressibleSubspace

__all__ = ["curve", "level_name", "measured_levels", "standing"]

# Those of tables 3.2 (widths), 3.4 and 3.5 (sparsities) and 3.6 (bits).
_TABLED: Mapping[str, Sequence[float]] = {
    "sparsity": (0.5, 0.875, 0.925, 0.95, 0.97, 0.975, 0.98, 0.985, 0.99),
    "width": (0.75, 0.625, 0.5, 0.375),
    "bits": (7, 6, 5, 4),
}


def measured_levels(compression: Compression, chosen: Sequence[float] = ()) -> tuple[float, ...]:
    """The levels at which a subspace is measured, from the weakest to the strongest.

    Args:
        compression: of the subspace.
        chosen: some of its levels; empty for both ends and those between them that the thesis's tables have.
    """
    weakest, strongest = compression.weakest, compression.strongest
    low, high = sorted((weakest, strongest))
    tabled = (level for level in _TABLED.get(compression.name, ()) if low < level < high)
    return tuple(sorted(set(chosen or (weakest, *tabled, strongest)), reverse=weakest > strongest))


def level_name(level: float) -> str:
    """A level as results have it for a key."""
    return f"{level:.12g}"


@contextmanager
def standing(subspace: CompressibleSubspace, level: float, alpha: float | None = None) -> Iterator[None]:
    """Go to a level; inside the block weights are computed once, and so may not be changed.

    Args:
        subspace: that goes, and stays there after the block.
        level: of its compression.
        alpha: the point of the line; None for the one that the level belongs to.
    """
    subspace.move(subspace.compression.alpha(level) if alpha is None else alpha, level)
    with parametrize.cached():
        yield


def curve(
    subspace: CompressibleSubspace,
    levels: Sequence[float],
    evaluate: Callable[[], Mapping[str, float]],
    images: Sequence[Tensor] = (),
) -> dict[str, dict[str, float]]:
    """The loss and the accuracy at some levels; afterwards the subspace is at its accurate end.

    For a line also the accuracy of the line reversed (section 3.3.4): at each level, that of the weights which belong
    to the level mirrored in the middle of the range.

    Args:
        subspace: in evaluation mode.
        levels: of its compression, from the weakest to the strongest.
        evaluate: gives `loss` and `accuracy` of the subspace as it stands, and `drift` where it has batch norms. If
            there are several processes, each calls this with the same levels.
        images: batches [B, C, H, W] that batch norms are calibrated on, on any device; the same in every process.

    Returns:
        By `level_name`: `alpha`, `loss`, `accuracy`; for a line `reversed_accuracy`; with batch norms `drift`, and
        `recalibrated_accuracy`, that after their statistics were taken anew at the level (section 3.2.5).
    """
    compression, found = subspace.compression, {}
    device = next(subspace.parameters()).device
    ends = compression.alpha(compression.weakest) + compression.alpha(compression.strongest)
    for level in reversed(levels):
        alpha = compression.alpha(level)
        at_level: dict[str, float] = {"alpha": alpha}
        if subspace.is_line:
            with standing(subspace, level, ends - alpha):
                at_level["reversed_accuracy"] = evaluate()["accuracy"]
        with standing(subspace, level):
            measured = evaluate()
            at_level |= {name: measured[name] for name in ("loss", "accuracy", "drift") if name in measured}
            if "drift" in measured and images:
                with restored(dict(subspace.named_buffers())):
                    recalibrate(subspace, (batch.to(device) for batch in images))
                    at_level["recalibrated_accuracy"] = evaluate()["accuracy"]
        found[level_name(level)] = at_level
    subspace.at_level(compression.weakest)
    return dict(reversed(found.items()))
