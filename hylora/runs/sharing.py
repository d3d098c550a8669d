# SPDX-License-Identifier: Apache-2.0
"""What a loaded model takes along when it is saved or pushed, so that `hylora.load` gives the same model again.

A model in hand knows neither the attention it was trained with nor its tokenizer. So one that `hylora.load` gave is of
a class of its own, below that of transformers or PEFT, as models that FSDP shards are; other models stay as they are.
"""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from peft import PeftModel
from torch import nn

from hylora.adapters.structure import base_model
from hylora.attention.names import PLUG_INS
from hylora.runs.card import card_metadata, model_card
from hylora.runs.manifest import RunManifest
from hylora.runs.record import RunRecord
from hylora.runs.tokenizer import find_tokenizer
from hylora.runs.whereabouts import CARD, is_hub_id

__all__ = ["Origin", "take_along"]


@dataclass(frozen=True)
class Origin:
    """Where a loaded model is from.

    Args:
        run: folder or hub id.
        revision: on the hub.
        folder: that holds what was read of it.
        manifest: that lies there.
        changed: whether it trains on, or was loaded with other positions than it was trained with: the model in hand
            then says what it is, and not the manifest.
    """

    run: str
    revision: str | None
    folder: Path
    manifest: RunManifest
    changed: bool

    def manifest_of(self, model: nn.Module) -> RunManifest | None:
        """What to write beside the model's weights; None for a plain model under full attention."""
        plain = self.manifest == RunManifest()
        if plain and base_model(model).config._attn_implementation not in PLUG_INS:
            return None
        if not (plain or self.changed):
            return self.manifest
        return replace(RunManifest.of(model), context_length=self.manifest.context_length)


def take_along(model: nn.Module, origin: Origin) -> nn.Module:
    """Let a loaded model be saved and pushed with its manifest, its tokenizer and a card.

    Args:
        model: a transformers model, or a PEFT model around one; its class changes.
        origin: of it.

    Returns:
        The model.
    """
    model.__class__ = _sharing(type(model))
    model._hylora_origin = origin
    return model


@cache
def _sharing(plain: type[nn.Module]) -> type[nn.Module]:
    names = ("__module__", "__qualname__", "__doc__")
    return type(plain.__name__, (_Sharing, plain), {name: getattr(plain, name) for name in names})


class _Sharing:
    _hylora_origin: Origin

    def save_pretrained(self, save_directory: Any, *arguments: Any, **options: Any) -> None:
        """As the class above, with `hylora.json`, the tokenizer and a model card.

        Raises:
            ValueError: if a run is to be pushed by `push_to_hub=True`, which uploads before those are there.
        """
        self._save(Path(save_directory), Path(save_directory).resolve().name, *arguments, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | str | None = None,
        revision: str | None = None,
        **commit: Any,
    ) -> Any:
        """As the class above, with `hylora.json`, the tokenizer and a model card; a card in the repository stays.

        A plain model under full attention is pushed just as the class above does.

        Args:
            repo_id: of the repository, which is made if need be.
            private: whether a new repository is.
            token: of the hub.
            max_shard_size: largest size of one file of weights.
            tags: further ones, for the card.
            revision: branch to push to, which is made if need be.
            **commit: further arguments of `HfApi.upload_folder`, such as `commit_message`.

        Raises:
            ValueError: if the base of an adapter is a folder here, where nobody else can load it.
        """
        tags = [tags] if isinstance(tags, str) else list(tags or ())
        manifest = self._hylora_origin.manifest_of(self)
        if manifest is None:
            commit |= {"private": private, "token": token, "revision": revision, "tags": tags}
            return super().push_to_hub(repo_id, max_shard_size=max_shard_size, **commit)
        self._check_base(manifest)
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), repo_id, max_shard_size=max_shard_size)
            card = Path(folder, CARD)
            if api.file_exists(repo_id, CARD, revision=revision, token=token):
                card.unlink(missing_ok=True)
            elif tags:
                told = ModelCard.load(card)
                told.data.tags = [*(told.data.tags or []), *tags]
                told.save(card)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, token=token, revision=revision, **commit)

    def _check_base(self, manifest: RunManifest) -> None:
        """Refuse to publish an adapter of a base that nobody else has."""
        if not isinstance(self, PeftModel):
            return
        for base in (manifest.base_model, self.active_peft_config.base_model_name_or_path):
            if base is not None and not is_hub_id(base):
                raise ValueError(
                    f"the adapter's base {base!r} is a folder here, and nobody else could load what is pushed; push "
                    "the base and name its hub id as base_model in hylora.json and as base_model_name_or_path in "
                    "adapter_config.json, or push the model that `hylora export` makes of the run"
                )

    def _save(self, folder: Path, name: str, *arguments: Any, **options: Any) -> None:
        origin = self._hylora_origin
        manifest = origin.manifest_of(self)
        # Options may come by their places, which are others in each class.
        given = inspect.signature(super().save_pretrained).bind(folder, *arguments, **options)
        asked = {**given.arguments, **given.arguments.get("kwargs", {})}
        if manifest is not None and asked.get("push_to_hub"):
            raise ValueError(
                "push_to_hub=True would upload the weights without what lies beside them; push the model by "
                ".push_to_hub(repo_id)"
            )
        # Read before it may be written over.
        card = None if manifest is None else self._card(manifest, name)
        super().save_pretrained(*given.args, **given.kwargs)
        if manifest is None or not asked.get("is_main_process", True):
            return
        manifest.save(folder)
        (folder / CARD).write_text(card, encoding="utf-8")
        try:
            tokenizer = find_tokenizer(origin.run, manifest, origin.revision)
        except ValueError:
            return  # of a model that nobody has a tokenizer for
        tokenizer.save_pretrained(folder)

    def _card(self, manifest: RunManifest, name: str) -> str:
        """A new card, or the one there is where the folder no longer tells of the training as that does."""
        folder = self._hylora_origin.folder
        record, card = RunRecord.read(folder), folder / CARD
        if record == RunRecord():
            tags = card_metadata(card).get("tags")
            if isinstance(tags, list) and "hylora" in tags:
                return card.read_text(encoding="utf-8")
        adapter = self.active_peft_config if isinstance(self, PeftModel) else None
        return model_card(self, manifest, adapter, name, record, merged=False)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # Copies are of a class that can be found by its name, and saved as that does.
        plain = type(self).__bases__[1]
        return plain.__new__, (plain,), *super().__reduce_ex__(protocol)[2:]
