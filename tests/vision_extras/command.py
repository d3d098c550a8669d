# SPDX-License-Identifier: Apache-2.0
"""`python -m hylora.train`, with the task of this source tree whatever is installed.

With `--stop-at N` as the last arguments, the first process gets a signal before its n-th forward pass.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys

from hylora import train
from tests.vision_extras.small import before_pass
from vision_extras.run import TASK, make_task


def main() -> int:
    *arguments, flag, number = sys.argv[1:]
    if flag != "--stop-at":
        arguments, number = sys.argv[1:], 0

    def make(recipe, accelerator):
        task = make_task(recipe, accelerator)
        if accelerator.is_main_process:
            before_pass(int(number), lambda: os.kill(os.getpid(), signal.SIGTERM))(task)
        return task

    train.find_task = lambda tree: dataclasses.replace(TASK, make=make)
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
