# SPDX-License-Identifier: Apache-2.0
"""`hylora eval`: evaluate a model."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typer.core import TyperCommand

from hylora.attention import SpanConfig, resolve_name
from hylora.attention.functions import FUNCTIONS
from hylora.cli.env import environment
from hylora.loading import check_exists, load, read_manifest
from hylora.manifest import RunManifest

__all__ = ["app", "ppl"]

app = typer.Typer(help="Evaluate a model.", no_args_is_help=True)

_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@app.callback()
def _commands() -> None:
    """Evaluate a model."""


class _VariadicLengths(TyperCommand):
    """Lets `--lengths 512 1024 2048` stand for one `--lengths` per number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        within = False
        for argument in args:
            another = within and argument.isdigit()
            if another and spread[-1] != "--lengths":
                spread.append("--lengths")
            within = another or argument.split("=")[0] == "--lengths"
            spread.append(argument)
        return super().parse_args(ctx, spread)


@app.command(cls=_VariadicLengths, help="Perplexity of long documents, by context length.")
def ppl(
    model: Annotated[str, typer.Option(help="A run's folder, a model folder or a hub id.")],
    lengths: Annotated[list[int], typer.Option(help="Context lengths in tokens, one or several.")],
    data: Annotated[str, typer.Option(help="Text, JSON-lines or Parquet files, a folder of them, or a hub id.")],
    attention: Annotated[str, typer.Option(help="'full', 'same' (as trained), or a name such as 'se_attn'.")] = "full",
    attention_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of that attention, e.g. top_k=4.")
    ] = None,
    mode: Annotated[str, typer.Option(help="'chunks' (disjoint windows) or 'sliding'.")] = "chunks",
    stride: Annotated[int | None, typer.Option(help="Of sliding windows; half the length by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in one forward pass.")] = 1,
    text_field: Annotated[str, typer.Option(help="Field of a record that holds the text.")] = "text",
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_documents: Annotated[int | None, typer.Option(min=1, help="Stop after so many long enough documents.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Keep so many tokens of each document.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, otherwise cpu.")] = None,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(_DTYPES)}; auto is the checkpoint's.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
) -> None:
    """Evaluate perplexity, print a table and write the result.

    All lengths read the same documents: those with at least the longest length, cut (under "chunks") to a multiple of
    it. The result is written anew after each length, so that an interruption loses only the length at hand.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # The command line reaches up to the evaluation package, but only when it is asked to evaluate.
    from hylora.training.data.recipe import SourceRecipe
    from hylora_eval.documents import fingerprint, load_documents
    from hylora_eval.perplexity import check_windows, perplexity
    from hylora_eval.results import check_output, save_result

    for length in lengths:
        check_windows(length, mode, stride)
    check_exists(model)
    manifest = read_manifest(model)
    options = _span_options(attention, attention_option or [], manifest)
    if dtype not in _DTYPES:
        raise ValueError(f"--dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    if output is not None:
        check_output(output, overwrite)
    device = _device(device)
    tokenizer = _tokenizer(model, manifest, revision)
    source = SourceRecipe(data, text_field=text_field, subset=subset, split=split, max_documents=max_documents)

    with _progress() as progress:
        report = _reporter(progress, "documents", max_documents)
        documents = load_documents(source, tokenizer, max(lengths), max_tokens, report)
        tokens = [
            _whole_windows(document, max(lengths)) if mode == "chunks" else document for document in documents.tokens
        ]
        name = None if attention == "same" else attention
        device_map = None if device == "cpu" else device
        network = load(model, name, dtype=dtype, device_map=device_map, revision=revision, **options)
        record = {
            "kind": "perplexity",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": _describe_model(model, manifest, network, device),
            "attention": _describe_attention(attention, network),
            "tokenizer": {"path": tokenizer.name_or_path, "vocabulary": len(tokenizer), "special_tokens": False},
            "data": {
                **vars(source),
                "max_tokens": max_tokens,
                "documents": len(tokens),
                "documents_too_short": documents.skipped,
                "tokens_sha256": fingerprint(tokens),
            },
            "settings": {"lengths": lengths, "mode": mode, "stride": stride, "batch_size": batch_size},
            "environment": environment(),
            "results": [],
        }
        table = _table(attention, mode)
        try:
            for length in lengths:
                report = _reporter(progress, f"length {length}")
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


def _whole_windows(document: torch.Tensor, length: int) -> torch.Tensor:
    """Cut a document so that all lengths that divide the longest score the same text."""
    return document[: len(document) // length * length]


def _span_options(attention: str, pairs: list[str], manifest: RunManifest) -> dict[str, Any]:
    """Check the attention's name and read its options, all before anything is loaded."""
    name = manifest.attention if attention == "same" else resolve_name(attention)
    if pairs and name not in FUNCTIONS:
        raise ValueError(f"--attention-option {pairs[0]!r}: {attention!r} attention is {name!r}, which has no options")
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--attention-option {pair!r} is not of the form KEY=VALUE, for example top_k=4")
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    SpanConfig.from_dict({**manifest.span_attention, **options})
    return options


def _device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device {device!r} is not a device: {error}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device!r}: no CUDA device is visible; leave it out to run on the CPU")
    return device


def _tokenizer(model: str, manifest: RunManifest, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer in a run's folder, or of its base model where the folder has none."""
    own = Path(model).is_dir() and (Path(model) / "tokenizer_config.json").is_file()
    name = model if own or manifest.base_model is None else manifest.base_model
    try:
        return AutoTokenizer.from_pretrained(name, revision=manifest.base_revision if name != model else revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {model!r}: no tokenizer could be loaded from {name!r}; give a run's folder, a model folder with "
            f"its tokenizer, or a hub id ({error})"
        ) from error


def _describe_model(path: str, manifest: RunManifest, model: torch.nn.Module, device: str) -> dict[str, Any]:
    return {
        "path": path,
        "base_model": manifest.base_model,
        "revision": manifest.base_revision or getattr(model.config, "_commit_hash", None),
        "training_attention": manifest.attention,
        "training_attention_options": manifest.span_attention,
        "training_context_length": manifest.context_length,
        "rope_parameters": getattr(model.config.get_text_config(), "rope_parameters", None),
        "dtype": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "device": device,
    }


def _describe_attention(asked: str, model: torch.nn.Module) -> dict[str, Any]:
    name = model.config._attn_implementation
    options = SpanConfig.of(model.config.get_text_config()).to_dict() if name in FUNCTIONS else {}
    return {"asked": asked, "name": name, "options": options}


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _reporter(progress: Progress, description: str, total: int | None = None) -> Callable[..., None]:
    """A new bar, and the function that moves it: called with what is done and, once known, the total."""
    task = progress.add_task(description, total=total)
    return lambda done, total=total: progress.update(task, completed=done, total=total)


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
