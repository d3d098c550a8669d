# SPDX-License-Identifier: Apache-2.0
"""The demo: prepare the data, let two processes work through the models, and gather what they measured."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hylora.demo.corpus import load_corpus
from hylora.demo.data import write_facts, write_recall, write_text
from hylora.demo.facts import FactTask
from hylora.demo.miniature import CONTEXT, FACTS, load_tokenizer
from hylora.demo.recall import RecallTask
from hylora.files import write_atomically
from hylora_eval.demo.settings import MIXTURE, NOT_TUNED, VARIANTS, DemoSettings

__all__ = ["DemoError", "run_demo"]

PROCESSES = 2
# One thread each: two such processes do more than one with two threads. The allocator is told to keep what it frees,
# because a small model otherwise spends a good part of its time on page faults (glibc; elsewhere without effect).
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}


class DemoError(OSError):
    """A process of the demo failed, or its folder cannot be used."""


def run_demo(folder: Path, settings: DemoSettings, console: Console) -> list[dict[str, Any]]:
    """Fine-tune and measure every variant.

    Args:
        folder: where everything goes. Results of an earlier demo with the same settings are kept and not computed
            again.
        settings: of the demo.
        console: shows progress.

    Returns:
        The results of all models, the one not fine-tuned first.

    Raises:
        DemoError: if the folder holds a demo with other settings, or a process fails.
    """
    _claim(folder, settings)
    for seed in range(settings.seeds):
        _write_data(folder / "data" / f"seed-{seed}", seed, settings)
    names = [f"{variant.name}-{seed}" for variant in VARIANTS for seed in range(settings.seeds)]
    names.append(f"{NOT_TUNED.name}-0")
    path = {name: folder / "results" / f"{name}.json" for name in names}
    missing = [name for name in names if not path[name].exists()]
    _work(folder, missing, settings, console)
    return [json.loads(path[name].read_text(encoding="utf-8")) for name in [names[-1], *names[:-1]]]


def _claim(folder: Path, settings: DemoSettings) -> None:
    """Make the folder, or make sure that it holds the same demo."""
    record = folder / "settings.json"
    if record.exists():
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if earlier != settings.to_dict():
            raise DemoError(f"{folder} holds a demo with other settings ({earlier}); name another --output")
        return
    if folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty and holds no demo; name another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(settings.to_dict()))


def _write_data(folder: Path, seed: int, settings: DemoSettings) -> None:
    """Training data of one seed: as much of each kind as its steps read."""
    tokenizer, documents = load_tokenizer(), load_corpus("train")
    length = settings.tuned_length
    rows = {kind: math.ceil(share * settings.steps * settings.batch) + 1 for kind, share in MIXTURE.items()}
    names = {"length": length, "seed": f"tune-{seed}"}
    write_recall(folder / "recall.jsonl", RecallTask.for_tokenizer(tokenizer), documents=rows["recall"], **names)
    # As dense with facts as in the checkpoint's own training.
    facts = FACTS * length // CONTEXT
    write_facts(folder / "facts.jsonl", FactTask(tokenizer, documents), documents=rows["facts"], facts=facts, **names)
    random.Random(seed).shuffle(documents)
    # A token is about three characters of this text; a little too much does no harm.
    wanted, chosen = 4 * rows["text"] * length, []
    while wanted > 0:
        chosen.append(documents.pop())
        wanted -= len(chosen[-1].text)
    write_text(folder / "text.jsonl", chosen)


def _work(folder: Path, names: list[str], settings: DemoSettings, console: Console) -> None:
    """Deal the jobs to the processes and show how far they are."""
    total = settings.steps * sum(not name.startswith(NOT_TUNED.name) for name in names)
    columns = (TextColumn("{task.description:<52}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, contextlib.ExitStack() as stack:
        overall = progress.add_task("fine-tuning steps of all models", total=total)
        workers = []
        for index in range(PROCESSES):
            jobs = names[index::PROCESSES]
            if jobs:
                workers.append(_Worker(folder, index, jobs, console))
                stack.callback(workers[-1].stop)
        bars = [progress.add_task("starting", total=None) for _ in workers]
        while any(worker.running for worker in workers):
            done = 0
            for name in names:
                done += min(_steps(folder, name), settings.steps)
            progress.update(overall, completed=done)
            for bar, worker in zip(bars, workers, strict=True):
                progress.update(bar, description=f"  {worker.note}")
            if any(worker.failed for worker in workers):
                break
            time.sleep(0.5)
        for worker in workers:
            worker.check()
        progress.update(overall, completed=total)


def _steps(folder: Path, name: str) -> int:
    """Steps a run has made so far."""
    try:
        return (folder / "runs" / name / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


class _Worker:
    """A worker process, what it is doing, and its log."""

    def __init__(self, folder: Path, index: int, jobs: list[str], console: Console) -> None:
        self.note = "starting"
        self._log = folder / f"worker-{index}.log"
        self._console = console
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hylora_eval.demo.worker", str(folder), *jobs],
                env={**os.environ, **ENVIRONMENT},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            name, _, note = line.rstrip().partition("\t")
            self.note = f"{name}: {note}"
            # Without a terminal there are no bars; each model's end is worth a line anyway.
            if note == "done" and not self._console.is_terminal:
                self._console.print(self.note)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def failed(self) -> bool:
        return self._process.poll() not in (None, 0)

    def stop(self) -> None:
        if self.running:
            self._process.terminate()
        self._process.wait()

    def check(self) -> None:
        if self.failed:
            tail = "\n".join(self._log.read_text(encoding="utf-8").splitlines()[-8:])
            raise DemoError(f"a process of the demo failed ({self.note}); the end of {self._log}:\n{tail}")
