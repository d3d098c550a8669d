# SPDX-License-Identifier: Apache-2.0
"""The command line for programs that have `hylora` loaded anyway; the installed command starts in `hylora_cli`."""

from hylora_cli import build_app, main

__all__ = ["build_app", "main"]
