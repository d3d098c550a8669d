# SPDX-License-Identifier: Apache-2.0
"""`hylora generate`: text from a model, at the cost of what its attention reads."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import filesize

from hylora.architecture import continues_by_pieces
from hylora.attention.names import PLUG_INS, resolve_name
from hylora.cli.model_options import ModelOptions, options_of, with_options

__all__ = ["generate"]


def _generate(
    options: ModelOptions,
    prompt: Annotated[str | None, typer.Option(help="The text to continue.")] = None,
    prompt_file: Annotated[str | None, typer.Option(help="A file that holds it; - for standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of sampling.")] = 0,
    prefill_chunk_size: Annotated[
        int | None, typer.Option(min=1, help="Read the prompt in pieces of so many tokens, to save memory.")
    ] = None,
    full_cache: Annotated[
        bool, typer.Option("--full-cache", help="Let new tokens attend to all before them, as evaluations do.")
    ] = False,
    offload: Annotated[bool, typer.Option("--offload", help="Keep keys and values in the host's memory.")] = False,
) -> None:
    """Continue a text, and print it as it comes.

    Under `se_attn` every token reads its chunk and the blocks that it retrieves, through a `SpanCache`. Standard error
    tells the speed and what the cache holds.

    Raises:
        ValueError: on wrong input, before the model is loaded, and for pieces of a prompt that the model would forget.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    from transformers import DynamicCache, set_seed

    from hylora.generation.cache import SpanCache, bytes_held
    from hylora.generation.clock import Clock
    from hylora.generation.time_steps import bound_time_steps
    from hylora.runs.tokenizer import check_vocabulary

    name = resolve_name(options.attention_name)
    spans = name == "se_attn" and not full_cache
    if offload and not spans:
        raise ValueError(
            "--offload is for a SpanCache, which goes with --attention se_attn or se_attn_recall, and without "
            "--full-cache"
        )
    if prefill_chunk_size is not None and name in PLUG_INS and not spans:
        raise ValueError(
            f"--prefill-chunk-size {prefill_chunk_size}: with a full cache, pieces behind the first would attend to "
            f"all before them, and not as {name!r} does; leave it out"
        )
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"--temperature {temperature} must be at least 0, and finite")
    if not 0 < top_p <= 1:
        raise ValueError(f"--top-p {top_p} must be above 0 and at most 1")
    if top_p < 1 and temperature == 0:
        raise ValueError(f"--top-p {top_p} is for sampling; give a --temperature above 0, for example 0.7")
    text = _read_prompt(prompt, prompt_file)
    tokenizer = options.load_tokenizer()
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    length = inputs["input_ids"].shape[1]
    if length == 0:
        raise ValueError("the prompt has no tokens; give some text")

    model = options.load_model()
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings)
    if prefill_chunk_size is not None and not continues_by_pieces(model.config):
        raise ValueError(
            f"--prefill-chunk-size {prefill_chunk_size}: the recurrent layers of {model.config.model_type!r} forget "
            "their state between pieces; leave it out"
        )
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {"do_sample": False}
    if spans:
        cache = SpanCache(model.config, capacity=length + max_new_tokens, offload=offload)
    else:
        cache = DynamicCache(config=model.config)
    clock = Clock(tokenizer)
    set_seed(seed)
    with bound_time_steps(model):
        model.generate(
            **inputs.to(options.device),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            prefill_chunk_size=prefill_chunk_size,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            streamer=clock,
            **sampling,
        )
    kind, held = "SpanCache" if spans else "full cache", filesize.decimal(bytes_held(cache))
    print(f"{length} tokens read, {clock.report()}; a {kind} of {held}", file=sys.stderr)


def _read_prompt(prompt: str | None, file: str | None) -> str:
    if (prompt is None) == (file is None):
        raise ValueError("give the text to continue either as --prompt or as --prompt-file")
    if file is None:
        return prompt
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")


_MODEL, *_REST = options_of(ModelOptions, attention="same")
_MODEL = _MODEL.replace(
    annotation=Annotated[str, typer.Argument(metavar="MODEL", help="A run's folder, a model folder or a hub id.")]
)


@wraps(_generate)
def generate(**values: Any) -> None:
    """`_generate`, with the options about the model as its own."""
    options = ModelOptions(**{option.name: values.pop(option.name) for option in (_MODEL, *_REST)})
    _generate(options, **values)


with_options(generate, [_MODEL, *options_of(_generate, ("options",)), *_REST])
