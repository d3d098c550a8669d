# SPDX-License-Identifier: Apache-2.0
"""What the evaluation commands share: their options, progress, and a result that grows, is kept and is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hylora.cli.model_options import options_of, with_options
from hylora.pace import Pace
from hylora_eval.commands.model_options import ModelOptions
from hylora_eval.processes import ALONE, Processes, launched
from hylora_eval.results import Result, check_output

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Evaluation",
    "Overwrite",
    "attention_of",
    "evaluation_command",
    "number_table",
    "with_error",
    "with_interval",
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]

# Makes a bar of a description, and of the total where that is known; gives the function that moves it, called with
# what is done and, once known, the total.
Progressing = Callable[..., Callable[..., None]]


@dataclass
class Evaluation:
    """One run of an evaluation command.

    Attributes:
        options: what the command line says about the model.
        output: path of the result; None keeps none.
        overwrite: whether an existing result may be replaced.
        result: what has been found.
        processes: that evaluate together; the main one alone writes and speaks.
    """

    options: ModelOptions
    output: Annotated[Path | None, typer.Option(help="Where to write the result, as JSON.")] = None
    overwrite: Overwrite = False
    result: Result = field(init=False, default_factory=Result)
    processes: Processes = field(init=False, default=ALONE)

    def check_outputs(self, *others: Path | None, goes_on: bool = False) -> None:
        """Find out before a long evaluation whether it can be written.

        Args:
            *others: paths of what is written beside the result, None for what is not.
            goes_on: whether the result that is there is one to go on with.

        Raises:
            ValueError, OSError: as `check_output`.
        """
        if self.output is not None:
            check_output(self.output, self.overwrite or goes_on)
        for path in filter(None, others):
            check_output(path, self.overwrite)

    def start(self, kind: str, model: nn.Module, **parts: Any) -> Result:
        """Begin the result.

        Args:
            kind: what is evaluated, such as "perplexity".
            model: that is evaluated.
            **parts: what follows the header that all results share; plain JSON types.
        """
        self.result = Result({**self.options.header(kind, model), **parts})
        return self.result

    def save(self) -> None:
        """Write the result as far as it goes, where it is kept."""
        if self.output is not None and self.processes.is_main:
            self.result.save(self.output)

    @contextmanager
    def progress(self) -> Iterator[Progressing]:
        """Progress on standard error, in bars, or lines where there is no terminal; yields what begins one, and gives
        the same for the same description."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console, speaks = Console(stderr=True), self.processes.is_main
        with Progress(*columns, console=console, disable=not (console.is_terminal and speaks)) as bars:

            @cache
            def bar(description: str, total: int | None = None) -> Callable[..., None]:
                task, pace = bars.add_task(description, total=total), Pace()

                def move(done: int, total: int | None = total) -> None:
                    bars.update(task, completed=done, total=total)
                    if bars.disable and speaks and pace.is_due(done, total):
                        of = "" if total is None else f" of {total}"
                        console.print(
                            f"{description}: {done}{of}{pace.left(done, total)}", highlight=False, markup=False
                        )

                return move

            yield bar

    @contextmanager
    def shown(self, tables: Callable[[Result], Iterable[RenderableType]]) -> Iterator[None]:
        """Print what was found at the end, be it that a longer length ran out of memory or the disk is full.

        Args:
            tables: of a result that has results.
        """
        try:
            yield
        finally:
            if self.result.get("results") and self.processes.is_main:
                for table in tables(self.result):
                    Console().print(table)

    def note(self, text: str) -> None:
        """Tell on standard error what is done otherwise than asked, or means less than it seems."""
        if self.processes.is_main:
            Console(stderr=True).print(f"note: {text}")


def evaluation_command(
    leave_out: tuple[str, ...] = (), together: bool = False, **defaults: Any
) -> Callable[[Callable], Callable[..., None]]:
    """Make a command of a function that takes an `Evaluation` and the options of its own.

    Args:
        leave_out: shared options that the command does not have.
        together: whether several processes share the work; otherwise they are refused.
        **defaults: of shared options, where they are others.
    """

    def decorate(function: Callable) -> Callable[..., None]:
        about_model = options_of(ModelOptions, leave_out, **defaults)
        about_result = options_of(Evaluation, ("options",))
        model, *rest = about_model

        @wraps(function)
        def command(**values: Any) -> None:
            options = ModelOptions(**{option.name: values.pop(option.name) for option in about_model})
            evaluation = Evaluation(options, **{option.name: values.pop(option.name) for option in about_result})
            evaluation.processes = launched()
            if evaluation.processes.count > 1:
                _join(evaluation, together)
            function(evaluation, **values)

        return with_options(command, [model, *options_of(function, ("evaluation",)), *rest, *about_result])

    return decorate


def _join(evaluation: Evaluation, together: bool) -> None:
    """Prepare this process for working with others.

    Raises:
        ValueError: if the command does not work so.
    """
    if not together:
        raise ValueError(
            f"{evaluation.processes.count} processes were launched, and each would do the whole of this evaluation; "
            "start it in one"
        )
    if evaluation.options.device == "cuda":
        evaluation.options.device = str(evaluation.processes.state.device)


def attention_of(result: Result) -> str:
    """What a title calls the attention that evaluates: where it is that of training, by its name."""
    asked = result["attention"]["asked"]
    return result["model"]["training_attention"] if asked == "same" else asked


def number_table(title: str | None, headings: Iterable[str], words: int = 0, **looks: Any) -> Table:
    """A table of numbers, with words in the first so many columns."""
    table = Table(title=title, title_justify="left", **looks)
    for index, heading in enumerate(headings):
        # Of a name that is cut, nobody knows which it is.
        name = {"justify": "left", "overflow": "fold"} if index < words else {"justify": "right"}
        table.add_column(heading, **name)
    return table


def with_error(value: float, error: float | None, digits: int) -> str:
    """A number and its standard error, where there is one."""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def with_interval(value: float, interval: Sequence[float] | None, digits: int) -> str:
    """A number and its 95 % interval, where there is one, with a digit less."""
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{', '.join(f'{bound:.{digits - 1}f}' for bound in interval)}]"
