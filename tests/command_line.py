# SPDX-License-Identifier: Apache-2.0
"""The `hylora` command line within the process of a test."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner, Result

from hylora_cli import build_app

__all__ = ["run"]


def run(*arguments: Any, **settings: Any) -> Result:
    """What a command came to.

    Args:
        *arguments: words behind `hylora`; anything else counts by its string.
        **settings: of `CliRunner.invoke`.
    """
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words), words, **settings)
