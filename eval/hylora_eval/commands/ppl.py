# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ppl`: perplexity by context length."""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from hylora_eval.commands.model_options import (
    Attention,
    AttentionOption,
    Device,
    Dtype,
    Model,
    ModelOptions,
    Output,
    Overwrite,
    Revision,
    Rope,
)
from hylora_eval.commands.progress import progress_bars, reporter

__all__ = ["ppl"]


def ppl(
    model: Model,
    lengths: Annotated[list[int], typer.Option(help="Context lengths in tokens, one or several.")],
    data: Annotated[
        str, typer.Option(help="Text, JSON-lines or Parquet files, a folder of them, a hub id, or a .bin of tokens.")
    ],
    attention: Attention = "full",
    attention_option: AttentionOption = None,
    mode: Annotated[str, typer.Option(help="'chunks' (disjoint windows), 'sliding' or 'longlora'.")] = "chunks",
    stride: Annotated[
        int | None, typer.Option(help="Of overlapping windows; by default half the length, for longlora 256.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in one forward pass.")] = 1,
    text_field: Annotated[str, typer.Option(help="Field of a record that holds the text.")] = "text",
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    bin_dtype: Annotated[str | None, typer.Option(help="Of a .bin file: 'uint16' (default) or 'uint32'.")] = None,
    max_documents: Annotated[int | None, typer.Option(min=1, help="Stop after so many long enough documents.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Keep so many tokens of each document.")] = None,
    by_position: Annotated[bool, typer.Option("--by-position", help="Print perplexity by position as well.")] = False,
    output: Output = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
    rope: Rope = None,
) -> None:
    """Evaluate perplexity, print a table and write the result.

    All lengths read the same documents: those with at least the longest length, cut (under "chunks") to a multiple of
    it; under "longlora", which joins documents, all of them. The result is written anew after each length, so that an
    interruption loses only the length at hand.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # The command line reaches up to the evaluation package, but only when it is asked to evaluate.
    from hylora.language.data.recipe import SourceRecipe
    from hylora_eval.documents import DocumentSet, fingerprint, load_documents
    from hylora_eval.perplexity import perplexity
    from hylora_eval.results import check_output, save_result
    from hylora_eval.token_file import load_token_file
    from hylora_eval.windows import check_windows

    lengths = list(dict.fromkeys(lengths))
    for length in lengths:
        check_windows(length, mode, stride)
    options = ModelOptions(model, attention, attention_option, dtype, device, revision, rope)
    if output is not None:
        check_output(output, overwrite)
    is_token_file = data.endswith(".bin")
    if is_token_file and max_documents is not None:
        raise ValueError(f"--max-documents {max_documents}: {data!r} has no document boundaries; use --max-tokens")
    if not is_token_file and bin_dtype is not None:
        raise ValueError(f"--bin-dtype {bin_dtype!r} is for a .bin file of token ids, and {data!r} is none")
    tokenizer = None if is_token_file else options.load_tokenizer()
    source = SourceRecipe(data, text_field=text_field, subset=subset, split=split, max_documents=max_documents)

    with progress_bars() as progress:
        if is_token_file:
            bin_dtype = bin_dtype or "uint16"
            documents = DocumentSet([load_token_file(data, bin_dtype)[:max_tokens]], skipped=0)
        else:
            report = reporter(progress, "documents", max_documents)
            min_tokens = 1 if mode == "longlora" else max(lengths)
            documents = load_documents(source, tokenizer, min_tokens, max_tokens, report)
        tokens = [
            _whole_windows(document, max(lengths)) if mode == "chunks" else document for document in documents.tokens
        ]
        network = options.load_model()
        record = {
            **options.header("perplexity", network),
            "tokenizer": None if tokenizer is None else _describe_tokenizer(tokenizer),
            "data": {
                **vars(source),
                "bin_dtype": bin_dtype,
                "max_tokens": max_tokens,
                "documents": len(tokens),
                "documents_too_short": documents.skipped,
                "tokens_sha256": fingerprint(tokens),
            },
            "settings": {"lengths": lengths, "mode": mode, "stride": stride, "batch_size": batch_size},
            "results": [],
        }
        table = _table(attention, mode)
        try:
            for length in lengths:
                report = reporter(progress, f"length {length}")
                started = time.perf_counter()
                result = perplexity(network, tokens, length, mode, stride, batch_size, progress=report)
                seconds = time.perf_counter() - started
                _add_row(table, result, seconds)
                record["results"].append({**result.to_dict(), "seconds": round(seconds, 3)})
                if output is not None:
                    save_result(output, record)
        finally:
            # Also where a longer length ran out of memory, or the disk is full.
            if table.row_count:
                Console().print(table)
            if by_position and record["results"]:
                Console().print(_positions_table(record["results"]))


def _whole_windows(document: torch.Tensor, length: int) -> torch.Tensor:
    """Cut a document so that all lengths that divide the longest score the same text."""
    return document[: len(document) // length * length]


def _describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {"path": tokenizer.name_or_path, "vocabulary": len(tokenizer), "special_tokens": False}


def _table(attention: str, mode: str) -> Table:
    table = Table(title=f"Perplexity, {attention} attention, {mode}", title_justify="left")
    for heading in ("length", "perplexity", "nll", "documents", "tokens", "seconds"):
        table.add_column(heading, justify="right")
    return table


def _add_row(table: Table, result: Any, seconds: float) -> None:
    def with_error(value: float, error: float | None, digits: int) -> str:
        return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")

    table.add_row(
        str(result.length),
        with_error(result.perplexity, result.perplexity_standard_error, 3),
        with_error(result.nll, result.nll_standard_error, 4),
        str(result.documents),
        str(result.tokens),
        f"{seconds:.1f}",
    )


def _positions_table(results: list[dict[str, Any]]) -> Table:
    """Perplexity by position: a column for each length, a row for each bin."""
    table = Table(title="Perplexity by position within the window", title_justify="left")
    for result in results:
        table.add_column("positions", justify="right")
        table.add_column(f"length {result['length']}", justify="right")
    for parts in zip_longest(*(result["positions"] for result in results)):
        cells = [
            ("", "") if part is None else (f"{part['start']}-{part['stop'] - 1}", f"{part['perplexity']:.3f}")
            for part in parts
        ]
        table.add_row(*(text for cell in cells for text in cell))
    return table
