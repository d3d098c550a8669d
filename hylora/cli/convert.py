# SPDX-License-Identifier: Apache-2.0
"""`hylora convert`: checkpoints of other formats, made loadable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["COMMANDS", "mamba2attn"]

# As in `hylora_cli`: name -> (module, attribute, one line of help).
COMMANDS = {
    "mamba2attn": (
        __name__,
        "mamba2attn",
        "An original checkpoint such as state-spaces/mamba2attn-2.7b.",
    ),
}
_TOKENIZER = "EleutherAI/gpt-neox-20b"


def mamba2attn(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder with the original config.json and weights.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Folder to create.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default the checkpoint's.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Size of a file of weights.")] = "2GB",
) -> None:
    """Convert state-spaces/mamba2attn-2.7b, or another checkpoint of mamba_ssm with layers of the same kinds."""
    if not Path(source).is_dir():
        raise FileNotFoundError(f"{source!r} is no folder; give the one of the checkpoint, downloaded")
    # What is missing shows before the seconds that this takes to import.
    from hylora.models.mamba2attn.conversion import convert

    done = convert(source, target, dtype=dtype, max_shard_size=max_shard_size)
    attention = done.config.layer_types.count("hybrid")
    print(
        f"{target}: {done.parameters:,} parameters in {str(done.dtype).removeprefix('torch.')}, "
        f"{len(done.config.layer_types)} layers of which {attention} attend, {len(done.files)} file(s)"
    )
    if not done.has_tokenizer:
        print(
            f"{source} holds no tokenizer; the model was trained with that of {_TOKENIZER}, to be saved beside it:\n"
            f'  python -c "from transformers import AutoTokenizer; '
            f"AutoTokenizer.from_pretrained('{_TOKENIZER}').save_pretrained('{target}')\""
        )
