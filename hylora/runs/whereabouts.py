# SPDX-License-Identifier: Apache-2.0
"""Where a model is: in a folder here, or on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hylora.runs.manifest import MANIFEST_NAME, RunManifest

__all__ = ["ADAPTER", "CARD", "RECORDS", "check_exists", "find_folder", "is_hub_id", "manifest_in", "read_manifest"]

ADAPTER = "adapter_config.json"
CONFIG = "config.json"
CARD = "README.md"
# What training writes of itself: its recipe, what the data came to, and a record of each update.
RECORDS = ("recipe.yaml", "data.json", "metrics.jsonl")


def check_exists(folder: str) -> None:
    """Refuse a folder that is not there, before anyone looks for it on the hub.

    Raises:
        FileNotFoundError: if `folder` looks like a path and does not exist.
    """
    # A hub id has the form "owner/name" or "name"; anything that looks more like a path must exist here. So must what
    # lies in a folder that is here: the hub would be asked for a misspelt path in vain, and slowly.
    within = "/" in folder and Path(folder).parent.is_dir()
    looks_like_path = folder.startswith((".", "/", "~")) or folder.count("/") > 1 or within
    if Path(folder).is_file():
        raise FileNotFoundError(
            f"{folder!r} is a file; give the folder of a run or of a model, or a hub id (owner/name)"
        )
    if not folder or looks_like_path and not Path(folder).is_dir():
        hint = f", or rename the folder {str(Path(folder).parent)!r} here if a hub id is meant" if within else ""
        raise FileNotFoundError(
            f"folder {folder!r} does not exist; give a run's folder, a model folder or a hub id (owner/name){hint}"
        )


def is_hub_id(name: str) -> bool:
    """Whether `name` is of the form of a hub id and nothing here has it; `models/bamba` may be either."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    # That lets some newlines pass, and letters that the hub has not.
    return bool(re.fullmatch(r"[\w./-]+", name, re.ASCII)) and not os.path.exists(name)


def read_manifest(folder: str | os.PathLike, revision: str | None = None) -> RunManifest:
    """What is known of how a model was trained: `hylora.json`, or an empty manifest for a plain model.

    Args:
        folder: a run's folder, a model folder or a hub id.
        revision: revision on the hub.

    Raises:
        FileNotFoundError: if there is no such folder or repository, or no model in it.
        ValueError: if there is an adapter without `hylora.json`, or the file is not what a run writes.
    """
    return manifest_in(find_folder(folder, revision), folder)


def find_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """`name` itself where it is a folder, or one with what a hub repository says of its model, and its adapter.

    Whatever reads a model asks here first: transformers would look for a misspelt path on the hub for half a minute.

    Raises:
        FileNotFoundError: if it is neither a folder nor a repository that can be read.
    """
    name = os.fspath(name)
    check_exists(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    files = [CONFIG, MANIFEST_NAME, CARD, ADAPTER, "adapter_model.safetensors", *RECORDS]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here, and the hub has no model of that name that you may read; correct the path, "
            "or the hub id (owner/name)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here, and as a hub id it is not in the cache, and the hub cannot be asked "
            f"({error.__cause__ or 'offline'}); correct the path, or connect to the network"
        ) from error


def manifest_in(local: Path, name: str | os.PathLike) -> RunManifest:
    """The manifest in the folder `local` of the run `name`.

    Raises:
        FileNotFoundError: if the folder holds no model.
        ValueError: as `read_manifest`.
    """
    if not any((local / file).is_file() for file in (CONFIG, MANIFEST_NAME, ADAPTER)):
        raise FileNotFoundError(
            f"{os.fspath(name)!r} holds no model: neither {CONFIG} nor {ADAPTER}; give the folder of a finished run "
            "or of a model"
        )
    if (local / MANIFEST_NAME).is_file():
        return RunManifest.load(local)
    if (local / ADAPTER).is_file():
        raise ValueError(
            f"{name} holds an adapter but no {MANIFEST_NAME}, so its attention and RoPE scaling are unknown; "
            "load it with peft.PeftModel.from_pretrained on a base model you prepare"
        )
    return RunManifest()
