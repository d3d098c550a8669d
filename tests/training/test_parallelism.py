# SPDX-License-Identifier: Apache-2.0
"""What a launcher may ask for: whatever would not train what the recipe says is refused, by its name."""

from __future__ import annotations

import pytest
import yaml
from accelerate.utils import DistributedType

from hylora.training.parallelism import check_parallelism
from hylora.training.recipe import RecipeError
from tests.pages import ROOT
from tests.processes import launch_environment
from tests.training import toy


def fsdp(version=2, **options):
    return {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": version, **options}}


def parallelism(**sizes):
    return {**fsdp(), "parallelism_config": {f"parallelism_config_{name}": size for name, size in sizes.items()}}


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Set the environment as `accelerate launch` does for a configuration."""

    def set_environment(config):
        path = tmp_path / "accelerate.yaml"
        common = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2}
        path.write_text(yaml.safe_dump({**common, **config}))
        for name, value in launch_environment(path).items():
            monkeypatch.setenv(name, value)

    return set_environment


@pytest.mark.parametrize(
    ("config", "named", "reason"),
    [
        (parallelism(tp_size=2), r"tensor parallelism \(parallelism_config_tp_size\) of 2", "adapters"),
        (parallelism(cp_size=2), r"context parallelism \(parallelism_config_cp_size\) of 2", "recurrent layers"),
        (parallelism(dp_shard_size=2, sp_size=4), r"sequence parallelism \(.*sp_size\) of 4", "recurrent layers"),
        (fsdp(version=1), r"FSDP1 \(fsdp_version: 1\)", "set fsdp_version: 2"),
        (fsdp(fsdp_activation_checkpointing=True), "fsdp_activation_checkpointing", r"training\.gradient_checkpoint"),
        (fsdp(fsdp_ignored_modules="norm"), "fsdp_ignored_modules", "gradients"),
        ({"distributed_type": "MEGATRON_LM"}, r"Megatron-LM.*pipeline", "none of transformers"),
        ({"distributed_type": "MULTI_GPU", "mixed_precision": "fp16"}, "mixed_precision: fp16", "recipe's"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:12],
)
def test_what_would_train_something_else_is_refused(ask, config, named, reason):
    ask(config)
    with pytest.raises(RecipeError, match=rf"asked for {named}.*, which .*{reason}.*recipes/accelerate"):
        check_parallelism(DistributedType.MULTI_GPU)


def test_sharding_that_would_silently_not_happen_is_refused(ask, tmp_path):
    """accelerate would give every process on a CPU the whole model; the run ends before it has done anything."""
    ask(fsdp())
    with pytest.raises(RecipeError, match="asked for FSDP, which shards over several GPUs alone"):
        toy.whole_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tpu_is_refused():
    with pytest.raises(RecipeError, match="XLA"):
        check_parallelism(DistributedType.XLA)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_is_accepted(ask, path):
    ask({**yaml.safe_load(path.read_text()), "num_processes": 1 if path.stem == "single_gpu" else 2})
    check_parallelism(DistributedType.MULTI_GPU)


def test_replicas_of_shards_are_accepted(ask):
    ask(parallelism(dp_replicate_size=2, dp_shard_size=2))
    check_parallelism(DistributedType.MULTI_GPU)
