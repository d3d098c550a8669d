# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/guides/ecosystem.md run as they stand there, but shorter and on a CPU; its figures are right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import config as datasets_config

import hylora
from tests.ecosystem.fake_hub import serve
from tests.pages import blocks, page
from tests.tiny import tiny_bamba

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
TRAINER, SFT, PUSH, PULL, PUSH_LOADED, PUSH_RUN, PULL_RUN = blocks(page("docs/guides/ecosystem.md"), "python")
IDS = torch.arange(6, 16)[None]


def shortened(script: str) -> str:
    for written, run in (
        ("max_steps=1000", "max_steps=3"),
        ("gradient_accumulation_steps=64", "gradient_accumulation_steps=2"),
        ("save_steps=100", "save_steps=2"),
        ("bf16=True", "bf16=True, use_cpu=True"),
    ):
        assert script.count(written) == 1
        script = script.replace(written, run)
    return script


@pytest.fixture
def workplace(tmp_path, monkeypatch, tokenizer, texts):
    """A folder with a model `bamba` and a file `books.jsonl`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    tiny_bamba(dtype=torch.bfloat16).save_pretrained("bamba")
    tokenizer.save_pretrained("bamba")
    Path("books.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path


@torch.no_grad()
def assert_left_as_trained(folder, model):
    loaded = hylora.load(folder, trainable=True).eval()
    assert loaded.config._attn_implementation == "se_attn"
    # the trainer leaves its autocast on the model
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loaded(IDS).logits.float(), model.eval()(IDS).logits)
    assert not torch.equal(loaded(IDS).logits, tiny_bamba(dtype=torch.bfloat16)(IDS).logits)


@pytest.mark.parametrize(
    ("script", "folder"), [(TRAINER, "out/trainer"), (SFT, "out/sft")], ids=["Trainer", "SFTTrainer"]
)
def test_a_script_trains_resumes_and_leaves_a_run_behind(workplace, script, folder):
    if script is SFT:
        pytest.importorskip("trl")
    names: dict = {}
    exec(shortened(script), names)
    assert_left_as_trained(folder, names["model"])
    assert Path(folder, "tokenizer_config.json").is_file()
    assert not re.search("hylora", Path(folder, "adapter_config.json").read_text())

    longer = shortened(script).replace("max_steps=3", "max_steps=4")
    again: dict = {}
    exec(longer.replace(".train()", ".train(resume_from_checkpoint=True)"), again)
    assert again["trainer"].state.global_step == 4
    assert_left_as_trained(folder, again["model"])


@pytest.mark.slow
def test_accelerate_launches_a_script_that_trains_pushes_and_pulls(workplace):
    Path("script.py").write_text("\n".join([shortened(TRAINER), PUSH, PUSH_RUN, PUSH_LOADED, PULL_RUN, PULL]))
    with serve(workplace / "hub") as address:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(workplace / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "hf_of_nobody",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "script.py"]
        subprocess.run(command, check=True, env={**os.environ, **settings}, timeout=300)
    pushed = {path.name for path in (workplace / "hub/me/bamba-books-run").rglob("*")}
    weights = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert pushed == {*weights, "hylora.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in (workplace / "hub/me/bamba-books").iterdir()} == set(weights)
