# SPDX-License-Identifier: Apache-2.0
"""From YAML and `key=value` overrides to typed dataclasses, with errors that say what to write instead."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

__all__ = [
    "RecipeError",
    "build",
    "nested_dataclasses",
    "parse_overrides",
    "read_yaml",
    "recipe_keys",
    "to_tree",
    "type_name",
]

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key, the value and what is expected."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `2e-4` as a number and refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in 2.0e-4; nobody writes learning rates so.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | PathLike) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: if the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error}") from error
    tree = _parse(text, f"the recipe {str(path)!r}")
    if not isinstance(tree, dict):
        raise RecipeError(f"the recipe {str(path)!r} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{what} is not valid YAML: {error}") from error


def parse_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with `section.key=value` overrides set; a number in a key is an index into a list.

    Raises:
        RecipeError: if an override has no `=`, its value is not YAML, or it reaches into something that has no keys.
    """
    tree = _copy(tree)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise RecipeError(
                f"the override {override!r} is not of the form key=value, for example training.steps=100"
            )
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = _child(node, part, override)
        value = _parse(text, f"the value of the override {override!r}")
        if isinstance(node, list):
            index = _index(node, last, override)
            node[index : index + 1] = [value]
        else:
            node[last] = value
    return tree


def _copy(node: Any) -> Any:
    """Copy the containers of a tree, so that an override does not reach the caller's."""
    if isinstance(node, dict):
        return {key: _copy(value) for key, value in node.items()}
    return [_copy(value) for value in node] if isinstance(node, list) else node


def _child(node: Any, part: str, override: str) -> Any:
    """The container under `part`, made where it is missing."""
    if isinstance(node, list):
        index = _index(node, part, override)
        if index == len(node):
            node.append({})
        key = index
    else:
        key = part
        if node.get(key) is None:
            node[key] = {}
    if not isinstance(node[key], (dict, list)):
        raise RecipeError(f"the override {override!r} reaches into {part}={node[key]!r}, which has no keys")
    return node[key]


def _index(node: list, part: str, override: str) -> int:
    """An index into a list; one past its end appends."""
    if not part.isdecimal() or int(part) > len(node):
        raise RecipeError(f"in the override {override!r}, {part!r} is not an index from 0 to {len(node)}")
    return int(part)


def build(cls: type[T], tree: Any, key: str = "", root: type | None = None) -> T:
    """Make a dataclass from a tree of plain values, checking every key and type.

    Args:
        cls: the dataclass.
        tree: a mapping with its fields.
        key: full key of this place in the recipe, for messages.
        root: the dataclass of the whole recipe, whose keys are suggested.

    Raises:
        RecipeError: if a key is unknown or missing, or a value has the wrong type or is refused by the dataclass.
    """
    root = root or cls
    if not isinstance(tree, dict):
        raise RecipeError(f"{key}={tree!r} is not a mapping of the keys of {key}")
    hints = get_type_hints(cls)
    known = {item.name: item for item in fields(cls) if item.init}
    values = {}
    for name, value in tree.items():
        full = _join(key, name)
        if name not in known:
            raise RecipeError(_unknown(full, value, root))
        values[name] = _convert(value, hints[name], full, root)
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{_join(key, name)} is missing; expected {type_name(hints[name])}")
    try:
        return cls(**values)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(_with_full_key(str(error), key, known)) from error


def _with_full_key(message: str, key: str, known: dict[str, Any]) -> str:
    """A dataclass's message about one of its fields, with the field's name lengthened to the full key."""
    if not key or message.startswith(f"{key}."):
        return message
    field_name = re.match(r"\w*", message).group()
    return f"{key}.{message}" if field_name in known else f"{key}: {message}"


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _unknown(key: str, value: Any, root: type) -> str:
    """The message for a key that does not exist: the nearest one, wherever it is."""
    hints = recipe_keys(root)
    # `data.sources.3.paht` is near `data.sources.N.path`, and the user has item 3.
    general = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", key)
    leaf = general.rsplit(".", 1)[-1]
    same_leaf = [name for name in hints if name.rsplit(".", 1)[-1] == leaf]
    nearest = difflib.get_close_matches(general, same_leaf or list(hints), n=1, cutoff=0.0)[0]
    for index in re.findall(r"(?<=\.)\d+(?=\.|$)", key):
        nearest = nearest.replace(".N", f".{index}", 1)
    expected = hints[re.sub(r"(?<=\.)\d+(?=\.|$)", "N", nearest)]
    return f"unknown key {key}={value!r}; the nearest valid key is {nearest} ({expected})"


def recipe_keys(cls: type, key: str = "") -> dict[str, str]:
    """Every full key of a dataclass tree with the name of its type; items of a list have the index N."""
    keys = {}
    for item in fields(cls):
        if not item.init:
            continue
        hint = get_type_hints(cls)[item.name]
        full = _join(key, item.name)
        keys[full] = type_name(hint)
        for nested, many in nested_dataclasses(hint):
            keys |= recipe_keys(nested, f"{full}.N" if many else full)
    return keys


def nested_dataclasses(hint: Any, many: bool = False) -> list[tuple[type, bool]]:
    """Dataclasses inside a type, and whether each is an item of a list."""
    if is_dataclass(hint):
        return [(hint, many)]
    many = many or get_origin(hint) in (list, tuple)
    return [pair for argument in get_args(hint) for pair in nested_dataclasses(argument, many)]


def _convert(value: Any, hint: Any, key: str, root: type) -> Any:
    """`value` as the type `hint`, or an error that names the key."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, key, root)
    if is_dataclass(hint):
        return build(hint, value, key, root)
    if hint is Any or (hint is type(None) and value is None):
        return value
    if origin is Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
        nearest = difflib.get_close_matches(str(value), [str(choice) for choice in arguments], n=1, cutoff=0.0)[0]
        raise RecipeError(f"{key}={value!r} is not {type_name(hint)}; the nearest is {nearest}")
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = [arguments[0]] * len(value) if origin is list or arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            converted = [
                _convert(entry, item, f"{key}.{index}", root)
                for index, (entry, item) in enumerate(zip(value, items, strict=True))
            ]
            return origin(converted)
    if origin is dict and isinstance(value, dict):
        return {
            _convert(name, arguments[0], key, root): _convert(entry, arguments[1], _join(key, name), root)
            for name, entry in value.items()
        }
    remedy = "; put quotes around it" if hint is str and isinstance(value, (int, float)) else ""
    raise RecipeError(f"{key}={value!r} has the type {type(value).__name__}; expected {type_name(hint)}{remedy}")


def _convert_union(value: Any, hint: Any, key: str, root: type) -> Any:
    """The first alternative that fits; an integer stays one where both numbers are allowed."""
    alternatives = get_args(hint)
    if type(value) in alternatives:
        return value
    for alternative in alternatives:
        if is_dataclass(alternative) and isinstance(value, dict):
            # Its own message is better than "none of the alternatives".
            return build(alternative, value, key, root)
    for alternative in alternatives:
        try:
            return _convert(value, alternative, key, root)
        except RecipeError:
            continue
    raise RecipeError(f"{key}={value!r} has the type {type(value).__name__}; expected {type_name(hint)}")


def type_name(hint: Any) -> str:
    """A type as a reader of the documentation would write it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "null"
    if hint is Any:
        return "any value"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin in (list, tuple):
        items = [type_name(argument) for argument in arguments if argument is not Ellipsis]
        return f"list of {items[0]}" if origin is list or arguments[-1] is Ellipsis else f"[{', '.join(items)}]"
    if origin is dict:
        return "mapping"
    return "section" if is_dataclass(hint) else hint.__name__


def to_tree(value: Any) -> Any:
    """A dataclass tree as plain values that YAML and JSON write and `build` reads back."""
    if is_dataclass(value):
        return {item.name: to_tree(getattr(value, item.name)) for item in fields(value) if item.init}
    if isinstance(value, dict):
        return {name: to_tree(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
