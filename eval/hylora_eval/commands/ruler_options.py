# SPDX-License-Identifier: Apache-2.0
"""The options that say which samples of RULER are drawn: every command that draws some takes them alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hylora.cli.model_options import options_of, with_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hylora_eval.ruler import Haystack

__all__ = ["Drawing", "with_drawing"]


@dataclass
class Drawing:
    """What a command line says about the samples.

    Attributes:
        names: the tasks that `tasks` stands for.
        prose: what `haystack` stands for.

    Raises:
        ValueError: if a task is unknown, or the haystack holds no text.
        FileNotFoundError: if there is no such haystack.
    """

    lengths: Annotated[list[int], typer.Option(help="Tokens of a prompt and its answer, one or several.")]
    tasks: Annotated[
        str, typer.Option(help="Tasks or groups such as NIAH-S, with commas between; 'all' for the eleven.")
    ] = "all"
    samples: Annotated[int, typer.Option(min=1, help="Of each task at each length.")] = 500
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 42
    mode: Annotated[
        str, typer.Option(help="'exact' (fills the length) or 'strict' (the official generator's prompts).")
    ] = "exact"
    haystack: Annotated[
        str | None, typer.Option(help="Text file, folder or PaulGrahamEssays.json; built-in prose by default.")
    ] = None
    sentences: Annotated[str, typer.Option(help="'punkt', 'rules', or 'auto' for punkt where it is.")] = "auto"
    squad: Annotated[str | None, typer.Option(help="SQuAD's dev-v2.0.json, for qa_1.")] = None
    hotpotqa: Annotated[str | None, typer.Option(help="hotpot_dev_distractor_v1.json, for qa_2.")] = None
    more_words: Annotated[str | None, typer.Option(help="A longer list of words, for cwe at great lengths.")] = None
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask within the tokenizer's own chat template.")
    ] = False
    names: tuple[str, ...] = field(init=False)
    prose: Haystack = field(init=False)

    def __post_init__(self) -> None:
        # Here, so that options are listed without the seconds that this takes to import.
        from hylora_eval.ruler import load_haystack, resolve_tasks

        self.lengths = list(dict.fromkeys(self.lengths))
        self.names = resolve_tasks(name.strip() for name in self.tasks.split(","))
        self.prose = load_haystack(self.haystack)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `generate` by name, beside the task, the tokenizer, the length and the samples."""
        return {
            "seed": self.seed,
            "mode": self.mode,
            "haystack": self.prose,
            "sentences": self.sentences,
            "qa_files": self._qa_files,
            "more_words": self.more_words,
            "chat_template": self.chat_template,
        }

    def check(self, tokenizer: PreTrainedTokenizerBase, note: Callable[[str], None]) -> None:
        """Find out before a long evaluation whether all samples can be drawn.

        Args:
            tokenizer: of the model.
            note: called with a sentence where scores will mean less than they seem.

        Raises:
            ValueError, ImportError, OSError: as `generate` would.
        """
        from hylora_eval.ruler.generation import check_generation

        for length in self.lengths:
            for name in self.names:
                for caution in check_generation(name, tokenizer, length, self.samples, **self.options):
                    note(caution)

    def settings(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What results record of the samples, as plain JSON types."""
        from hylora_eval.ruler.chat import ChatTemplate
        from hylora_eval.ruler.haystack import sentence_splitter

        return {
            "lengths": self.lengths,
            "tasks": list(self.names),
            "samples": self.samples,
            "seed": self.seed,
            "mode": self.mode,
            "haystack": self.prose.name,
            "haystack_sha256": self.prose.sha256,
            "sentences": sentence_splitter(self.sentences).name,
            "qa_files": self._qa_files,
            "more_words": self.more_words,
            "chat_template": ChatTemplate(tokenizer).sha256 if self.chat_template else None,
        }

    @property
    def _qa_files(self) -> dict[str, str]:
        return {name: path for name, path in (("qa_1", self.squad), ("qa_2", self.hotpotqa)) if path is not None}


def with_drawing(function: Callable) -> Callable:
    """Let a command have the options of `Drawing` in place of its parameter `drawing`."""
    options = options_of(Drawing)

    @wraps(function)
    def command(*arguments: Any, **values: Any) -> Any:
        drawing = Drawing(**{option.name: values.pop(option.name) for option in options})
        return function(*arguments, drawing=drawing, **values)

    return with_options(command, [*options_of(function, ("drawing",)), *options])
