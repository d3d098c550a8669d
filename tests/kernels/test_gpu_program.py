# SPDX-License-Identifier: Apache-2.0
"""The program for a GPU, on a CPU: it goes on after what ends a process, keeps to its seconds, and runs through."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# A part whose third item ends the process, as a kernel does that reads where it must not.
CRASHING = """
import os, signal, sys, time
from pathlib import Path
from suite import results as suite_results
from suite.results import Results
from suite.timing import Budget

def lost():
    raise RuntimeError("an illegal memory access")

results = Results(Path(sys.argv[1]), sys.argv[2], patience=2.0)
section = results.start("crashing", lines=[])
for outer in section.todo(({"heads": heads} for heads in (1, 2)), Budget(60)):
    with section.attempt(**outer):
        for place in section.todo(({**outer, "item": item} for item in range(5)), Budget(60)):
            with section.attempt(**place):
                if place == {"heads": 1, "item": 2}:
                    os.kill(os.getpid(), signal.SIGKILL)
                if place == {"heads": 2, "item": 1}:
                    time.sleep(60)
                if place == {"heads": 2, "item": 2}:
                    raise RuntimeError("an error like others")
                if place == {"heads": 2, "item": 3}:
                    suite_results._synchronize = lost
                section.add("lines", place)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import each other by name, from their own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "gpu", raising=False)


def load(name: str):
    return importlib.import_module(name)


def test_what_a_process_was_at_is_left_out_by_the_next(tmp_path):
    results, budget = load("suite.results"), load("suite.timing").Budget(60)
    places = [{"heads": (2, heads)} for heads in (1, 2)]
    first = results.Results(tmp_path, "run").start("part")
    first.add("done", {"heads": [2, 1]})
    attempt = first.attempt(heads=(2, 2))
    attempt.__enter__()  # and never left
    then = results.Results(tmp_path, "run").start("part")
    assert list(then.todo(places, budget)) == []
    (item,) = then["left_out"]
    assert item["heads"] == [2, 2] and "ended here" in item["reason"] and then.failed
    another_attempt = then.attempt(heads=(2, 1))
    another_attempt.__enter__()
    report = results.Results(tmp_path, "another run")  # of a part after one that was ended at its time
    assert [item["heads"] for item in report.data["part"]["left_out"]] == [[2, 2], [2, 1]]
    another = report.start("part")
    assert list(another.todo(places, budget)) == places and not another.failed


def test_a_process_that_ended_well_is_not_taken_for_one_that_did_not(tmp_path):
    """Also where the last thing that it did left no result."""
    results = load("suite.results").Results
    with results(tmp_path, "run").start("part").attempt(heads=(2, 2)):
        pass
    assert results(tmp_path, "another run").data["part"]["left_out"] == []


@pytest.mark.slow
def test_what_ends_a_process_takes_only_itself_out(monkeypatch, tmp_path):
    """Killed, hanging, raising, or having lost the device, which shows when one waits for it."""
    gpu, script = load("gpu"), tmp_path / "crashing.py"
    script.write_text(CRASHING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (BENCHMARKS, ROOT / "eval", ROOT))))
    monkeypatch.setattr(gpu, "command_of", lambda part, run, *rest: [sys.executable, script, tmp_path, run])
    assert not gpu.run_part("crashing", 100, 100, tmp_path, [])
    data = json.loads((tmp_path / "gpu.json").read_text())["crashing"]
    done = [(line["heads"], line["item"]) for line in data["lines"]]
    assert done == [
        (heads, item) for heads in (1, 2) for item in range(5) if (heads, item) not in ((1, 2), (2, 1), (2, 2))
    ]
    reasons = {(item["heads"], item["item"]): item["reason"] for item in data["left_out"]}
    assert len(reasons) == len(data["left_out"])
    assert reasons == {
        (1, 2): "the process ended here: see gpu.log",
        (2, 1): "the process ended here: see gpu.log",
        (2, 2): "RuntimeError: an error like others",
        (2, 3): "RuntimeError: an illegal memory access",
    }


def test_a_part_over_its_time_is_ended_with_all_that_it_started(tmp_path):
    gpu = load("gpu")
    script = """
import subprocess, sys, time
child = "import sys, time; time.sleep(1); open(sys.argv[1], 'w')"
for group in (None, 0):
    subprocess.Popen([sys.executable, "-c", child, f"{sys.argv[1]}/late {group}"], process_group=group)
time.sleep(60)
"""
    started = time.monotonic()
    assert gpu.run_process([sys.executable, "-c", script, tmp_path], 0.5) < 0
    assert time.monotonic() - started < 1
    time.sleep(1)
    assert not list(tmp_path.iterdir())


def test_no_part_starts_a_session():
    """It would outlive the part that is ended."""
    assert not [path for path in (BENCHMARKS / "suite").glob("*.py") if "start_new_session" in path.read_text()]


def test_a_part_that_was_not_done_is_named(monkeypatch, tmp_path):
    """Also one that had not begun, or was ended before it could say anything; until it is done."""
    gpu, report = load("gpu"), load("suite.report")
    ends = {"kernels": -9, "check": 0, "report": 0}
    monkeypatch.setattr(gpu, "command_of", lambda part, *rest: part)
    monkeypatch.setattr(gpu, "run_process", lambda part, seconds: ends[part])
    left_out = lambda: json.loads((tmp_path / "gpu.json").read_text())["parts"]["left_out"]  # noqa: E731
    gpu.run_all({"check": 10, "kernels": 10}, gpu.REPORT + 20.5, tmp_path, [])
    (item,) = left_out()
    assert item["part"] == "kernels" and "exit code -9" in item["reason"]
    gpu.run_all({"check": 10}, gpu.REPORT + 0.5, tmp_path, [])
    assert left_out()[1:] == [{"part": "check", "reason": "no time left"}]
    assert "| parts | check | no time left |" in report.markdown({"parts": {"left_out": left_out()}})
    gpu.run_all({"check": 10}, gpu.REPORT + 10, tmp_path, [])
    assert [item["part"] for item in left_out()] == ["kernels"]


def test_a_report_alone_has_the_time_of_everything(monkeypatch, tmp_path):
    gpu, given = load("gpu"), {}
    monkeypatch.setattr(gpu, "run_process", lambda command, seconds: given.update({command[3]: seconds}) or 0)
    for what in (["report"], ["report", "--seconds", "100"], ["decode", "--seconds", "5"]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *what, "--output", str(tmp_path)])
        with pytest.raises(SystemExit, match="0"):
            gpu.main()
        seconds = 5 if "decode" in what else 100 if "100" in what else sum(gpu.parts_of(["all"]).values())
        assert given.pop("report") == pytest.approx(max(gpu.REPORT, seconds), abs=gpu.REPORT + 1)


def test_without_torch_one_sentence_says_so(tmp_path):
    command = [sys.executable, "-S", BENCHMARKS / "gpu.py", "--dry-run", "--output", tmp_path / "results"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert run.returncode != 0 and not run.stdout
    assert run.stderr.count("\n") == 1 and "has no torch" in run.stderr
    assert not (tmp_path / "results").exists()


def test_what_hangs_leaves_time_for_the_rest():
    gpu, part = load("gpu"), load("suite.part")
    patience = {name: part.patience_of(name, left) for name, left in gpu.parts_of(["all"]).items()}
    assert {name for name, seconds in patience.items() if seconds is None} == {"compile", "tools", "tests"}
    assert all(seconds is None or seconds <= gpu.parts_of([name])[name] / 2 for name, seconds in patience.items())
    assert part.patience_of("check", 1000) == 45


def test_tools_watch_what_is_compiled_ahead(monkeypatch):
    compiling, once, sizes = load("suite.compiling"), load("suite.once"), load("suite.sizes")
    seen = []
    monkeypatch.setattr(once, "random_tensors", lambda *shape: seen.append(shape[:2]) or [None] * 4)
    monkeypatch.setattr(once, "output_and_gradients", lambda *_: None)
    monkeypatch.setattr(once, "decode_step", lambda *_: lambda: None)
    for more in ([], ["--real"]):
        monkeypatch.setattr(sys, "argv", ["once", "--dry-run", *more])
        once.main()
    assert set(seen) <= {job["heads"] for job in compiling.jobs(sizes.sizes_for("cpu", quick=True))}


def test_checks_that_take_longest_come_last():
    pytest.importorskip("triton")
    checks, sizes = load("suite.kernel_checks"), load("suite.sizes").sizes_for("cuda", quick=False)
    places = list(checks._places(sizes))
    lengths = [place["length"] for place in places]
    assert lengths == sorted(lengths)
    assert {place["dtype"] for place in places if place["length"] == lengths[0]} == {"bfloat16", "float32"}


def test_seconds_are_shared_out():
    gpu = load("gpu")
    waiting = {"one": 10, "two": 30}
    assert gpu.allowance(waiting, 40) == (10, 40)
    assert gpu.allowance(waiting, 80) == (20, 80)
    assert gpu.allowance(waiting, 20) == (10, 20)
    assert gpu.allowance(waiting, 5) == (5, 5)
    assert list(gpu.parts_of(["second", "decode"])) == ["tune", "decode"]
    assert list(gpu.parts_of(["all"])) == [part for parts in gpu.STAGES.values() for part in parts]
    assert gpu.parts_of(["report"]) == {}
    assert set(gpu.parts_of(["all"])) == set(load("suite.part").PARTS)


def test_the_documented_parts_are_those_that_are_run():
    page = (ROOT / "docs/guides/gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`\w+` )?\| `(\w+)` \| (\d+) \|", page, flags=re.MULTILINE)
    parts = [(part, str(seconds)) for parts in load("gpu").STAGES.values() for part, seconds in parts.items()]
    assert rows == parts


def test_a_wrong_triton_kernel_is_named(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    checks, results, sizes, timing = (
        load(f"suite.{name}") for name in ("kernel_checks", "results", "sizes", "timing")
    )
    right = checks.triton_backend.span_backward

    def wrong(*arguments):
        query, key, value = right(*arguments)
        return query, key, 1.01 * value

    monkeypatch.setattr(checks.triton_backend, "span_backward", wrong)
    place = {"selection": "chunk", "dtype": "float32", "heads": (2, 2), "length": 77}
    monkeypatch.setattr(
        checks, "_places", lambda sizes: [{"kernel": name, **place} for name in ("forward", "backward")]
    )
    found = results.Results(tmp_path)
    assert not checks.check_kernels(sizes.sizes_for("cpu", quick=True), found, timing.Budget(100))
    lines = found.data["kernel checks"]["lines"]
    assert {line["kernel"] for line in lines if line["passed"]} == {"forward"}
    assert all(line["errors"]["dv"] > 5e-3 > 1e-5 > line["errors"]["dk"] for line in lines if not line["passed"])


def test_a_sink_is_chosen_by_all():
    pytest.importorskip("triton")
    runs, times, methods = (load(f"suite.{name}") for name in ("runs", "kernel_times", "methods"))
    options = methods.Options(block_size=16, top_k=2, chunk_size=64, head_dim=16)
    tensors = runs.sink_tensors(16, 4, 2, 640, 16, torch.float32, "cpu")
    for chosen in (options.span, options.recall):
        blocks = times.select_blocks(*tensors[:3], **chosen)[0]
        assert times._share_of_first(blocks) == 1


def test_a_library_that_ignores_what_it_is_given_is_found_out(tmp_path):
    pytest.importorskip("triton")
    foreign, sizes = load("suite.foreign"), load("suite.sizes").sizes_for("cpu", quick=True)
    library = foreign.LIBRARIES["cpu"]
    ask = foreign._QUESTIONS["does its backward take a foreign log-sum-exp?"]
    assert ask(library, sizes)[0]

    def backward(grad, query, key, value, output, lse, scale):
        return library.backward(grad, query, key, value, *library.forward(query, key, value, scale), scale)

    assert not ask(library._replace(backward=backward), sizes)[0]


def test_the_page_of_what_is_possible_shows_what_is_derived():
    roofline = load("roofline")
    page = (ROOT / "docs/reference/roofline.md").read_text(encoding="utf-8")
    for part in roofline.tables(roofline.ASSUMED):
        assert part in page
    # At that share the ratio is what is asked for.
    place = ((30, 30), roofline.ASSUMED["H200"], 65536)
    assert roofline.over_chunks({"forward": roofline.share_for(1.3, *place)}, *place) == pytest.approx(1.3)


def test_a_library_is_usable_that_answered_yes_to_what_matters():
    pytest.importorskip("triton")
    foreign = load("suite.foreign")
    lines = [{"library": name, "question": q, "answer": True} for name in "abc" for q in foreign._QUESTIONS]
    repeats = list(foreign._QUESTIONS).index(foreign._DOES_IT_REPEAT)
    lines[repeats]["answer"] = False
    lines[len(foreign._QUESTIONS) + 1]["answer"] = False
    del lines[-2:]  # there was no time
    assert foreign.usable(lines) == {"a": False, "c": True}


def test_tests_of_the_kernels_come_first():
    files = load("suite.testing").files()
    assert files[0] == "tests/kernels/triton_backend/test_backward.py"
    assert "tests/kernels/test_layout.py" not in files
    assert files.index("tests/kernels/triton_backend/test_forward.py") < files.index("tests/kernels/test_ops.py")


AHEAD = """
from suite.compiling import compile_calls, own_chunks_given
from hylora_kernels.options import SpanOptions
import torch
for options in (SpanOptions(16, 2, 64), SpanOptions(8, 4, 64, selection="token", summary="mean_std")):
    arguments = 16, torch.bfloat16, options
    ahead = {kernel.hash for kernel in compile_calls(90, (8, 2), (397, 9000), (9000,), *arguments)}
    later = {kernel.hash for kernel in compile_calls(90, (8, 2), (9000,), (9000,), *arguments)}
    assert later and later <= ahead, (len(later), len(later & ahead))
    with own_chunks_given():
        given = {kernel.hash for kernel in compile_calls(90, (8, 2), (205,), (), *arguments)}
    assert given - ahead
"""


@pytest.mark.slow
def test_what_is_compiled_ahead_is_what_longer_sequences_run():
    """Else the GPU would wait for the compiler after all."""
    pytest.importorskip("triton")
    paths = (BENCHMARKS, ROOT / "kernels/torch-ext", ROOT / "eval", ROOT)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    run = subprocess.run([sys.executable, "-c", AHEAD], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_the_one_command_runs_through(tmp_path):
    """On a CPU, at sizes at which nothing can be learned but that it runs."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = ["bash", BENCHMARKS / "gpu.sh", "--output", tmp_path, "--dry-run", "--seconds", "3000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=3100)
    assert run.returncode == 0, run.stdout + run.stderr
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert not [name for name in data if name.endswith("failure")]
    assert all(line["passed"] for name in data if name.endswith("checks") for line in data[name]["lines"])
    assert len(data["kernel checks"]["lines"]) == 2 * 2 * 2 * (6 + 1)
    assert data["tests"]["passed"] > 10 and not data["tests"]["failures"]
    assert len(data["tune"]["points"]) == 2 * (2 + 4 + 1 + 3 + 1 + 3 + 1 + 3 + 1)
    assert data["compile"]["lines"] and not data["compile"]["left_out"]
    assert all(line["kernels"] for line in data["compile"]["lines"])
    assert {line["answer"] for line in data["own chunks by a library"]["lines"]} == {True, None}
    assert [line["exit_code"] for line in data["tools"]["lines"]][:1] == [0]
    for selection in ("chunk", "token"):
        for inputs in ("random", "sink"):
            place = {"selection": selection, "inputs": inputs}
            for key in ("points", "lines"):
                assert [line for line in data["kernels"][key] if place.items() <= line.items()]

    points = data["operator"]["points"]
    places = {(*point["heads"], point["length"], point["pass"]) for point in points}
    assert len(places) == 2 * 2 * 3
    for point in points:
        assert point["time"]["smallest"] <= point["time"]["median"] <= point["time"]["largest"]
        assert point["peak_bytes"] > 0
        assert point["matmul_fraction"] > 0 and point["copy_fraction"] > 0
    steps = data["step"]["points"]
    assert {point["contender"] for point in steps} == {"full", "sw_attn", "s2_attn", "se_attn"}
    assert all(point["tokens_per_second"] > 0 for point in steps)
    assert data["planner"]["results"][0]["ratio"] == pytest.approx(1, abs=0.1)
    # What cannot run here is named, with the reason.
    left_out = {item["method"]: item["reason"] for item in data["operator"]["left_out"]}
    assert left_out["cudnn"] == "needs a CUDA device"

    page = (tmp_path / "gpu.md").read_text()
    assert "the times mean nothing" in page
    assert "| 2/2 | forward | 64 |" in page
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"attention_2_2.png", "attention_4_2.png", "figure_6_9.png", "speedup.png"}
    assert {path.name for path in tmp_path.iterdir()} == pictures | {"gpu.json", "gpu.md", "gpu.log"}
