# SPDX-License-Identifier: Apache-2.0
"""What a loaded model takes along when it is saved or pushed, so that `hylora.load` gives the same model again.

A model in hand knows neither the attention it was trained with nor its tokenizer. So one that `hylora.load` gave is of
a class of its own, below that of transformers or PEFT, as models that FSDP shards are; other models stay as they are.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, metadata_load
from peft import PeftModel
from torch import nn

from hylora.adapters.structure import base_model
from hylora.attention.names import PLUG_INS
from hylora.runs.card import model_card
from hylora.runs.manifest import RunManifest
from hylora.runs.record import RunRecord
from hylora.runs.tokenizer import find_tokenizer
from hylora.runs.whereabouts import CARD

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
        """As the class above, with `hylora.json`, the tokenizer and a model card."""
        self._save(Path(save_directory), Path(save_directory).resolve().name, *arguments, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **commit: Any,
    ) -> Any:
        """As the class above, with `hylora.json`, the tokenizer and a model card; a card in the repository stays.

        Args:
            repo_id: of the repository, which is made if need be.
            private: whether a new repository is.
            token: of the hub.
            max_shard_size: largest size of one file of weights.
            tags: further ones, for the card.
            **commit: further arguments of `HfApi.upload_folder`, such as `commit_message` and `revision`.
        """
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), repo_id, max_shard_size=max_shard_size)
            card = Path(folder, CARD)
            if api.file_exists(repo_id, CARD, token=token):
                card.unlink(missing_ok=True)
            elif tags and card.is_file():
                told = ModelCard.load(card)
                told.data.tags = [*(told.data.tags or []), *tags]
                told.save(card)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, token=token, **commit)

    def _save(self, folder: Path, name: str, *arguments: Any, **options: Any) -> None:
        origin = self._hylora_origin
        manifest = origin.manifest_of(self)
        # Read before it may be written over.
        card = None if manifest is None else self._card(manifest, name)
        super().save_pretrained(folder, *arguments, **options)
        if manifest is None or not options.get("is_main_process", True):
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
        if record == RunRecord() and card.is_file() and "hylora" in ((metadata_load(card) or {}).get("tags") or ()):
            return card.read_text(encoding="utf-8")
        adapter = self.active_peft_config if isinstance(self, PeftModel) else None
        return model_card(self, manifest, adapter, name, record, merged=False)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # Copies are of a class that can be found by its name, and saved as that does.
        plain = type(self).__bases__[1]
        return plain.__new__, (plain,), *super().__reduce_ex__(protocol)[2:]
