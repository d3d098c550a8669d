# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, report, and refuse to time what is wrong."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask

import hylora_kernels
from hylora_kernels import SequenceLayout, reference
from hylora_kernels.options import SpanOptions
from hylora_kernels.scoring import Scoring

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
CAUSAL = torch.ones(200, 200, dtype=torch.bool).tril()


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import each other by name, from their own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("attention", "environment"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def load(name: str):
    return importlib.import_module(name)


def span_options(options, selection="chunk") -> SpanOptions:
    return SpanOptions(**options.span, selection=selection, retrieval="random", summary="attention", seed=0)


def test_a_wrong_method_is_not_timed(monkeypatch):
    attention, methods = load("attention"), load("suite.methods")
    options = attention.Options(block_size=4, top_k=2, chunk_size=16, window=16, head_dim=8)
    names = list(attention.LABELS)
    assert all(line["passed"] and line["error"] < 1e-2 for line in attention.check(options, [torch.float32], names))
    right = methods.sliding_window_attention

    def wrong(*tensors, window, backend):
        return right(*tensors, window=window + (backend != "reference"), backend=backend)

    monkeypatch.setattr(methods, "sliding_window_attention", wrong)
    with pytest.raises(SystemExit, match="SW is wrong in float64"):
        attention.check(options, [torch.float32], names)


def test_the_cpu_command_writes_its_report(tmp_path):
    sizes = "--lengths 40 --block-size 4 --top-k 2 --chunk-size 16 --window 16 --head-dim 8 --rounds 1 --threads 1"
    command = [sys.executable, BENCHMARKS / "attention.py", *sizes.split(), "--dtypes", "float32"]
    run = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "attention.json").read_text())
    assert {result["pass"] for result in report["results"]} == {"forward", "forward+backward"}
    assert set(report["results"][0]["ratios"]) == {f"{slow}/{fast}" for slow, fast in load("attention").RATIOS}
    assert report["environment"]["torch"] == torch.__version__
    assert all(len(result["seconds"][name]) == 1 for result in report["results"] for name in ("full", "se", "s2"))
    assert "| float32 | forward | 40 |" in (tmp_path / "attention.md").read_text()


def not_a_number(query, key, value):
    return query * float("nan")


def raising(query, key, value):
    raise RuntimeError("no kernel\nfor this")


@pytest.mark.parametrize(
    ("attend", "failure"),
    [
        (lambda query, key, value: query, "error above tolerance"),
        (not_a_number, "error above tolerance"),
        (raising, "RuntimeError: no kernel"),
    ],
)
def test_a_check_catches(attend, failure):
    methods, checks, runs = (load(f"suite.{name}") for name in ("methods", "checks", "runs"))
    method = methods.Method("wrong", methods.unbound(attend), methods.full_reference, None)
    if failure.startswith("error"):
        attend_all = lambda q, k, v: attend(q, k, v) + 0 * (k + v)  # noqa: E731  gradients must exist
        method = methods.Method("wrong", methods.unbound(attend_all), methods.full_reference, None)
    line = checks.check_method("wrong", method, runs.random_tensors(2, 2, 33, 8, torch.float32, "cpu"))
    assert not line["passed"]
    assert line["failure"] == failure
    assert ("in raising" in line.get("traceback", "")) == (attend is raising)


def test_a_wrong_choice_of_blocks_is_caught(monkeypatch):
    checks, methods, runs = (load(f"suite.{name}") for name in ("checks", "methods", "runs"))
    options = methods.Options(block_size=4, top_k=2, chunk_size=16, head_dim=8)
    tensors = runs.random_tensors(4, 2, 70, 8, torch.float32, "cpu")
    assert checks.check_choice("se", options.span, tensors)["passed"]
    right = checks.select_blocks

    def wrong(*inputs, backend="auto", **arguments):
        (blocks,) = right(*inputs, **arguments, backend=backend)
        return [blocks if backend == "reference" else (blocks - 1).clamp(min=-1)]

    monkeypatch.setattr(checks, "select_blocks", wrong)
    assert not checks.check_choice("se", options.span, tensors)["passed"]


def measured(part, folder, **changes):
    """What a part finds at tiny sizes, and whether all went well."""
    parts, results, sizes, timing = (load(f"suite.{name}") for name in ("part", "results", "sizes", "timing"))
    found = results.Results(folder)
    tiny = replace(sizes.sizes_for("cpu", quick=True), **{"lengths": (128,), **changes})
    right = parts.run(part, tiny, found, timing.Budget(100))
    parts.report(found)
    return right, found.data


def timed(data, heads=None):
    points = data["operator"]["points"]
    return {point["contender"] for point in points if heads is None or tuple(point["heads"]) == heads}


def test_wrong_span_attention_is_not_timed_and_all_else_is(monkeypatch, tmp_path):
    methods = load("suite.methods")
    right = methods.span_attention

    def wrong(*tensors, backend, **options):
        output = right(*tensors, backend=backend, **options)
        return output if backend == "reference" else 1.01 * output

    monkeypatch.setattr(methods, "span_attention", wrong)
    well, data = measured("operator", tmp_path)
    assert not well
    assert timed(data) == {"full", "sw", "s2"}
    assert "error above tolerance" in (tmp_path / "gpu.md").read_text()


def test_what_is_wrong_for_some_heads_is_left_out_there_alone(monkeypatch, tmp_path):
    methods = load("suite.methods")
    right = methods.shifted_sparse_attention

    def wrong(query, key, value, backend, **options):
        output = right(query, key, value, backend=backend, **options)
        return output if backend == "reference" or query.shape[1] == key.shape[1] else 2 * output

    monkeypatch.setattr(methods, "shifted_sparse_attention", wrong)
    well, data = measured("operator", tmp_path)
    assert not well
    assert timed(data, (4, 2)) == {"full", "se", "nomem", "sw", "se_recall"}
    assert timed(data, (2, 2)) == timed(data, (4, 2)) | {"s2"}
    assert {"heads": (4, 2), "method": "s2", "reason": "wrong: error above tolerance"} in data["operator"]["left_out"]


def test_what_fails_leaves_its_traceback_and_the_rest_goes_on(monkeypatch, tmp_path):
    operators = load("suite.operators")
    drawn, choose = operators.random_tensors, operators.check_choice

    def no_tensors(heads, kv_heads, length, *rest):
        if length == 192:
            raise RuntimeError("no such size")
        return drawn(heads, kv_heads, length, *rest)

    def no_choice(name, *rest, **options):
        if name == "se":
            raise RuntimeError("no such choice")
        return choose(name, *rest, **options)

    monkeypatch.setattr(operators, "random_tensors", no_tensors)
    monkeypatch.setattr(operators, "check_choice", no_choice)
    well, _ = measured("operator", tmp_path, heads=((2, 2),), lengths=(192, 128))
    assert not well
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert {point["length"] for point in data["operator"]["points"]} == {128}
    assert "se" in timed(data)
    assert all(line["passed"] for line in data["operator checks"]["lines"])
    for section, place, name in (("operator", "length", "no_tensors"), ("operator checks", "choice", "no_choice")):
        (item,) = (item for item in data[section]["left_out"] if "traceback" in item)
        assert item[place] and item["reason"].startswith("RuntimeError: no such")
        assert f"in {name}" in item["traceback"]
    assert "no such size" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_fails_leaves_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(load("suite.decoding"), "measure_decoding", lambda *arguments: 1 / 0)
    well, _ = measured("decode", tmp_path)
    assert not well
    (item,) = json.loads((tmp_path / "gpu.json").read_text())["decode failure"]["left_out"]
    assert "ZeroDivisionError" in item["traceback"]


def test_what_does_not_compile_is_named(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    compiling, sizes = load("suite.compiling"), load("suite.sizes").sizes_for("cpu", quick=True)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n(echo Traceback; echo 'NameError: no such register') >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    well, data = measured("compile", tmp_path)
    assert not well
    number = len(compiling.jobs(sizes))
    assert [item["reason"] for item in data["compile"]["left_out"]] == [
        "CompilingFailed: NameError: no such register"
    ] * number
    page = (tmp_path / "gpu.md").read_text()
    assert f"for 0 of {number} kinds of call (see Left out)" in page and "Spills: none" not in page
    assert page.count("| CompilingFailed: NameError: no such register |") == number


def test_what_there_is_no_time_for_is_written_down(tmp_path):
    operators, results, sizes, timing = (load(f"suite.{name}") for name in ("operators", "results", "sizes", "timing"))
    found = results.Results(tmp_path)
    tiny = sizes.sizes_for("cpu", quick=True)
    operators.measure_operators(tiny, found, timing.Budget(-1))
    section = json.loads((tmp_path / "gpu.json").read_text())["operator"]
    assert section["points"] == []
    assert {"heads": [2, 2], "length": tiny.lengths[0], "reason": "no time left"} in section["left_out"]


@pytest.mark.parametrize("length", [1, 31, 64, 65, 200])
def test_pairs_are_those_of_the_masks(length):
    costs, methods = load("suite.costs"), load("suite.methods")
    options = methods.Options(block_size=8, top_k=3, chunk_size=32, window=20, group=0.3)
    tensors = [torch.zeros(1, 2, length, 8)] * 3
    layout = SequenceLayout.dense(1, length)
    for selection in ("chunk", "token"):
        span = span_options(options, selection)
        (blocks,) = reference.select_blocks(*tensors, layout, span, 1.0)
        assert costs.span_pairs(options)(length) == reference.span_mask(length, blocks, span)[0].sum()
    assert costs.full_pairs(length) == CAUSAL[:length, :length].sum()
    distance = torch.arange(length)[:, None] - torch.arange(length)
    assert costs.window_pairs(20)(length) == ((distance >= 0) & (distance < 20)).sum()
    # Uniform weights show how many keys a query sees.
    value = torch.eye(length).expand(1, 2, -1, -1)
    scores = torch.zeros(1, 2, length, length)
    weights = reference.shifted_sparse_attention(scores, scores, value, layout, 0.3, Scoring(1.0))
    assert costs.shifted_pairs(0.3)(length) == (weights > 0).sum() / 2


def test_operations_and_bytes():
    costs = load("suite.costs")
    assert costs.operations(10, heads=3, head_dim=8, pass_name="forward") == 2 * 2 * 10 * 3 * 8
    both = sum(costs.operations(10, 3, 8, name) for name in ("forward", "backward"))
    assert both == costs.operations(10, 3, 8, "forward+backward")
    assert costs.traffic(4, 2, 100, 8, 2, "forward") == (2 * 4 + 2 * 2) * 100 * 8 * 2


@pytest.mark.parametrize("length", [128, 200])
def test_flex_masks_are_the_references(length):
    flex, methods = load("suite.flex"), load("suite.methods")
    options = methods.Options(block_size=8, top_k=3, chunk_size=64, window=32)
    layout = SequenceLayout.dense(1, length)
    tensors = torch.zeros(1, 4, length, 8), *[torch.zeros(1, 2, length, 8)] * 2
    (blocks,) = reference.select_blocks(*tensors, layout, span_options(options), 1.0)
    mask = flex.span_block_mask(blocks, options, heads=4, length=length, tile=16)
    expected = reference.span_mask(length, blocks, span_options(options)).repeat_interleave(2, dim=0)
    assert_is_the_mask(mask, expected)

    mask = flex.window_block_mask(32, length, torch.device("cpu"), tile=16)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    assert_is_the_mask(mask, ((distance >= 0) & (distance < 32))[None])


def assert_is_the_mask(mask, expected):
    """Element by element, and tile by tile: those looked at are those with anything in them, whole ones are whole."""
    heads, length = expected.shape[:2]
    assert torch.equal(create_mask(mask.mask_mod, 1, heads, length, length, "cpu")[0], expected)
    made = create_block_mask(mask.mask_mod, 1, heads, length, length, "cpu", BLOCK_SIZE=16)
    assert torch.equal(mask.to_dense(), made.to_dense())
    whole = tiles_of(mask.full_kv_num_blocks, mask.full_kv_indices)[0]
    elements = whole.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)[:, :length, :length]
    assert whole.any() and expected[elements].all()


def tiles_of(counts, indices):
    listed = torch.arange(indices.shape[-1]) < counts[..., None]
    return torch.zeros(indices.shape, dtype=torch.bool).scatter(-1, indices.long(), listed)


def test_targets_are_judged_by_what_was_measured():
    targets = load("suite.targets")

    def point(name, milliseconds, pass_name="forward", **more):
        base = {"heads": [30, 30], "pass": pass_name, "length": 32768, "error": None, "matmul_fraction": None}
        return {**base, "contender": name, "time": {"median": 1e-3 * milliseconds}, **more}

    times = {"full": 24, "cudnn": 12, "se": 2, "sw": 5, "nomem": 1}
    points = [point(name, time, input_bytes=100, peak_bytes=20) for name, time in times.items()]
    found = {(v.what, v.bound): (v.measured, v.met) for v in targets.verdicts({"operator": {"points": points}})}
    assert found == {
        ("SDPA flash / SE-Attn", "at least 12"): (pytest.approx(12), True),
        ("fastest full attention / SE-Attn", "at least 7"): (pytest.approx(6), False),
        ("SE-Attn / sliding window", "at most 0.5"): (pytest.approx(0.4), True),
        ("SE-Attn / NoMem", "at most 1.3"): (pytest.approx(2), False),
    }
    backward = [
        point("se", 2, "forward+backward", input_bytes=100, peak_bytes=50),
        point("full", 2, "forward+backward", input_bytes=100, peak_bytes=20),
    ]
    found = {v.what: v for v in targets.verdicts({"operator": {"points": backward}})}
    assert found["peak memory / that of SDPA flash"].measured == pytest.approx(150 / 120)
    assert not found["peak memory / that of SDPA flash"].met


def test_the_documented_targets_are_those_that_are_judged():
    targets = load("suite.targets")
    page = (ROOT / "docs/guides/gpu.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+ \([a-z+ ]+(?:, [a-z+ ]+)?\)) \| (.*) \|$", page, flags=re.MULTILINE))
    expected = {}
    for target in targets.TARGETS:
        sign = "at least" if target.at_least else "at most"
        bounds = ", ".join(f"{length // 1024}k: {bound:g}" for length, bound in target.bounds.items())
        expected[f"{target.what} ({', '.join(target.passes)})"] = f"{sign} {bounds}"
    assert rows == expected


@pytest.mark.parametrize("selection", ["chunk", "token"])
def test_every_triton_kernel_can_be_tuned(selection):
    pytest.importorskip("triton")
    sizes, stages = load("suite.sizes").sizes_for("cpu", quick=True), load("suite.stages")
    found = stages.stages(sizes.options, (2, 2), 80, torch.float32, selection)
    assert set(found) == set(stages._kernels("*")) - {"own_chunks"}  # a choice between computations of one pass


def test_tuning_climbs_to_the_best_launch():
    tuning = load("tune")
    best = tuning.Launch(64, 32, 8, 2)

    def seconds(launch):
        if launch.block_m * launch.block_n > 128 * 128:
            return None  # too much shared memory
        return 1 + sum(abs(a - b) / b for a, b in zip(launch, best, strict=True))

    times = tuning.climb(tuning.Launch(128, 128, 4, 3), seconds, spent=lambda: False)
    assert next(iter(times)) == best
    assert all(launch.block_m * launch.block_n <= 128 * 128 for launch in times)
    stopped = tuning.climb(tuning.Launch(128, 128, 4, 3), seconds, spent=lambda: True)
    assert list(stopped) == [tuning.Launch(128, 128, 4, 3)]
    with pytest.raises(ValueError, match="fails or is wrong"):
        tuning.climb(best, lambda launch: None, spent=lambda: False)


def test_the_best_of_the_launches_tried_is_best_for_all_heads():
    def points(kept, other):
        for launch, times in ((1, kept), (2, other)):
            for heads, seconds in times.items():
                where = {"kernel": "forward", "place": ("sm_90", "half", "128"), "heads": heads, "kept": launch == 1}
                yield {**where, "launch": {"num_stages": launch}, "seconds": seconds}

    def best(kept, other):
        (found,) = load("suite.best").best_launches(list(points(kept, other)))
        return found["launch"]["num_stages"]

    few, many = (32, 8), (30, 30)
    assert best({few: 2.0, many: 2.0}, {few: 1.9, many: 1.5}) == 2
    assert best({few: 2.0, many: 2.0}, {many: 1.5}) == 1  # it failed for the others
    assert best({few: 2.0, many: 2.0}, {few: 1.99, many: 1.99}) == 1  # noise
    assert best({few: 2.0, many: 2.0}, {few: 2.01, many: 1.0}) == 1  # slower for some
    assert best({few: 2.0, many: 2.0}, {few: 2.0, many: 1.0}) == 2

    one = list(points({many: 2.0}, {many: 1.0}))  # there was no time for the others
    page = load("suite.report").markdown({"tune": {"points": one}})
    assert "slower for none of them: forward (2,) (30/30)." in page
    slower = list(points({few: 2.0, many: 2.0}, {few: 2.01, many: 1.0}))
    assert "slower for none of them: none." in load("suite.report").markdown({"tune": {"points": slower}})


def test_a_tuned_launch_is_kept_beside_the_others(tmp_path):
    tuning = load("tune")
    kept = Path(hylora_kernels.__file__).parent / "triton_backend/launches/forward.json"
    path = tmp_path / "forward.json"
    path.write_text(kept.read_text())
    launch = tuning.Launch(64, 16, 2, 5)
    tuning.keep(tmp_path, "forward", ("sm_90", "half", "128"), launch._asdict())
    before, after = json.loads(kept.read_text()), json.loads(path.read_text())
    assert after["sm_90"]["half"]["128"] == launch._asdict()
    before["sm_90"]["half"]["128"] = launch._asdict()
    assert after == before
    tuning.keep(
        tmp_path,
        "forward",
        ("sm_90", "half", "128"),
        json.loads(kept.read_text())["sm_90"]["half"]["128"],
    )
    assert path.read_text() == kept.read_text()


@pytest.mark.parametrize(("seconds", "library"), [(1.5, "cudnn"), (1.99, None)])
def test_the_library_that_is_faster_is_written_into_the_table(monkeypatch, capsys, tmp_path, seconds, library):
    pytest.importorskip("triton")
    tune, own_chunks = load("tune"), importlib.import_module("hylora_kernels.triton_backend.own_chunks")
    place = {"kernel": "own_chunks", "place": ["sm_90", "half", "128"]}
    points = [
        {**place, "heads": heads, "launch": choice._asdict(), "kept": choice.library is None, "seconds": time}
        for heads in ([30, 30], [32, 8])
        for choice, time in ((own_chunks.Choice(None, True), 2.0), (own_chunks.Choice("cudnn", False), seconds))
    ]
    (tmp_path / "gpu.json").write_text(json.dumps({"tune": {"points": points}}))
    monkeypatch.setattr(tune, "FOLDER", tmp_path)
    told = f"own_chunks.json: sm_90, half, 128: {json.dumps({'library': library, 'repeats': library is None})}"
    for write in ([], ["--write"]):
        monkeypatch.setattr(sys, "argv", ["tune.py", "--take", str(tmp_path / "gpu.json"), *write])
        tune.main()
        assert told in capsys.readouterr().out
        assert (tmp_path / "own_chunks.json").exists() == bool(write)
    monkeypatch.setattr(own_chunks, "_TABLE", tmp_path / "own_chunks.json")
    own_chunks._table.cache_clear()
    try:
        assert own_chunks.listed("sm_90", "half", "128") == own_chunks.Choice(library, library is None)
        assert own_chunks.listed("sm_90", "half", "64") == own_chunks.Choice(None, True)
    finally:
        own_chunks._table.cache_clear()


def test_tuning_times_a_triton_kernel_in_its_computation(monkeypatch, tmp_path, capsys):
    pytest.importorskip("triton")
    tune = load("tune")
    output = tmp_path / "launches.json"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    command = (
        f"tune.py --quick --device {device} --length 128 --seconds 0 --kernels forward retrieve --output {output}"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    tune.main()
    assert "| block_m | block_n |" in capsys.readouterr().out
    found = {item["kernel"]: item for item in json.loads(output.read_text())}
    assert set(found) == {"forward", "retrieve"}
    assert all(item["seconds"] > 0 and item["place"][1:] == ["single", "16"] for item in found.values())

    monkeypatch.setattr(tune, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", f"tune.py --take {output} --write".split())
    tune.main()
    architecture, width, head_dim = found["forward"]["place"]
    kept = json.loads((tmp_path / "forward.json").read_text())
    assert kept[architecture][width][head_dim] == found["forward"]["launch"]
