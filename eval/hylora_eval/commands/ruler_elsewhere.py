# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ruler-generate` and `ruler-score`: RULER for models that run in vLLM, SGLang, TGI or behind an API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hylora.environment import environment
from hylora.runs.whereabouts import read_manifest
from hylora_eval.commands.frame import Evaluation, Overwrite
from hylora_eval.commands.ruler import ruler_tables
from hylora_eval.commands.ruler_options import Drawing, with_drawing
from hylora_eval.results import Result, check_output

if TYPE_CHECKING:
    from hylora_eval.ruler import Record

__all__ = ["generate", "score"]

KIND = "ruler prompts"


@with_drawing
def generate(
    tokenizer: Annotated[str, typer.Option(help="The model's: a run's folder, a model folder or a hub id.")],
    output: Annotated[Path, typer.Option(help="Where to write the prompts, as JSON lines.")],
    drawing: Drawing,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write RULER's prompts for a model that runs elsewhere, and beside them what they are.

    Raises:
        ValueError: on wrong input, before a prompt is drawn.
    """
    from hylora.runs.tokenizer import find_tokenizer
    from hylora_eval import ruler as benchmark
    from hylora_eval.fingerprints import describe_tokenizer
    from hylora_eval.ruler.elsewhere import write_prompts

    for path in (output, _beside(output)):
        check_output(path, overwrite)
    reader = find_tokenizer(tokenizer, read_manifest(tokenizer, revision), revision)
    evaluation = Evaluation(None)
    drawing.check(reader, cache(evaluation.note))

    def samples() -> Iterator[tuple[int, list[Record]]]:
        for length in drawing.lengths:
            with evaluation.progress() as bar:
                for name in drawing.names:
                    move = bar(f"{length} {name}", drawing.samples)
                    yield (
                        length,
                        benchmark.generate(name, reader, length, drawing.samples, **drawing.options, progress=move),
                    )

    written = write_prompts(output, samples())
    about = Result(
        kind=KIND,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        tokenizer=describe_tokenizer(reader),
        settings=drawing.settings(reader),
        prompts=written,
    )
    about.save(_beside(output))
    print(f"{output}: {written} prompts, each `input` followed by `answer_prefix`")


def score(
    prompts: Annotated[Path, typer.Option(help="What ruler-generate wrote.")],
    predictions: Annotated[
        list[Path], typer.Option(help="JSON lines with 'index' and 'pred', or what the official program writes.")
    ],
    model: Annotated[str, typer.Option(help="What results call the model; a run's folder says how it was trained.")],
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score answers to RULER's prompts, print a table and write the result that `hylora eval ruler` would write.

    Raises:
        ValueError: if a prediction is missing, doubled or to another prompt, or a file is of another form.
        OSError: if a file cannot be read.
    """
    from hylora_eval.ruler.elsewhere import score_answers

    if output is not None:
        check_output(output, overwrite)
    about = Result.parse(_beside(prompts).read_bytes()) if _beside(prompts).is_file() else None
    if about is None or about.kind != KIND:
        raise ValueError(
            f"beside {str(prompts)!r} there must be {_beside(prompts).name!r}, which `hylora eval ruler-generate` "
            "writes; keep the two together"
        )
    found = score_answers(prompts, predictions)
    scored = sum(len(task.scores) for length in found for task in length.tasks.values())
    if scored != (written := about.pick("prompts", kind=int)):
        raise ValueError(f"{str(prompts)!r} holds {scored} prompts, and {written} were written; copy it whole")
    manifest = read_manifest(model) if Path(model).is_dir() else None
    result = Result(
        kind="ruler",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model={
            "path": model,
            "base_model": manifest and manifest.base_model,
            "training_attention": manifest and manifest.attention,
            "training_attention_options": manifest and manifest.span_attention,
            "training_context_length": manifest and manifest.context_length,
        },
        # Other programs know no other.
        attention={"asked": "full", "name": "full", "options": {}},
        environment=environment(),
        tokenizer=about.pick("tokenizer", kind=dict),
        settings={**about.pick("settings", kind=dict), "predictions": list(map(str, predictions))},
        results=[row for length in found for row in length.task_rows()],
        averages=[row for length in found for row in length.average_rows()],
    )
    if output is not None:
        result.save(output)
    for table in ruler_tables(result):
        Console().print(table)


def _beside(prompts: Path) -> Path:
    """Where it stands what a file of prompts is."""
    return prompts.with_name(prompts.name + ".about.json")
