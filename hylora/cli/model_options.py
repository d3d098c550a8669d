# SPDX-License-Identifier: Apache-2.0
"""The options that say which model runs and how: every command that runs one takes them alike."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hylora.attention.config import SpanConfig, expand_preset
from hylora.attention.names import PLUG_INS, resolve_name
from hylora.rope import RopeScaling
from hylora.runs.manifest import RunManifest
from hylora.runs.whereabouts import read_manifest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["AttentionOption", "ModelOptions", "check_device", "options_of", "read_pairs", "with_options"]

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

AttentionOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of that attention, e.g. top_k=4.")
]


@dataclass
class ModelOptions:
    """What a command line says about the model, as options of typer: checked here and now, loaded when it is needed.

    Args:
        model: a run's folder, a model folder or a hub id.
        attention: "full", "same" (as trained) or an attention's name.
        attention_option: options of that attention as KEY=VALUE.
        dtype: one of `DTYPES`.
        device: a torch device; None for CUDA where there is one, otherwise the CPU.
        revision: of a hub model.
        rope: RoPE scaling for a model that was not trained with one, as TYPE:FACTOR.
        use_kernels: run layers in prebuilt kernels of the Hub.

    Attributes:
        manifest: what is known of how the model was trained.
        span_options: `attention_option`, read.
        rope_scaling: `rope`, read.

    Raises:
        FileNotFoundError: if the model looks like a path and does not exist.
        ValueError: if an option is wrong.
    """

    model: Annotated[str, typer.Option(help="A run's folder, a model folder or a hub id.")]
    attention: Annotated[str, typer.Option(help="'full', 'same' (as trained), or a name such as 'se_attn'.")] = "full"
    attention_option: AttentionOption = None
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}; auto is the checkpoint's.")] = "auto"
    device: Annotated[str | None, typer.Option(help="cuda where there is one, otherwise cpu.")] = None
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None
    rope: Annotated[
        str | None, typer.Option(metavar="TYPE:FACTOR", help="Stretch the rotary positions of a model, e.g. yarn:4.")
    ] = None
    use_kernels: Annotated[
        bool, typer.Option("--use-kernels", help="Load prebuilt kernels of the Hub for the model's layers.")
    ] = False
    manifest: RunManifest = field(init=False)
    span_options: dict[str, Any] = field(init=False)
    rope_scaling: RopeScaling | None = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = read_manifest(self.model, self.revision)
        self.span_options = self._read_span_options()
        try:
            self.rope_scaling = None if self.rope is None else RopeScaling.parse(self.rope)
        except ValueError as error:
            raise ValueError(f"--rope: {error}") from error
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype!r} must be one of {', '.join(DTYPES)}")
        self.device = check_device(self.device)
        if self.use_kernels:
            from hylora.hub_kernels import check_hub_kernels

            check_hub_kernels(self.device)

    @property
    def attention_name(self) -> str:
        """The attention that runs, as its plug-in is called."""
        return self.manifest.attention if self.attention == "same" else resolve_name(self.attention)

    def _read_span_options(self) -> dict[str, Any]:
        pairs, name = self.attention_option or [], self.attention_name
        if pairs and name not in PLUG_INS:
            raise ValueError(
                f"--attention-option {pairs[0]!r}: {self.attention!r} attention is {name!r}, which has no options"
            )
        options = expand_preset(read_pairs(pairs), self.attention)
        SpanConfig.from_dict({**self.manifest.span_attention, **options})
        return options

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer beside a run or a model, or of its base model where there is none.

        Raises:
            ValueError: if there is none in either.
        """
        from hylora.runs.tokenizer import find_tokenizer

        return find_tokenizer(self.model, self.manifest, self.revision)

    def load_model(self, trainable: bool = False) -> nn.Module:
        """The model on its device, with the attention that was asked for.

        Args:
            trainable: in training mode, with an adapter that can be trained further, instead of evaluation mode.
        """
        from hylora.runs.loading import load

        return load(
            self.model,
            None if self.attention == "same" else self.attention,
            dtype=self.dtype,
            device_map=None if self.device == "cpu" else self.device,
            revision=self.revision,
            rope=self.rope_scaling,
            trainable=trainable,
            use_kernels=self.use_kernels,
            **self.span_options,
        )


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Attention options given as KEY=VALUE.

    Raises:
        ValueError: if one is not of that form.
    """
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--attention-option {pair!r} is not of the form KEY=VALUE, for example top_k=4")
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    return options


def check_device(device: str | None) -> str:
    """The device to run on: CUDA by default where there is one.

    Raises:
        ValueError: if it is no device, or none is visible.
    """
    import torch  # what is wrong with a model's name shows before the second that this takes

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device {device!r} is not a device: {error}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device!r}: no CUDA device is visible; leave it out to run on the CPU")
    return device


def options_of(callable_: Callable, leave_out: Iterable[str] = (), **defaults: Any) -> list[inspect.Parameter]:
    """The options that typer makes of a function's or a dataclass's parameters, given by name alone.

    Args:
        callable_: the function or class.
        leave_out: parameters that are no options.
        **defaults: of parameters, where they are others.
    """
    return [
        option.replace(kind=option.KEYWORD_ONLY, default=defaults.get(name, option.default))
        for name, option in inspect.signature(callable_, eval_str=True).parameters.items()
        if name not in leave_out
    ]


def with_options(command: Callable[..., None], options: list[inspect.Parameter]) -> Callable[..., None]:
    """Let typer read these options of a command that takes whatever is given, by name."""
    command.__signature__ = inspect.Signature(options)
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command
