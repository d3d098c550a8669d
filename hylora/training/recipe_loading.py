# SPDX-License-Identifier: Apache-2.0
"""From YAML and `key=value` overrides to typed dataclasses and back, with errors that say what to write instead.

pydantic checks types and keys; the sentences, which name the full key and the nearest valid one, are written here.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hylora.files import write_atomically
from hylora.words import nearest

__all__ = [
    "RecipeError",
    "build",
    "nested_dataclasses",
    "parse_overrides",
    "read_yaml",
    "recipe_keys",
    "to_tree",
    "type_name",
    "write_yaml",
]

T = TypeVar("T")

# No recipe is so long, but a few lines of nested aliases can stand for billions of values.
_MOST_VALUES = 100_000


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key, the value and what is expected."""


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of YAML 1.2: `2e-4` is a number, `010` is ten, and `1:30`, `no` and dates are text."""

    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes text which YAML 1.1 or 1.2 would read as something else."""


_SCALARS = {
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""], lambda text: None),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF", lambda text: {"true": True, "false": False}[text.lower()]),
    "int": ("[-+]?[0-9]+", "-+0123456789", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    ),
    "merge": ("<<", "<", str),
}
for _name, (_pattern, _first, _) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"({_pattern})$"), list(_first))


def _construct(root: yaml.Node) -> Any:
    """The plain values of a node, with aliases written out. Keys are text, also those that look like numbers."""
    values = itertools.count(1)

    def refuse(node: yaml.Node, problem: str) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def construct(node: yaml.Node) -> Any:
        if next(values) > _MOST_VALUES:
            refuse(node, f"more than {_MOST_VALUES} values once aliases are written out")
        match node.tag.removeprefix("tag:yaml.org,2002:"), node:
            case "str", yaml.ScalarNode(value=text):
                # Half a pair of surrogates cannot be encoded, and a path cannot hold a NUL.
                if b"\0" in text.encode():
                    refuse(node, "a NUL character")
                return text
            case tag, yaml.ScalarNode(value=text) if tag in _SCALARS:
                return _SCALARS[tag][-1](text)
            case "seq", yaml.SequenceNode(value=items):
                return [construct(item) for item in items]
            case "map", yaml.MappingNode(value=pairs):
                own, merged = {}, {}
                for key, value in pairs:
                    if not isinstance(key, yaml.ScalarNode):
                        refuse(key, "a key that is a list or a mapping")
                    if key.value in own:
                        refuse(key, f"the key {key.value!r} is given twice")
                    own[key.value] = construct(value)
                    if key.tag.endswith(":merge"):
                        others = own.pop(key.value)
                        for other in others if isinstance(others, list) else [others]:
                            merged = other | merged
                return merged | own
        refuse(node, f"the tag {node.tag!r} is not read")

    return construct(root)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: if the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error}") from error
    tree = _parse(text, f"the recipe {str(path)!r}")
    if not isinstance(tree, dict):
        raise RecipeError(f"the recipe {str(path)!r} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def write_yaml(tree: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a tree of plain values, whole or not at all, so that `read_yaml` reads it back equal."""
    write_atomically(path, yaml.dump(tree, Dumper=_Dumper, sort_keys=False))


def _parse(text: str, what: str) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _construct(node)
    # A value that does not fit its tag, as in `!!int abc`, is an error of Python's.
    except (yaml.YAMLError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(f"{what} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{what} is not valid YAML: it is nested too deeply") from error


def parse_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with `section.key=value` overrides set; a number in a key is an index into a list.

    Raises:
        RecipeError: if an override has no `=`, its value is not YAML, or it reaches into something that has no keys.
    """
    # Also parts what YAML's aliases share.
    tree = to_tree(tree)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise RecipeError(f"the override {override!r} must be key=value, for example training.steps=100")
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            place = _place(node, part, override)
            if node[place] is None:
                node[place] = {}
            node = node[place]
            if not isinstance(node, (dict, list)):
                raise RecipeError(f"the override {override!r} reaches into {part}={node!r}, which has no keys")
        node[_place(node, last, override)] = _parse(text, f"the value of the override {override!r}")
    return tree


def _place(node: dict | list, part: str, override: str) -> str | int:
    """Where `part` is in a mapping or a list, made if it is missing; one past the end of a list appends."""
    if isinstance(node, dict):
        node.setdefault(part, None)
        return part
    places = [str(index) for index in range(len(node) + 1)]
    if part not in places:
        raise RecipeError(f"in the override {override!r}, {part!r} is not an index from 0 to {len(node)}")
    if part == places[-1]:
        node.append(None)
    return int(part)


@functools.cache
def _adapter(cls: type) -> TypeAdapter:
    # Dataclasses take no configuration from outside; a tuple does, and hands it down to those inside.
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def build(cls: type[T], tree: Any, key: str = "") -> T:
    """Make a dataclass from a tree of plain values, checking every key and type.

    Args:
        cls: the dataclass.
        tree: a mapping with its fields.
        key: full key of this place in the recipe, for messages.

    Raises:
        RecipeError: if a key is unknown or missing, or a value has the wrong type or is refused by the dataclass.
    """
    try:
        # Of JSON, strict validation takes lists for tuples, integers for floats, and nothing else for another type.
        return _adapter(cls).validate_json(json.dumps([tree], default=os.fspath), strict=True)[0]
    except ValidationError as error:
        raise RecipeError(_explain(error, cls, tree, key)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{key or 'the recipe'} cannot be read: {error}") from error


def _explain(error: ValidationError, cls: type, tree: Any, key: str) -> str:
    """The most telling of the errors as a sentence."""
    found = [(_path(item, tree), item) for item in error.errors(include_url=False)]
    # A misspelt key explains a missing one. Of the alternatives of a union, the one that fits best fails deepest.
    path, item = max(found, key=lambda pair: (pair[1]["type"] == "unexpected_keyword_argument", len(pair[0])))
    full = ".".join([key, *path] if key else path)
    value, hints = item["input"], dict(_types(cls, key))
    hint = hints.get(_general(full))
    match item["type"]:
        case "unexpected_keyword_argument":
            return _unknown(full, value, recipe_keys(cls, key))
        case "missing" if hint is not None:
            return f"{full} is missing; expected {type_name(hint)}"
        case "value_error":
            return _with_full_key(str(item["ctx"]["error"]), full, hints)
        case "dataclass_type":
            return f"{full or 'the recipe'}={value!r} must be a mapping of keys"
        case "finite_number":
            return f"{full}={value!r} must be finite"
    if hint is None:
        # Inside a mapping with names of the user's own, or what JSON itself cannot hold.
        return f"{f'{full}={value!r}' if full else 'the recipe'} cannot be read: {item['msg']}"
    remedy = ""
    if get_origin(hint) is Literal:
        remedy = f"; the nearest is {nearest(value, get_args(hint))}"
    elif str in (hint, *get_args(hint)) and isinstance(value, (int, float)):
        remedy = "; put quotes around it"
    return f"{full}={value!r} must be {type_name(hint)}{remedy}"


def _path(item: dict[str, Any], tree: Any) -> list[str]:
    """The key of an error; pydantic's location also names alternatives of unions, which the tree does not have."""
    path = []
    for part in item["loc"][1:]:
        try:
            tree = tree[part]
        except (LookupError, TypeError):
            continue
        path.append(str(part))
    return [*path, str(item["loc"][-1])] if item["type"] == "missing" else path


def _with_full_key(message: str, key: str, hints: dict[str, Any]) -> str:
    """A dataclass's message about one of its fields, with the field's name lengthened to the full key."""
    if not key or message.startswith(f"{key}."):
        return message
    field_name = re.match(r"\w*", message).group()
    return f"{key}.{message}" if _general(f"{key}.{field_name}") in hints else f"{key}: {message}"


def _general(key: str) -> str:
    """A key with N for every index: `data.sources.3.path` is a `data.sources.N.path`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "N", key)


def _unknown(key: str, value: Any, keys: dict[str, str]) -> str:
    """The message for a key that does not exist: the nearest one, wherever it is."""
    general = _general(key)
    leaf = general.rsplit(".", 1)[-1]
    same_leaf = [name for name in keys if name.rsplit(".", 1)[-1] == leaf]
    found = nearest(general, same_leaf or keys)
    expected = keys[found]
    for index in re.findall(r"(?<=\.)\d+(?=\.|$)", key):
        found = found.replace(".N", f".{index}", 1)
    return f"unknown key {key}={value!r}; the nearest valid key is {found} ({expected})"


def recipe_keys(cls: type, key: str = "") -> dict[str, str]:
    """Every full key of a dataclass tree with the name of its type; items of a list have the index N."""
    return {full: type_name(hint) for full, hint in _types(cls, key) if not full.endswith(".N")}


def _types(hint: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every key inside a type, with its own type."""
    arguments = get_args(hint)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        inside = [(item.name, hints[item.name]) for item in fields(hint) if item.init]
    elif get_origin(hint) in (list, tuple):
        inside = [("N", argument) for argument in arguments if argument is not Ellipsis]
    else:
        for argument in arguments:
            yield from _types(argument, key)
        return
    for name, inner in inside:
        full = f"{key}.{name}" if key else name
        yield full, inner
        yield from _types(inner, full)


def nested_dataclasses(hint: Any, many: bool = False) -> list[tuple[type, bool]]:
    """Dataclasses inside a type, and whether each is an item of a list."""
    if is_dataclass(hint):
        return [(hint, many)]
    many = many or get_origin(hint) in (list, tuple)
    return [pair for argument in get_args(hint) for pair in nested_dataclasses(argument, many)]


def type_name(hint: Any) -> str:
    """A type as a reader of the documentation would write it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    names = [type_name(argument) for argument in arguments if argument is not Ellipsis]
    if origin in (Union, types.UnionType):
        return " | ".join(names)
    if origin in (list, tuple):
        return f"list of {names[0]}" if origin is list or Ellipsis in arguments else f"[{', '.join(names)}]"
    if is_dataclass(hint) or origin is dict:
        return "mapping" if origin is dict else "section"
    return {type(None): "null", Any: "any value"}.get(hint) or hint.__name__


def to_tree(value: Any) -> Any:
    """A dataclass tree as plain values that YAML writes and `build` reads back."""
    # pydantic's own would turn infinity into null, and the configurations of Mamba-2 hold it.
    if is_dataclass(value):
        return {item.name: to_tree(getattr(value, item.name)) for item in fields(value) if item.init}
    if isinstance(value, dict):
        return {name: to_tree(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(entry) for entry in value]
    return value
