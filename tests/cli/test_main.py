# SPDX-License-Identifier: Apache-2.0
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

import hylora_cli
from hylora.cli.env import _hub_kernels, _layer_kernels
from hylora.environment import environment
from hylora_eval import commands
from tests.command_line import run
from vision_extras import commands as vision_commands


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (
            ("--help",),
            {**hylora_cli._COMMANDS, "demo": commands.DEMO, "eval": commands.EVAL, "images": vision_commands.IMAGES},
        ),
        (("eval", "--help"), commands.COMMANDS),
        (("images", "--help"), vision_commands.COMMANDS),
    ],
    ids=["hylora", "hylora eval", "hylora images"],
)
def test_help_tells_of_every_command_and_loads_no_library(arguments, commands):
    script = (
        "import sys; from hylora_cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'hylora', 'peft', 'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
    assert found.stderr.strip() == "[]"
    lines = found.stdout.splitlines()
    for name, (_, _, text) in commands.items():
        assert text and any(name in line and text in line for line in lines), name


@pytest.mark.parametrize(
    ("module", "attribute", "text"),
    [
        *hylora_cli._COMMANDS.values(),
        *(commands.DEMO, commands.EVAL, vision_commands.IMAGES),
        *commands.COMMANDS.values(),
        *vision_commands.COMMANDS.values(),
    ],
)
def test_every_command_is_where_the_table_says(module, attribute, text):
    assert isinstance(getattr(importlib.import_module(module), attribute), Callable | dict)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--help"),
        ("eval", "ppl", "--help"),
        ("eval", "runtime", "--help"),
        ("demo", "--help"),
        ("images", "eval", "--help"),
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_only_the_evaluation_asked_for_is_imported():
    script = (
        "import sys; from hylora_cli import build_app; build_app(['eval', 'ppl', '--help']); "
        "print(sorted(name for name in sys.modules if name.startswith('hylora_eval.commands.')))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert "'hylora_eval.commands.ppl'" in output.stdout and "runtime" not in output.stdout


def test_a_misspelt_command_is_met_with_the_nearest():
    result = run("trian")
    assert result.exit_code == 2
    assert "train" in result.output


def test_env_shows_versions_and_choices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = run("env").output
    for name in ("torch", "transformers", "peft"):
        assert importlib.metadata.version(name) in output
    assert "se_attn" in output
    assert "tracking.trackers=[trackio]" in output
    assert "use_kernels" in output


@pytest.fixture
def rows_on(monkeypatch):
    """What `hylora env` will use, and why, on a GPU that is not there."""

    def rows(capability, hip=None):
        monkeypatch.setenv("COLUMNS", "200")
        facts = {"is_available": True, "is_bf16_supported": True, "get_device_name": "H200"}
        for name, value in facts.items() | {("get_device_capability", capability)}:
            monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, value=value: value)
        monkeypatch.setattr("torch.version.hip", hip)
        cells = [[cell.strip() for cell in line.split("│")] for line in run("env").output.splitlines() if "│" in line]
        return {row[1]: row[2:4] for row in cells}

    return rows


def test_env_names_the_kernels_of_a_gpu(rows_on):
    found = rows_on((9, 0))
    rows = {name: row[0] for name, row in found.items()}
    assert (rows["device"], rows["mixed precision"]) == ("cuda", "bf16")
    assert rows["se_attn"] == ("triton" if importlib.util.find_spec("triton") else "flash")
    assert rows["own chunks of se_attn"] == rows["se_attn"]
    if importlib.util.find_spec("triton"):
        assert found["own chunks of se_attn"][1] == "no library was measured on sm_90"
    assert rows["sw_attn, s2_attn"] == "flash"


@pytest.mark.parametrize(("hip", "why"), [("7.1.2", "built for ROCm 7.1.2"), (None, "compute capability (7, 5)")])
def test_env_says_why_a_gpu_takes_no_kernels(rows_on, hip, why):
    rows = rows_on((7, 5), hip)
    assert rows["device"][0] == "cuda"
    for attention in ("se_attn", "sw_attn, s2_attn"):
        assert rows[attention][0] == "torch" and why in rows[attention][1]


@pytest.mark.parametrize("folder", ["kernels--kernels-community--mamba-ssm", "models--kernels-community--mamba-ssm"])
def test_env_names_the_kernels_of_the_hub_that_are_here(monkeypatch, tmp_path, folder):
    monkeypatch.setattr("hylora.hub_kernels.check_hub_kernels", lambda device: None)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    assert _hub_kernels(True)[1].endswith("none; the first use downloads them")
    (tmp_path / folder).mkdir()
    assert _hub_kernels(True) == ("kernels of the Hub", "in the cache: kernels-community/mamba-ssm")


def test_env_tells_a_package_that_is_broken_from_one_that_is_missing(monkeypatch, tmp_path):
    (tmp_path / "fla.py").write_text("raise OSError('libcudart.so')")
    monkeypatch.syspath_prepend(tmp_path)
    _, choice, why = _layer_kernels("gated delta rule", "fla", "causal_conv1d")
    assert choice == "transformers' torch code"
    assert "flash-linear-attention cannot be loaded (libcudart.so); causal-conv1d is not installed" in why


def test_the_environment_is_plain_text():
    assert all(isinstance(value, str) and value for value in environment().values())


WRONG = [
    ("train", "nowhere.yaml"),
    ("train", "recipe.yaml", "optimizer.learning_rate=1"),
    ("train", "recipe.yaml", "training.steps=many"),
    ("train", "recipe.yaml", "model.path=./nowhere"),
    ("plan", "nowhere.yaml"),
    ("plan", "recipe.yaml", "model.pth=x"),
    ("plan", "--model", "./nowhere"),
    ("audit", "./nowhere"),
    ("audit", "--recipe", "recipe.yaml", "--small", "nowhere/a/b"),
    ("audit", "nowhere.yaml"),
    ("audit", "--recipe", "recipe.yaml", "--json", "nowhere/audit.json"),
    ("audit", ".", "--ask", "nowhere"),
    ("audit", ".", "--attention", "nowhere"),
    ("audit", "nowhere.txt"),
    ("generate", "./nowhere", "--prompt", "a"),
    ("export", "./nowhere", "elsewhere"),
    ("convert", "mamba2attn", "nowhere", "elsewhere"),
    ("eval", "ppl", "--model", "outputs/nowhere", "--lengths", "16", "--data", "x"),
    ("eval", "ruler", "--model", "./nowhere", "--lengths", "16"),
    ("eval", "harness", "--model", "./nowhere", "--tasks", "x"),
    ("eval", "retrieval", "--model", "./nowhere", "--lengths", "16"),
    ("eval", "runtime", "--model", "./nowhere", "--lengths", "16"),
    ("eval", "report", "nowhere"),
    ("images", "eval", "nowhere"),
]
MISTYPED = [("trian",), ("train",), ("eval", "ppl", "--lenghts", "16"), ("eval", "ppl", "--lengths", "many")]
HELP = [
    (),
    ("train",),
    ("plan",),
    ("audit",),
    ("generate",),
    ("export",),
    ("convert", "mamba2attn"),
    ("env",),
    ("demo",),
]
HELP += [("eval", name) for name in commands.COMMANDS] + [("images", name) for name in vision_commands.COMMANDS]


def test_options_and_wrong_input_are_answered_without_the_libraries_of_training(tmp_path):
    """In one process, so that whatever is imported shows from then on; it takes seconds that nobody should wait."""
    recipe = {"model": {"path": "a/b"}, "data": {"sources": [{"path": "x"}]}, "output": {"path": "out"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "outputs").mkdir()
    (tmp_path / "nowhere.txt").touch()
    asked = [(*words, "--help") for words in HELP] + MISTYPED + WRONG
    script = f"""
import contextlib, io, json, sys
from hylora_cli import main
for words in {asked!r}:
    sys.argv, told = ["hylora", *words], io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try: main()
        except SystemExit as stop: status = stop.code
    imported = sorted({{"torch", "transformers", "peft", "accelerate", "datasets"}} & set(sys.modules))
    print(json.dumps([words, status, told.getvalue(), imported]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    for line in done.stdout.splitlines():
        words, status, told, imported = json.loads(line)
        assert (status, imported) == (0 if words[-1] == "--help" else 2, []), words
        if tuple(words) in WRONG:
            assert re.fullmatch(r"error: .*nowhere.*|error: unknown key .*|error: .* must be .*", told.strip()), told
    assert len(done.stdout.splitlines()) == len(asked)


@pytest.mark.parametrize("error", [OSError("disk full"), ImportError("no matplotlib")])
def test_right_input_that_does_not_run_through_has_another_status(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr("hylora.cli.env.environment", fail)
    monkeypatch.setattr(sys, "argv", ["hylora", "env"])
    with pytest.raises(SystemExit) as stopped:
        hylora_cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"
