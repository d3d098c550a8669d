# SPDX-License-Identifier: Apache-2.0
"""`python -m hylora.train`, with the task of this source tree whatever is installed."""

from __future__ import annotations

import sys

from hylora import train
from vision_extras.run import TASK

if __name__ == "__main__":
    train.find_task = lambda tree: TASK
    sys.exit(train.main())
