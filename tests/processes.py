# SPDX-License-Identifier: Apache-2.0
"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.pages import ROOT

__all__ = ["command", "environment", "launch", "launch_environment"]


def command(processes: int, *arguments: Any) -> list[str]:
    """The call of `python ARGUMENTS` in some processes that work together."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for processes with a thread each, to which the source tree can be imported from anywhere."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    common = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": paths}
    return {**os.environ, **common, **(variables or {"ACCELERATE_USE_CPU": "true"})}


def launch(
    processes: int, *arguments: Any, folder: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run `python ARGUMENTS` in some processes that work together on the CPU, with a thread each; it must succeed.

    Args:
        processes: how many.
        *arguments: `-m` and a module, or a file, and its own arguments.
        folder: to run in.
        variables: of the environment; those for processes connected as DDP connects them, if not given.
    """
    done = subprocess.run(
        command(processes, *arguments),
        cwd=folder,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def launch_environment(config: Path) -> dict[str, str]:
    """The variables that `accelerate launch` makes of a configuration file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    arguments = launch_command_parser().parse_args(["--config_file", str(config), "program.py"])
    arguments, file, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(file.deepspeed_config)
    prepared = prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    prefixes = ("ACCELERATE_", "FSDP_", "PARALLELISM_", "MEGATRON_")
    return {name: value for name, value in prepared.items() if name.startswith(prefixes)}
