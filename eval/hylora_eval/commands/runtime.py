# SPDX-License-Identifier: Apache-2.0
"""`hylora eval runtime`: time and memory of attention by context length."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from hylora.attention import SpanConfig, check_attention, resolve_name
from hylora.attention.functions import FUNCTIONS
from hylora_eval.commands.model_options import (
    AttentionOption,
    Device,
    Dtype,
    Model,
    ModelOptions,
    Output,
    Overwrite,
    Revision,
)
from hylora_eval.commands.progress import progress_bars, reporter

__all__ = ["runtime"]

_PARTS = ("attention", "model")
_ATTENTIONS = "full,sw_attn,s2_attn,se_attn"


def runtime(
    model: Model,
    lengths: Annotated[list[int], typer.Option(help="Context lengths in tokens, one or several.")],
    attentions: Annotated[str, typer.Option(help="Names, separated by commas, that take turns.")] = _ATTENTIONS,
    attention_option: AttentionOption = None,
    part: Annotated[str, typer.Option(help="'attention' (the function alone) or 'model' (all of it).")] = "attention",
    works: Annotated[
        str, typer.Option(help="Of forward, forward+backward and decode, separated by commas.")
    ] = "forward,forward+backward,decode",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them that are not.")] = 1,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded in a round (part 'model').")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 1,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Take only the shapes of the model: its config is enough.")
    ] = False,
    output: Output = None,
    overwrite: Overwrite = False,
    plot: Annotated[Path | None, typer.Option(help="Where to draw time and memory, for example runtime.png.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Time attentions against each other, print a table and write the result.

    The result is written anew after each length, so that an interruption loses only the length at hand.

    Raises:
        ValueError: on wrong input, before anything is timed.
    """
    from hylora_eval.results import check_output, save_result
    from hylora_eval.runtime.picture import check_plotting, draw
    from hylora_eval.runtime.rounds import measure
    from hylora_eval.runtime.workloads import WORKS, AttentionWorkload, ModelWorkload

    lengths = list(dict.fromkeys(lengths))
    names, chosen = _names(attentions), _chosen(works, WORKS)
    if part not in _PARTS:
        raise ValueError(f"--part {part!r} is not one of {', '.join(map(repr, _PARTS))}")
    if min(lengths) < 2:
        raise ValueError(f"--lengths {min(lengths)} must be at least 2")
    # Options belong to the plug-ins; without one of those, the first attention says that it takes none.
    subject = next((name for name in names if name in FUNCTIONS), names[0])
    options = ModelOptions(model, subject, attention_option, dtype, device, revision)
    span = SpanConfig.from_dict({**options.manifest.span_attention, **options.span_options})
    for path in (output, plot):
        if path is not None:
            check_output(path, overwrite)
    if plot is not None:
        check_plotting(plot)

    random_weights = random_weights or part == "attention"
    network = _random_model(options, part) if random_weights else options.load_model(trainable=True)
    for name in names:
        check_attention(network.config, name)
    place = torch.device(options.device)
    if part == "model":
        workload = ModelWorkload(network, span, batch_size, decode_tokens)
    else:
        workload = AttentionWorkload(network, span, network.dtype, place, batch_size)

    record = {
        **options.header("runtime", network),
        "attention": None,
        "settings": {
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
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "parameters_trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "clock": "CUDA events" if place.type == "cuda" else "wall clock",
            "memory": "CUDA allocator" if place.type == "cuda" else "tensors alive",
        },
        "results": [],
    }
    try:
        with progress_bars() as progress:
            for work in chosen:
                for length in lengths:
                    measured = measure(
                        lambda name, length, work=work: workload.prepare(work, name, length),
                        names,
                        length,
                        device=place,
                        rounds=rounds,
                        warmup=warmup,
                        repetitions=workload.decode_tokens if work == "decode" else 1,
                        baseline="full" if "full" in names else None,
                        progress=reporter(progress, f"{work} {length}"),
                    )
                    record["results"] += [{"work": work, **measurement.to_dict()} for measurement in measured]
                    if output is not None:
                        save_result(output, record)
    finally:
        for work in dict.fromkeys(result["work"] for result in record["results"]):
            Console().print(_table(f"{part} on {place.type}; × as fast as full", work, record["results"]))
    if plot is not None:
        draw(record["results"], plot)


def _names(attentions: str) -> list[str]:
    names = [name.strip() for name in attentions.split(",")]
    for name in names:
        resolve_name(name)
    if len(set(names)) < len(names):
        raise ValueError(f"--attentions {attentions!r} names one of them twice")
    return names


def _chosen(works: str, known: tuple[str, ...]) -> list[str]:
    chosen = [work.strip() for work in works.split(",")]
    for work in chosen:
        if work not in known:
            raise ValueError(f"--works {work!r} is not one of {', '.join(known)}")
    return chosen


def _random_model(options: ModelOptions, part: str) -> nn.Module:
    """A model of the same config; where only its attention is timed, without storage for weights."""
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


def _table(title: str, work: str, results: list[dict[str, Any]]) -> Table:
    """A row for each length, a column for each attention: median, spread, times as fast as full, peak memory."""
    results = [result for result in results if result["work"] == work]
    names = list(dict.fromkeys(result["contender"] for result in results))
    table = Table(title=f"{work} of the {title}", title_justify="left", show_lines=True)
    table.add_column("length", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for length in dict.fromkeys(result["length"] for result in results):
        table.add_row(str(length), *(_cell(result) for result in results if result["length"] == length))
    return table


def _cell(result: dict[str, Any]) -> str:
    if result["error"] is not None:
        return result["error"]
    median, smallest, largest = (1e3 * result["time"][key] for key in ("median", "smallest", "largest"))
    lines = [f"{median:.2f} ms", f"{smallest:.2f}-{largest:.2f}"]
    if result["speedup"] is not None:
        lines.append(f"×{result['speedup']['median']:.2f}")
    return "\n".join([*lines, f"{result['peak_bytes'] / 2**20:.1f} MiB"])
