# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe that are about sparse networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hylora.training.fields import check_choice, check_range
from vision_extras.masks import Scope, check_level
from vision_extras.sparse.compression import bits_of, check_compression, share_range

__all__ = ["CramRecipe", "OneShotRecipe", "SparseRecipe"]


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """Training in which weights are gone for a part of it, by phases of whole epochs.

    `alternating` is AC/DC (chapter 3 of the thesis on sparse networks): dense first, then sparse and dense phases in
    turn, a long dense one, and a sparse one to the end. `gradual` is dense first, then more and more of the weights go
    for good, as the cubic of Zhu and Gupta has it. `fixed` keeps to the zeros that the network begins with, as when a
    sparse one is finetuned.

    Args:
        schedule: one of these, or none.
        sparsity: the share of the weights that goes, or a pattern: "2:4" for two of each four.
        scope: of a share: all weights together (`global`), each tensor (`local`), or by Erdős–Rényi (`erk`).
        keep: modules whose weights stay, by name; `first` and `last` for the ends.
        warmup: dense epochs before the first sparse one.
        sparse: epochs of a sparse phase; of `gradual`, from one rise to the next.
        dense: epochs of a dense phase between sparse ones.
        last_dense: epochs of the last dense phase.
        last_sparse: epochs of the last sparse phase, which gets those too that are left over; or of `gradual` at its
            full sparsity.
        finish: `dense` trains the last phase dense instead, which finetunes the dense outcome.
        fresh_momentum: whether the optimizer forgets at the beginning of a dense phase what it has gathered.
    """

    schedule: Literal["none", "alternating", "gradual", "fixed"] = "none"
    sparsity: float | str = 0.9
    scope: Scope = "global"
    keep: tuple[str, ...] = ()
    warmup: int = 10
    sparse: int = 5
    dense: int = 5
    last_dense: int = 10
    last_sparse: int = 15
    finish: Literal["sparse", "dense"] = "sparse"
    fresh_momentum: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "schedule", "scope", "finish")
        check_level(self.sparsity)
        check_range(self, "warmup", "last_dense", least=0)
        check_range(self, "sparse", "dense", "last_sparse", least=1)


@dataclass(frozen=True, kw_only=True)
class CramRecipe:
    """Updates that are aware of a compression to come (CrAM, chapter 5 of the thesis on sparse networks).

    An update takes a second gradient where the weights are compressed, at the price of a second pass.

    Args:
        update: `cram` moves up the gradient and compresses there; `csam` compresses, takes a gradient, moves up by its
            direction, and compresses again; `topk` compresses where the weights are.
        levels: of which one is drawn in each update: shares of weights that go, patterns such as "2:4", ranges of
            shares such as "0.3-0.9", or "4bit" for weights of so many bits.
        radius: by how much of the gradient weights move up (rho); of `csam`, how far.
        plus: whether the gradient at the weights themselves is added to that of the compressed ones.
        masked: whether the gradient at compressed weights is zero where they are gone.
        scope: of a share, as in `sparse.scope`.
        keep: modules that are not compressed, as in `sparse.keep`.
        mask_every: a level's mask is made anew each time that it has been drawn so often.
        plain: share of updates, at random, that are ordinary ones.
    """

    update: Literal["none", "cram", "csam", "topk"] = "none"
    levels: tuple[float | str, ...] = (0.5, 0.7, 0.9)
    radius: float = 0.05
    plus: bool = True
    masked: bool = True
    scope: Scope = "global"
    keep: tuple[str, ...] = ()
    mask_every: int = 1
    plain: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "update", "scope")
        check_range(self, "radius", least=0)
        check_range(self, "mask_every", least=1)
        check_range(self, "plain", least=0, below=1)
        if self.update != "none" and not self.levels:
            raise ValueError("levels=() must have one at least")
        _check_levels(level for level in self.levels if share_range(level) is None)
        for level in self.levels:
            if self.mask_every > 1 and (share_range(level) is not None or bits_of(level) is not None):
                raise ValueError(f"mask_every={self.mask_every} keeps masks, and level={level!r} has none to keep")
        if self.update == "csam" and (self.plus or self.mask_every > 1):
            raise ValueError(
                f"update='csam' takes no pass at the weights themselves, and makes two masks in an update; set "
                f"plus={self.plus} to false and mask_every={self.mask_every} to 1"
            )

    @property
    def passes(self) -> float:
        """How many an update takes on the average, of which an ordinary one has one."""
        if self.update == "none" or (self.update == "topk" and not self.plus):
            return 1.0
        return 2.0 - self.plain


@dataclass(frozen=True, kw_only=True)
class OneShotRecipe:
    """How the trained network stands being compressed at once, without further training.

    Args:
        levels: shares of weights that go, patterns such as "2:4", or "4bit"; measured one after another.
        scope: of a share, as in `sparse.scope`.
        keep: modules that are not compressed, as in `sparse.keep`.
        calibration: images of the training set on which the statistics of batch norms are taken anew; 0 for not.
        passes: of 128 of those images, changed at random as in training.
    """

    levels: tuple[float | str, ...] = ()
    scope: Scope = "global"
    keep: tuple[str, ...] = ()
    calibration: int = 1000
    passes: int = 100

    def __post_init__(self) -> None:
        check_choice(self, "scope")
        check_range(self, "calibration", least=0)
        check_range(self, "passes", least=1)
        _check_levels(self.levels)


def _check_levels(levels: Iterable[float | str]) -> None:
    for level in levels:
        try:
            check_compression(level)
        except ValueError as error:
            raise ValueError(f"levels: {error}") from error
