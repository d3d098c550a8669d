# SPDX-License-Identifier: Apache-2.0
"""A whole run: from a recipe to a folder that `hylora.load` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from hylora.language.data import TokenData, build_datasets
from hylora.language.head import verify_head
from hylora.language.model import ModelPlan, build_model, plan_model
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss, LanguageTask
from hylora.runs.manifest import MANIFEST_NAME
from hylora.runs.tokenizer import read_tokenizer
from hylora.training.checkpoint import CheckpointError
from hylora.training.loop import SHARDED, Trainer, build_accelerator
from hylora.training.optimizer import check_optimizer, trainable
from hylora.training.processes import on_main
from hylora.training.recipe import RecipeError
from hylora.training.run_folder import RunFolder
from hylora.training.trackers import check_trackers, flatten

__all__ = ["RunResult", "train"]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        folder: of the run; `hylora.load(folder)` gives the model when the run is finished.
        steps: updates made.
        evaluation: held-out metrics (`loss`, `perplexity`) at the end, empty without held-out data.
        stopped_by: the signal that stopped it before its end, or None.
    """

    folder: Path
    steps: int
    evaluation: dict[str, float]
    stopped_by: str | None = None


def train(recipe: LanguageRecipe) -> RunResult:
    """Train as a recipe says; with several processes, each calls this.

    What can be checked is checked first: no model is loaded, no data read and nothing deleted for a recipe that cannot
    work.

    Args:
        recipe: the recipe.

    Returns:
        What it came to. A run that a signal stopped has saved a checkpoint and exported nothing.

    Raises:
        RecipeError: if the recipe cannot work here.
        TrainingError: if training diverges.
        CheckpointError: if a checkpoint cannot be written or read, or the results cannot be written.
    """
    check_trackers(recipe.tracking.trackers)
    check_optimizer(recipe.optimizer)
    folder = RunFolder(recipe.output.path)
    accelerator = build_accelerator(recipe.training, recipe.tracking, folder)
    on_main(accelerator, lambda: folder.check(recipe))
    plan = plan_model(recipe)
    tokenizer = _load_tokenizer(recipe, plan)
    data = _read_data(recipe, tokenizer, accelerator)
    model = build_model(recipe, plan, accelerator.mixed_precision)
    task = LanguageTask(
        CausalLoss(model, recipe.training.loss_slice), tokenizer, data.train, data.validation, recipe, plan
    )
    _verify_head(model, accelerator)
    on_main(accelerator, lambda: folder.check_space(_bytes_needed(model, recipe)))
    trainer = Trainer(
        task,
        accelerator,
        folder,
        loop=recipe.training,
        optimizer=recipe.optimizer,
        evaluation=recipe.evaluation,
        tracking=recipe.tracking,
        output=recipe.output,
    )
    checkpoint = on_main(accelerator, lambda: folder.claim(recipe))
    on_main(accelerator, lambda: folder.describe_data(data.description))
    if recipe.tracking.trackers:
        accelerator.init_trackers(recipe.tracking.project, config=flatten(recipe.to_tree()))
    try:
        outcome = trainer.run(checkpoint)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
    if outcome.stopped_by is None:
        state = trainer.gathered_state()
        try:
            on_main(accelerator, lambda: folder.export(lambda path: task.save(path, state), last=MANIFEST_NAME))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the results could not be written to {str(folder.path)!r}: {error}. Make room on the disk, then go "
                "on from the last checkpoint with training.resume=true"
            ) from error
    return RunResult(folder.path, outcome.step, outcome.evaluation, outcome.stopped_by)


def _load_tokenizer(recipe: LanguageRecipe, plan: ModelPlan) -> Any:
    key = "path" if recipe.model.tokenizer is None else "tokenizer"
    source = getattr(recipe.model, key)
    try:
        tokenizer = read_tokenizer(
            source,
            revision=recipe.model.revision if key == "path" else None,
            trust_remote_code=recipe.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.{key}={source!r} gives no tokenizer: {error}") from error
    vocabulary = plan.config.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise RecipeError(
            f"model.{key}={source!r} gives a tokenizer of {len(tokenizer)} tokens, but the model has {vocabulary}; "
            "they do not belong together"
        )
    return tokenizer


def _read_data(recipe: LanguageRecipe, tokenizer: Any, accelerator: Accelerator) -> TokenData:
    # The main process fills the cache, the others read it.
    with accelerator.main_process_first():
        try:
            return build_datasets(recipe.data, tokenizer, recipe.training.sequence_length, recipe.training.seed)
        except ValueError as error:
            raise RecipeError(str(error)) from error


def _verify_head(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Make sure, on a few tokens, that the sliced loss is the loss of this model's logits."""
    if accelerator.distributed_type in SHARDED:
        # The whole model need not fit on one device.
        return
    model.to(accelerator.device).eval()
    try:
        with accelerator.autocast():
            verify_head(model, torch.arange(4, device=accelerator.device)[None])
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
    model.train()


def _bytes_needed(model: torch.nn.Module, recipe: LanguageRecipe) -> int:
    """Disk space for checkpoints (weights and two moments; one more than is kept, while it is written) and results."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainable(model).values())
    checkpoints = recipe.output.keep_checkpoints + 1 if recipe.output.checkpoint_every else 1
    return weights * (3 * checkpoints + 1)
