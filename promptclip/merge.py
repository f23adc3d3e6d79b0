"""Layers of keys merged into one configuration: nothing unknown, and nothing of another type."""

from __future__ import annotations

import ast
import contextlib
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from yacs.config import CfgNode

from promptclip.errors import UserError

Layer: TypeAlias = "tuple[str, object]"  # where it is from, and a tree of keys

_KINDS = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "text",
    tuple: "a tuple",
}


def copied(cfg: CfgNode) -> CfgNode:
    """A tree of its own, not frozen; many times faster than `clone`, which copies the values too.

    Values are shared but for lists: all else that a configuration holds cannot be changed.
    """
    copy = CfgNode()
    copy.__dict__.update(cfg.__dict__)
    copy.__dict__[CfgNode.IMMUTABLE] = False
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            value = copied(value)
        dict.__setitem__(copy, key, list(value) if isinstance(value, list) else value)
    return copy


def merge(cfg: CfgNode, layers: Sequence[Layer]) -> CfgNode:
    """Merge each layer into `cfg` in turn, and resolve the names of method and data set.

    Raises:
        UserError: for an unknown key or name, and for a value of another type.
    """
    from promptclip import plugins

    resolvers = {"TRAINER": plugins.trainer_name, "DATASET": plugins.dataset_name}
    for source, layer in layers:
        _merge_node(cfg, cfg, layer, source, "")
        for section, resolve in resolvers.items():
            if cfg[section].NAME:
                try:
                    cfg[section].NAME = resolve(cfg[section].NAME)
                except UserError as error:
                    raise UserError(f"{source}: {error}") from None
    return cfg


def pairs(overrides: Sequence[object]) -> list[tuple[str, object]]:
    """KEY VALUE KEY VALUE ... as pairs.

    Raises:
        UserError: for a flag among them, and for a key without a value.
    """
    flag = next((word for word in overrides if str(word).startswith("--")), None)
    if flag is not None:
        raise UserError(f"{flag} stands after a KEY VALUE pair; flags come first")
    if len(overrides) % 2:
        raise UserError(f"overrides are KEY VALUE pairs; {overrides[-1]} has no value")
    return [(str(key), value) for key, value in zip(overrides[::2], overrides[1::2], strict=True)]


def nested(pairs: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """{"A": {"B": value}} of pairs ("A.B", value); the last of equal keys wins.

    Raises:
        UserError: for a key below one that has a value.
    """
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"{key} is below {section}, which is given a value itself")
        node[leaf] = value
    return tree


def leaves(node: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a tree under its dotted name."""
    found: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    walk(node, "")
    return found


def closest(word: str, choices: Sequence[str]) -> str:
    """The choice that `word` was probably meant to be, in any case of letters, or ""."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return by_lower[found[0]] if found else ""


def meant(word: str, choices: Sequence[str]) -> str:
    """The end of a message about an unknown word."""
    match = closest(word, choices)
    return f", did you mean {match}?" if match else ""


def _merge_node(root: CfgNode, node: CfgNode, layer: object, source: str, prefix: str) -> None:
    if not isinstance(layer, Mapping):
        raise UserError(f"{source}: {prefix[:-1]} is a section of keys, got {layer!r}")
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in node:
            raise UserError(f"{source}: unknown key {name}{meant(name, list(leaves(root)))}")
        if isinstance(node[key], CfgNode):
            _merge_node(root, node[key], value, source, f"{name}.")
        else:
            node[key] = _coerced(value, node[key], f"{source}: {name}")


def _coerced(value: object, old: object, name: str) -> object:
    """`value` as the type of `old`, by yacs' rules; a whole number is also a fraction."""
    if isinstance(value, str):
        # yaml reads 1e-5 and (224, 224) as text, and a command line has nothing but text.
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            literal = ast.literal_eval(value)
            value = value if isinstance(old, str) and not isinstance(literal, str) else literal
    if isinstance(old, list | tuple) and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]  # npt,kgcoop on a command line
    if isinstance(old, float) and type(value) is int:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(_coerced(v, old[0], name) if old else v for v in value)
    if old is not None and type(value) is not type(old):
        kind = _KINDS.get(type(old), type(old).__name__)
        raise UserError(f"{name} must be {kind}, such as {old!r}; got {value!r:.200}")
    return value
