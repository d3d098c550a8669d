# SPDX-License-Identifier: Apache-2.0
"""Runs of one setting with several seeds, and what settings are called beside each other."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from itertools import groupby

from hylora_eval.report.learners import FOLD, PRETRAINING, learner_name, learner_order
from hylora_eval.report.measurements import Measurement, Subject, average
from hylora_eval.report.training import SEED

__all__ = ["Key", "Setting", "by_network", "gather", "over_seeds"]

# As the thesis writes them, in its order.
_SAMPLERS = {"ssc_fbs": "SSc-FBS", "msc_fbs": "MSc-FBS", "msc_vbs": "MSc-VBS", "msc_vbswc": "MSc-VBSWC"}

_SUBSPACES = {"line": "LCS+L", "point": "LCS+P"}

_SCHEDULES = {"alternating": "AC/DC", "gradual": "gradual"}

_UPDATES = {"cram": "CrAM", "csam": "C-SAM", "topk": "Top-K"}

# Where recipes name the network, the most particular first.
_NETWORK = ("model.config.architecture", "model.config.model_type", "model.path", "model.name")

# Those of a run, and of what it was finetuned from.
_SEEDS = (SEED, f"{PRETRAINING}.{SEED}")

_FOLDS = 5

# Kind, item and length of measurements of the same thing.
Key = tuple[str, str, float | None]


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed.

    Attributes:
        given: its name, where results have one.
        facts: its recipe, without the seed.
        runs: their measurements.
        name: what it is called, unlike any other of the same network.
    """

    given: str
    facts: dict[str, str]
    runs: dict[Key, list[Measurement]]
    name: str = ""

    @property
    def network(self) -> str:
        """The network's name; "" where recipes have none."""
        names = (self.facts.get(name, "null") for name in _NETWORK)
        return next((name for name in names if name != "null"), "")

    @property
    def sampler(self) -> str:
        """The sampler as the thesis writes it; "" where recipes have none."""
        name = self.facts.get("sampler.name", "")
        return _SAMPLERS.get(name, name)

    @property
    def compression(self) -> str:
        """What a subspace was trained for levels of; "" where none was."""
        return self.facts.get("subspace.compression", "") if self._kind else ""

    @property
    def subspace(self) -> str:
        """The subspace as the thesis writes it, or the levels that a network was trained at; "" where it has none."""
        targets = ", ".join(f"{level:g}" for level in json.loads(self.facts.get("subspace.targets", "[]")))
        return f"trained at {targets}" if self._kind and targets else self._kind

    @property
    def sparse(self) -> str:
        """The schedule that it was trained sparse with and where that ends, and the update aware of compression."""
        update = _UPDATES.get(self.facts.get("cram.update", ""), "")
        plus = "+" if update and self.facts.get("cram.plus") == "true" else ""
        schedule = _SCHEDULES.get(self.facts.get("sparse.schedule", ""), "")
        ends = f"{schedule} {self.facts.get('sparse.sparsity', '')}" if schedule else ""
        return ", ".join(filter(None, (ends, f"{update}{plus}")))

    @property
    def _kind(self) -> str:
        return _SUBSPACES.get(self.facts.get("subspace.kind", ""), "")

    @property
    def subject(self) -> Subject:
        """What rows and their charts are of."""
        return Subject(self.name, self.network, "", "")

    @property
    def first(self) -> int:
        """The number of the first file that it is from."""
        return min(found[0].places[0].source.number for found in self.runs.values())


def gather(measurements: list[Measurement]) -> list[Setting]:
    """The settings of some runs, in the thesis's order of samplers and of learners, then as their files come."""
    settings: dict[tuple, Setting] = {}
    for measurement in measurements:
        facts = {name: value for name, value in measurement.subject.facts if name not in (*_SEEDS, FOLD)}
        given = measurement.subject.run
        setting = settings.setdefault((given, *facts.items()), Setting(given, facts, {}))
        key = (measurement.kind, measurement.item, measurement.length)
        setting.runs.setdefault(key, []).append(measurement)
    for setting in settings.values():
        setting.runs.update({key: _over_folds(found) for key, found in setting.runs.items()})
    order = list(_SAMPLERS.values())

    def place(setting: Setting) -> tuple:
        sampler = order.index(setting.sampler) if setting.sampler in order else len(order)
        return sampler, learner_order(setting.facts), setting.first

    return _named(sorted(settings.values(), key=place))


def _named(settings: list[Setting]) -> list[Setting]:
    """Called by subspaces, sparse training, learners, samplers and compressions that differ, and what else does."""
    samplers = len({setting.sampler for setting in settings}) > 1
    compressions = len({setting.compression for setting in settings if setting.compression}) > 1

    def base(setting: Setting) -> str:
        sampler, compression = setting.sampler if samplers else "", setting.compression if compressions else ""
        parts = (sampler, setting.subspace, compression, setting.sparse, learner_name(setting.facts))
        return setting.given or ", ".join(filter(None, parts))

    named = []
    for setting in settings:
        alike = [s for s in settings if (base(s), s.network) == (base(setting), setting.network)]
        apart = [
            f"{name.replace('.', ' ').replace('_', ' ')} {value}"
            for name, value in setting.facts.items()
            if len({other.facts.get(name) for other in alike}) > 1
        ]
        name = ", ".join(part for part in (base(setting), *apart) if part)
        named.append(replace(setting, name=name or setting.sampler or "run"))
    return named


def by_network(settings: list[Setting]) -> list[tuple[str, list[Setting]]]:
    """The settings of each network; networks as their files come."""
    first: dict[str, int] = {}
    for setting in settings:
        first[setting.network] = min(setting.first, first.get(setting.network, setting.first))
    ordered = sorted(settings, key=lambda setting: first[setting.network])
    return [(network, list(members)) for network, members in groupby(ordered, lambda setting: setting.network)]


def _over_folds(runs: list[Measurement]) -> list[Measurement]:
    """One measurement of each seed: the mean over its folds, where the data has any."""
    seeds: dict[tuple, list[Measurement]] = {}
    for run in runs:
        facts = tuple((name, value) for name, value in run.subject.facts if name != FOLD)
        seeds.setdefault(facts, []).append(run)
    return [_mean_of_folds(found) for found in seeds.values()]


def _mean_of_folds(runs: list[Measurement]) -> Measurement:
    """What is measured once, or a mean, with a remark where folds are missing."""
    folds = [dict(run.subject.facts).get(FOLD) for run in runs]
    if None in folds:
        return runs[0]
    missing = () if len(folds) == _FOLDS else (f"of {_FOLDS} folds, {', '.join(sorted(folds))} alone",)
    return replace(average(runs[0].item, runs), remarks=missing)


def over_seeds(runs: list[Measurement], subject: Subject, kind: str, scale: float) -> Measurement:
    """The mean over seeds; its error is their standard deviation, where there are several.

    Args:
        runs: measurements of the same thing.
        subject: what the mean is of.
        kind: of number that it is.
        scale: what values are multiplied by.
    """
    values = [scale * run.value for run in runs]
    error = statistics.stdev(values) if len(values) > 1 else None
    mean = average(runs[0].item, runs)
    return replace(mean, kind=kind, subject=subject, value=statistics.fmean(values), error=error)
