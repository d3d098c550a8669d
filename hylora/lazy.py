# SPDX-License-Identifier: Apache-2.0
"""Names that a package offers and imports when somebody asks for them: torch and PEFT take seconds to import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the `__init__` of a package; its modules are found as its attributes too.

    Args:
        package: its `__name__`.
        modules: the module that defines each name. None may be called as a module of the package: Python makes that
            one an attribute when it is imported, and `__getattr__` is asked for what is no attribute.
    """

    def get(name: str) -> Any:
        if name not in modules:
            try:
                return import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
                raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # found without being asked for the next time
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})
