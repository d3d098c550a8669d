# SPDX-License-Identifier: Apache-2.0
"""`hylora.train` sharded over processes that have no GPUs: `python -m tests.sharded recipe.yaml ...`.

accelerate shards over accelerators alone. Here it is told that the CPUs are some, with gloo between them; all that
follows is what it does on GPUs, by the settings of the environment that `accelerate launch` makes of a config file.
"""

from __future__ import annotations

import os
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from hylora.train import main

if __name__ == "__main__":
    PartialState(cpu=True)
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    kind = DistributedType.DEEPSPEED if deepspeed else DistributedType.MULTI_GPU
    PartialState._shared_state["distributed_type"] = kind
    sys.exit(main())
