# SPDX-License-Identifier: Apache-2.0
"""Whether one result is better than another: differences from the same documents and the same samples.

`paired` has the estimates, `matching` finds what two results share, `runs` reads results, and `table` lays several
against a baseline. Plain Python: nothing here imports torch.
"""

from hylora_eval.compare.matching import Compared, Unpaired, differences
from hylora_eval.compare.paired import (
    LEVEL,
    Difference,
    holm,
    paired_average,
    paired_ratio,
    paired_scores,
    right_and_wrong,
)

__all__ = [
    "LEVEL",
    "Compared",
    "Difference",
    "Unpaired",
    "differences",
    "holm",
    "paired_average",
    "paired_ratio",
    "paired_scores",
    "right_and_wrong",
]
