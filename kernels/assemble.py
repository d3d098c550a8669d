# SPDX-License-Identifier: Apache-2.0
"""Lay out the kernels as the Hub's `kernels` package loads them, without its builder: for tests and local use.

`python kernels/assemble.py` writes `kernels/build/torch-<backend>`. What is published is built by kernel-builder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
# kernel-builder writes such a file too: operators of several copies of the kernels must not share names.
OPS = """import torch

ops = getattr(torch.ops, "{id}")


def add_op_namespace_prefix(op_name):
    return f"{id}::{{op_name}}"
"""


def assemble(output: Path) -> list[Path]:
    """Copy the sources for every backend that `build.toml` names.

    Args:
        output: folder for the variants; those of the same names are replaced.

    Returns:
        The folders of the variants.
    """
    config = tomllib.loads((FOLDER / "build.toml").read_text())
    general, suffixes = config["general"], config["torch-noarch"]["pyext"]
    name = general["name"].replace("-", "_")
    sources = FOLDER / "torch-ext" / name
    files = {path.relative_to(sources): path for path in sorted(sources.rglob("*")) if path.suffix[1:] in suffixes}
    content = hashlib.sha1(b"".join(str(at).encode() + path.read_bytes() for at, path in files.items())).hexdigest()
    variants = []
    for backend in general["backends"]:
        variant = output / f"torch-{backend}"
        shutil.rmtree(variant, ignore_errors=True)
        for at, path in files.items():
            (variant / at).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, variant / at)
        unique = f"_{name}_{backend}_{content[:7]}"
        (variant / "_ops.py").write_text(OPS.format(id=unique))
        facts = {key: general[key] for key in ("name", "version", "license")}
        facts.update(id=unique, backend={"type": backend}, **{"python-depends": []})
        (variant / "metadata.json").write_text(json.dumps(facts, indent=2) + "\n")
        variants.append(variant)
    return variants


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "build", help="folder for the variants")
    for folder in assemble(parser.parse_args().output):
        print(folder)
