# SPDX-License-Identifier: Apache-2.0
"""What happens to a model in the course of its training, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from hylora.training.moment import Moment

__all__ = ["Method"]


class Method:
    """Something that changes or watches training: pruning, growth, an average of weights, a signal.

    What a method schedules or draws must be a function of the moment (`Moment.progress`, `Moment.generator`), of the
    model's state, and of what `state` gives, so that a resumed run is the run that was not interrupted.

    Attributes:
        name: of its state in checkpoints, no other method's; needed only where there is some.
    """

    name: str = ""

    def begin(self, moment: Moment) -> bool:
        """Prepare an update: set resolution, sparsity, phase or depth.

        It may be called again at the same moment, and when a run is resumed it is called on the model as it was built,
        before the checkpoint is loaded: what it does to the model's structure must follow from the moment alone.

        Returns:
            Whether parameters were added, replaced, removed, frozen or thawed, or forward passes will change other
            buffers than before. The loop then builds the optimizer anew and carries the state of every parameter that
            kept its name; one that grew is taken to hold its former values in its leading corner.
        """
        return False

    def forgotten(self, moment: Moment) -> Iterable[nn.Parameter]:
        """Parameters of which the optimizer forgets what it has gathered before this update: momentum and the like.

        Called after `begin`. Each then is to the optimizer as it was in the first update.
        """
        return ()

    def gradients(self, accumulate: Callable[[], Tensor]) -> Tensor:
        """Leave the update's gradients in the parameters.

        Args:
            accumulate: runs the window forward and backward, adding to the gradients, and gives this process's summed
                loss. Methods that look at the loss elsewhere too (SAM, CrAM) call it several times. The first call
                may end the run by an exception: change no weight before it.

        Returns:
            The summed loss to report.
        """
        return accumulate()

    def end(self, moment: Moment) -> None:
        """Finish an update, after the optimizer's step: put masks back on, for example."""

    def rate(self, moment: Moment, factor: float) -> float:
        """The factor on all learning rates in an update.

        Args:
            moment: of the update.
            factor: as the recipe's schedule and the methods before have it.
        """
        return factor

    def scheduled(self, moment: Moment) -> dict[str, float]:
        """What is scheduled or was measured, by name, for the record of the update."""
        return {}

    def noteworthy(self, moment: Moment) -> bool:
        """Whether an update is to be on record whatever `tracking.every` says: what it measured is seldom measured."""
        return False

    def state(self) -> dict[str, Any] | None:
        """What the next updates depend on besides the moment and the model, as plain JSON values; None for nothing.

        It is what `end` left. Tensors belong into buffers of the model.
        """
        return None

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; called before `begin` when a run is resumed."""
