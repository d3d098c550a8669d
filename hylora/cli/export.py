# SPDX-License-Identifier: Apache-2.0
"""`hylora export`: a run as an ordinary model."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["export"]


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or hub id.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="Folder to create.")],
    revision: Annotated[str | None, typer.Option(help="Revision of a run on the hub.")] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto is that of the base's checkpoint.")
    ] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a file of weights.")] = "5GB",
) -> None:
    """Merge a run and write it as a model that transformers loads without hylora."""
    from hylora.runs.whereabouts import find_folder

    find_folder(run, revision)
    # A run that is not there shows before the seconds that this takes to import.
    from hylora.runs.export import export as write

    model = write(run, destination, revision=revision, dtype=dtype, max_shard_size=max_shard_size)
    print(
        f"{destination}: {type(model).__name__}, {model.num_parameters():,} parameters in "
        f"{str(model.dtype).removeprefix('torch.')}. README.md says what runs it, and with which attention."
    )
    if type(model).__module__.startswith("hylora."):
        print(f"transformers alone has no class for {model.config.model_type!r}: this model needs hylora.")
