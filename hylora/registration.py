# SPDX-License-Identifier: Apache-2.0
"""Makes what hylora adds to transformers known as soon as transformers' own modules are there, and not before.

`import hylora` takes a moment, and torch takes seconds. So nothing is imported for the sake of registering it. Each of
the modules below registers what it defines when it is imported, and it is imported right behind the module of
transformers that keeps the register: whoever asks for `attn_implementation="se_attn"` has imported that one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register"]

# A module of transformers -> ours, which registers with it.
_BEHIND = {
    "transformers.modeling_utils": "hylora.attention.functions",
    "transformers.models.auto.configuration_auto": "hylora.models.mamba2attn.configuration_mamba2attn",
    "transformers.models.auto.modeling_auto": "hylora.models.mamba2attn.modeling_mamba2attn",
}
# Modules import each other in circles, and one that is half imported lacks names. So ours wait until the outermost
# import of these packages is done, when every module that they need is either whole or not begun.
_FOLLOWED = ("transformers", "hylora")

_done: set[str] = set()
_thread = threading.local()


class _Finder(MetaPathFinder):
    """Finds nothing of its own: it lets the finders behind it find a module, and follows the module's execution."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in _FOLLOWED:
            return None
        finders = [*sys.meta_path]
        behind = finders[finders.index(self) + 1 :] if self in finders else []
        # As Python does, which passes over a finder that has no such method.
        behind = [finder for finder in behind if hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in behind)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """A module's own loader, until the module is executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module, and register behind the outermost one."""
        module.__spec__.loader = module.__loader__ = self._loader
        depth = getattr(_thread, "depth", 0)
        _thread.depth = depth + 1
        try:
            self._loader.exec_module(module)
        finally:
            _thread.depth = depth
        _done.add(module.__spec__.name)
        if depth == 0:
            _catch_up()


def register() -> None:
    """Register with what transformers has imported, and with the rest when it does."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
        _done.update(_BEHIND.keys() & sys.modules.keys())
    _catch_up()


def _catch_up() -> None:
    for theirs, ours in _BEHIND.items():
        if theirs in _done:
            import_module(ours)


_finder = _Finder()
