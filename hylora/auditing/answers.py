# SPDX-License-Identifier: Apache-2.0
"""What an audit comes to: an answer to each question, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["NO", "NOT_ASKED", "REFUSED", "YES", "Answer", "Audit"]

YES, NO, REFUSED, NOT_ASKED = "yes", "no", "refused", "not asked"
_COLOURS = {YES: "green", NO: "bold red", REFUSED: "yellow", NOT_ASKED: "dim"}


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        name: of the question.
        question: a statement that is true or not.
        status: "yes", "no", "refused" (the model or the attention says that it can't) or "not asked".
        cause: why it is not "yes"; beside a "yes", what it holds of.
        remedy: what to do about a "no" or "refused".
        difference: the largest found, relative to the largest value, where outputs were compared.
    """

    name: str
    question: str
    status: str
    cause: str = ""
    remedy: str = ""
    difference: float | None = None


@dataclass(frozen=True)
class Audit:
    """The answers about one model.

    Args:
        model: what was audited.
        conditions: under which the questions were asked, in words.
        answers: in the order of the questions.
    """

    model: str
    conditions: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def passed(self) -> bool:
        """Whether no answer is "no"."""
        return all(answer.status != NO for answer in self.answers)

    def __getitem__(self, name: str) -> Answer:
        return {answer.name: answer for answer in self.answers}[name]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"passed": self.passed, **asdict(self)}

    def show(self, console: Console) -> None:
        """Print the table, and below it what it comes to."""
        console.print(escape(self.model), soft_wrap=True)
        table = Table("", "answer", "cause, and remedy")
        for answer in self.answers:
            details = [answer.cause, answer.remedy and f"-> {answer.remedy}"]
            status = f"[{_COLOURS[answer.status]}]{answer.status}[/]"
            table.add_row(answer.question, status, escape("\n".join(filter(None, details))))
        console.print(table)
        console.print(*(f"- {escape(condition)}" for condition in self.conditions), sep="\n", soft_wrap=True)
        counts = Counter(answer.status for answer in self.answers)
        console.print(", ".join(f"{counts[status]} {status}" for status in _COLOURS if counts[status]))
