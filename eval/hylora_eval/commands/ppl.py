# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ppl`: perplexity by context length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Annotated

import typer
from rich.table import Table

from hylora.language.data.recipe import SourceRecipe
from hylora_eval.commands.frame import Evaluation, attention_of, evaluation_command, number_table, with_interval
from hylora_eval.estimates import cautions
from hylora_eval.results import Result
from hylora_eval.wording import number_of

__all__ = ["ppl"]


@evaluation_command(together=True)
def ppl(
    evaluation: Evaluation,
    lengths: Annotated[list[int], typer.Option(help="Context lengths in tokens, one or several.")],
    data: Annotated[
        str, typer.Option(help="Text, JSON-lines or Parquet files, a folder of them, a hub id, or a .bin of tokens.")
    ],
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
    bos: Annotated[bool, typer.Option("--bos", help="Put the tokenizer's BOS before every window.")] = False,
    by_position: Annotated[bool, typer.Option("--by-position", help="Print perplexity by position as well.")] = False,
) -> None:
    """Evaluate perplexity, print a table and write the result.

    All lengths read the same documents: those with at least the longest length, cut (under "chunks") to a multiple of
    it; under "longlora", which joins documents, all of them. The result is written anew after each length. With
    --output, losses are kept beside it as they are found, until all are: the same command goes on after an
    interruption.

    Raises:
        ValueError: on wrong input, before the model is loaded wherever that can be known.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    from hylora_eval.documents import DocumentSet, load_documents, load_token_file, tokens_sha256
    from hylora_eval.fingerprints import describe_tokenizer
    from hylora_eval.perplexity import perplexity
    from hylora_eval.windows import check_windows

    lengths = list(dict.fromkeys(lengths))
    longest = max(lengths)
    for length in lengths:
        check_windows(length, mode, stride)
    output = evaluation.output
    kept = None if output is None else output.with_name(output.name + ".windows.jsonl")
    evaluation.check_outputs(goes_on=kept is not None and kept.exists())
    is_token_file = data.endswith(".bin")
    if is_token_file and max_documents is not None:
        raise ValueError(f"--max-documents {max_documents}: {data!r} has no document boundaries; use --max-tokens")
    if not is_token_file and bin_dtype is not None:
        raise ValueError(f"--bin-dtype {bin_dtype!r} is for a .bin file of token ids, and {data!r} is none")
    tokenizer = None if is_token_file and not bos else evaluation.options.load_tokenizer()
    if bos and tokenizer.bos_token_id is None:
        raise ValueError(
            f"--bos: the tokenizer of {evaluation.options.model!r} has no BOS token; leave the option out"
        )
    source = SourceRecipe(data, text_field=text_field, subset=subset, split=split, max_documents=max_documents)

    with evaluation.progress() as bar, evaluation.shown(lambda result: _tables(result, by_position)):
        if is_token_file:
            bin_dtype = bin_dtype or "uint16"
            documents = DocumentSet([load_token_file(data, bin_dtype)[:max_tokens]], skipped=0)
        else:
            min_tokens = 1 if mode == "longlora" else longest
            documents = load_documents(source, tokenizer, min_tokens, max_tokens, bar("documents", max_documents))
        tokens = documents.tokens
        if mode == "chunks":
            # So that all lengths that divide the longest score the same text.
            tokens = [document[: len(document) // longest * longest] for document in tokens]
        model = evaluation.options.load_model()
        result = evaluation.start(
            "perplexity",
            model,
            tokenizer=None if is_token_file else {**describe_tokenizer(tokenizer), "special_tokens": False},
            data={
                **vars(source),
                "bin_dtype": bin_dtype,
                "max_tokens": max_tokens,
                "documents": len(tokens),
                "documents_too_short": documents.skipped,
                "tokens_sha256": tokens_sha256(tokens),
            },
            settings={
                "lengths": lengths,
                "mode": mode,
                "stride": stride,
                "batch_size": batch_size,
                "bos": tokenizer.bos_token_id if bos else None,
            },
            results=[],
        )
        if kept is not None and evaluation.overwrite and evaluation.processes.is_main:
            kept.unlink(missing_ok=True)
        for length in lengths:
            found = perplexity(
                model,
                tokens,
                length,
                mode,
                stride,
                batch_size,
                bos=result["settings"]["bos"],
                kept=kept,
                progress=bar(f"length {length}"),
                processes=evaluation.processes,
            )
            result["results"].append(found.to_dict())
            evaluation.save()
        if kept is not None and evaluation.processes.is_main:
            kept.unlink()


def _tables(result: Result, by_position: bool) -> Iterator[Table | str]:
    title = f"Perplexity, {attention_of(result)} attention, {result['settings']['mode']}"
    table = number_table(title, ("length", "perplexity, 95 %", "nll", "documents", "tokens", "seconds"))
    for row in result["results"]:
        table.add_row(
            str(row["length"]),
            with_interval(row["perplexity"], None if row["low"] is None else (row["low"], row["high"]), 3),
            f"{row['nll']:.4f}",
            str(row["documents"]),
            str(row["tokens"]),
            f"{row['seconds']:.1f}",
        )
    yield table
    too_short, settings = result["data"]["documents_too_short"], result["settings"]
    if too_short:
        least = 1 if settings["mode"] == "longlora" else max(settings["lengths"])
        yield f"Left out: {number_of(too_short, 'document')} of fewer than {number_of(least, 'token')}."
    if result["model"]["training_context_length"] is not None:
        yield "This is over windows, and training's held-out perplexity over its packed rows: the two differ a little."
    yield from dict.fromkeys(text for row in result["results"] for text in cautions(row))
    if by_position:
        headings = chain.from_iterable(("positions", f"length {row['length']}") for row in result["results"])
        table = number_table("Perplexity by position within the window", headings)
        for parts in zip_longest(*(row["positions"] for row in result["results"])):
            cells = (
                ("", "") if part is None else (f"{part['start']}-{part['stop'] - 1}", f"{part['perplexity']:.3f}")
                for part in parts
            )
            table.add_row(*chain.from_iterable(cells))
        yield table
