# SPDX-License-Identifier: Apache-2.0
"""`hylora eval runtime`: time and memory of attention by context length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hylora.attention.config import SpanConfig
from hylora.attention.names import PLUG_INS, resolve_name
from hylora_eval.commands.frame import Evaluation, evaluation_command, number_table, with_interval
from hylora_eval.commands.model_options import AttentionOption, ModelOptions
from hylora_eval.results import Result
from hylora_eval.runtime.picture import check_plotting, draw

if TYPE_CHECKING:
    from torch import nn

__all__ = ["runtime"]

_PARTS = ("attention", "model")


@evaluation_command(leave_out=("attention", "attention_option", "rope"))
def runtime(
    evaluation: Evaluation,
    lengths: Annotated[list[int], typer.Option(help="Context lengths in tokens, one or several.")],
    attentions: Annotated[
        str, typer.Option(help="Names, separated by commas, that take turns.")
    ] = "full,sw_attn,s2_attn,se_attn",
    attention_option: AttentionOption = None,
    part: Annotated[str, typer.Option(help="'attention' (the function alone) or 'model' (all of it).")] = "attention",
    works: Annotated[
        str, typer.Option(help="Of forward, forward+backward and decode, separated by commas.")
    ] = "forward,forward+backward,decode",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed; 6 give intervals.")] = 6,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them that are not.")] = 1,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded in a round (part 'model').")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 1,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Take only the shapes of the model: its config is enough.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Where to draw time and memory, for example runtime.png.")] = None,
) -> None:
    """Time attentions against each other, print a table and write the result.

    The result is written anew after each length, so that an interruption loses only the length at hand.

    Raises:
        ValueError: on wrong input, before anything is timed.
    """
    # Here, so that options are listed and refused without the seconds that these take to import.
    import torch

    from hylora.attention.switch import check_attention
    from hylora_eval.runtime.rounds import measure
    from hylora_eval.runtime.workloads import WORKS, AttentionWorkload, ModelWorkload, options_under

    lengths = list(dict.fromkeys(lengths))
    names, chosen = _names(attentions), [work.strip() for work in works.split(",")]
    for work in chosen:
        if work not in WORKS:
            raise ValueError(f"--works {work!r} must be one of {', '.join(WORKS)}")
    if part not in _PARTS:
        raise ValueError(f"--part {part!r} must be one of {', '.join(map(repr, _PARTS))}")
    if min(lengths) < 2:
        raise ValueError(f"--lengths {min(lengths)} must be at least 2")
    # Options belong to the plug-ins; without one of those, the first attention says that it takes none.
    subject = next((name for name in names if name in PLUG_INS), names[0])
    options = evaluation.options = replace(evaluation.options, attention=subject, attention_option=attention_option)
    span = SpanConfig.from_dict({**options.manifest.span_attention, **options.span_options})
    evaluation.check_outputs(plot)
    if plot is not None:
        check_plotting(plot)

    random_weights = random_weights or part == "attention"
    model = _random_model(options, part) if random_weights else options.load_model(trainable=True)
    for name in names:
        check_attention(model.config, name, options_under(name, span))
    device = torch.device(options.device)
    if part == "model":
        workload = ModelWorkload(model, span, batch_size, decode_tokens)
    else:
        workload = AttentionWorkload(model, span, model.dtype, device, batch_size)

    result = evaluation.start(
        "runtime",
        model,
        attention=None,
        settings={
            "lengths": lengths,
            "attentions": names,
            "attention_options": span.to_dict(),
            "part": part,
            "works": chosen,
            "rounds": rounds,
            "warmup": warmup,
            "decode_tokens": workload.decode_tokens,
            "batch_size": batch_size,
            "random_weights": random_weights,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "parameters_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "clock": "CUDA events" if device.type == "cuda" else "wall clock",
            "memory": "CUDA allocator" if device.type == "cuda" else "tensors alive",
        },
        results=[],
    )
    with evaluation.shown(lambda found: _tables(found, device.type)), evaluation.progress() as bar:
        for work in chosen:
            for length in lengths:
                timings = measure(
                    lambda name, length, work=work: workload.prepare(work, name, length),
                    names,
                    length,
                    device=device,
                    rounds=rounds,
                    warmup=warmup,
                    repetitions=workload.decode_tokens if work == "decode" else 1,
                    baseline="full" if "full" in names else None,
                    progress=bar(f"{work} {length}"),
                )
                result["results"] += [{"work": work, **timing.to_dict()} for timing in timings]
                evaluation.save()
    if plot is not None:
        draw(result["results"], plot)


def _names(attentions: str) -> list[str]:
    names = [name.strip() for name in attentions.split(",")]
    for name in names:
        resolve_name(name)
    if len(set(names)) < len(names):
        raise ValueError(f"--attentions {attentions!r} names one of them twice")
    return names


def _random_model(options: ModelOptions, part: str) -> nn.Module:
    """A model of the same config; where only its attention is timed, without storage for weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source, revision = options.model, options.revision
    if options.manifest.base_model is not None:
        source, revision = options.manifest.base_model, options.manifest.base_revision
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {options.model!r}: no config could be read from {source!r} ({error})") from error
    kind = (getattr(config, "dtype", None) or torch.float32) if options.dtype == "auto" else options.dtype
    with torch.device("meta" if part == "attention" else options.device):
        return AutoModelForCausalLM.from_config(config, dtype=kind)


def _tables(result: Result, device: str) -> Iterator[Table]:
    """For each work a row for each length, a column for each attention: median, spread, speed-up with its interval,
    peak memory."""
    part, names = result["settings"]["part"], result["settings"]["attentions"]
    for work in dict.fromkeys(row["work"] for row in result["results"]):
        title = f"{work} of the {part} on {device}; × as fast as full"
        table = number_table(title, ("length", *names), show_lines=True)
        rows = [row for row in result["results"] if row["work"] == work]
        for length in dict.fromkeys(row["length"] for row in rows):
            table.add_row(str(length), *(_cell(row) for row in rows if row["length"] == length))
        yield table


def _cell(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return row["error"]
    median, smallest, largest = (1e3 * row["time"][key] for key in ("median", "smallest", "largest"))
    lines = [f"{median:.2f} ms", f"{smallest:.2f}-{largest:.2f}"]
    if (ratio := row["speedup"]) is not None:
        interval = None if ratio["low"] is None else (ratio["low"], ratio["high"])
        lines.append(f"×{with_interval(ratio['median'], interval, 2)}")
    return "\n".join([*lines, f"{row['peak_bytes'] / 2**20:.1f} MiB"])
