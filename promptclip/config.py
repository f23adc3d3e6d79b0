"""From yaml files and a command line to one checked, frozen configuration.

Merge order: Dassl's defaults, every method's options, `configs/trainers/base.yaml`, the data set's
yaml, the method's yaml (its own keys, then its matching conditional sections), the command line.
A data set's yaml may have sections for methods' yaml of some name (`PER_CFG`), merged after it.
Nothing is overridden afterwards, and a key that does not exist is an error wherever it stands.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

import promptclip
from promptclip.errors import UserError
from promptclip.imbalance import PROFILES

# Sections of a method's yaml that hold only for some value of a key of DATASET.
CONDITIONAL = {"PER_SHOTS": "NUM_SHOTS", "PER_DATASET": "NAME"}

# Where a run stands and what it says on the way; none of it can change a number.
NOT_HASHED = frozenset(
    {
        "DATASET.CFG",
        "DATASET.FOLDER",
        "DATASET.ROOT",
        "MODEL.MEMORY_BUDGET",
        "OUTPUT_DIR",
        "RESUME",
        "TEST.COMPUTE_CMAT",
        "TEST.FEATURE_CACHE",
        "TEST.PER_CLASS_RESULT",
        "TRAIN.CHECKPOINT_FREQ",
        "TRAIN.PRINT_FREQ",
        "VERBOSE",
    }
)

# Keys that came later, and the value with which everything is as it was before.
_ADDED_LATER: dict[str, Any] = {
    "COMPUTE.CUDNN_BENCHMARK": False,
    "COMPUTE.DETERMINISTIC": False,
    "COMPUTE.TF32": False,
    "DATASET.FOLDER_HASH": "",
    "DATASET.IMBALANCE": 1.0,
    "DATASET.IMBALANCE_PROFILE": "exponential",
    "TEST.COLLAPSE_METRICS": False,
    "TRAINER.REGULARIZERS": [],
}

# Keys that say something only as long as another one does not have this value.
_IDLE: dict[str, tuple[str, Any]] = {"DATASET.IMBALANCE_PROFILE": ("DATASET.IMBALANCE", 1.0)}

# The values that Dassl's own keys may take: a set of choices, or a closed interval.
_ALLOWED: dict[str, frozenset[str] | tuple[float, float]] = {
    "DATALOADER.NUM_WORKERS": (0, math.inf),
    "DATALOADER.TEST.BATCH_SIZE": (1, math.inf),
    "DATALOADER.TRAIN_X.BATCH_SIZE": (1, math.inf),
    "DATASET.IMBALANCE": (1e-4, 1),
    "DATASET.IMBALANCE_PROFILE": frozenset(PROFILES),
    "DATASET.NUM_SHOTS": (-1, math.inf),
    "DATASET.SUBSAMPLE_CLASSES": frozenset({"all", "base", "new"}),
    "INPUT.INTERPOLATION": frozenset({"bicubic", "bilinear", "nearest"}),
    "INPUT.SIZE": (1, math.inf),
    "MODEL.MEMORY_BUDGET": (0, math.inf),
    "OPTIM.LR": (0, 1e6),
    "OPTIM.LR_SCHEDULER": frozenset({"cosine", "multi_step", "single_step"}),
    "OPTIM.MAX_EPOCH": (1, math.inf),
    "OPTIM.MOMENTUM": (0, 1),
    "OPTIM.NAME": frozenset({"adam", "adamw", "amsgrad", "radam", "rmsprop", "sgd"}),
    "OPTIM.WARMUP_TYPE": frozenset({"constant", "linear"}),
    "OPTIM.WEIGHT_DECAY": (0, 1e6),
    "SEED": (-1, 2**32 - 1),
    "TEST.FINAL_MODEL": frozenset({"best_val", "last_step"}),
    "TEST.SPLIT": frozenset({"test", "val"}),
}

_KINDS = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "text",
    tuple: "a tuple",
}


def configs_dir() -> Path:
    """The folder `configs/`: at the top of a checkout, inside the package when installed."""
    places = [Path(entry) / "configs" for entry in promptclip.__path__]
    return next(place for place in places if place.is_dir())


def default_cfg() -> CfgNode:
    """Dassl's defaults, the keys that promptclip adds, and the options of every method."""
    from promptclip import plugins, regularizers

    plugins.load_plugins()
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.COMPUTE = CfgNode(dict.fromkeys(("TF32", "CUDNN_BENCHMARK", "DETERMINISTIC"), False))
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # or "base", "new"
    cfg.DATASET.IMBALANCE = 1.0  # training pictures of the rarest class to the most frequent one's
    cfg.DATASET.IMBALANCE_PROFILE = "exponential"  # or "step"
    cfg.DATASET.CFG = "vit_b16"  # the yaml of a method that scripts take unless told otherwise
    cfg.DATASET.FOLDER = ""  # own pictures: their folder or CSV file, see `promptclip.data_sets`
    cfg.DATASET.FOLDER_HASH = ""  # ... and the hash of what it holds, noted by the command
    cfg.MODEL.EXACT_TEXTBOOK = False
    cfg.MODEL.MEMORY_BUDGET = 0.0  # GiB that the text tower may keep; 0: half of what is free
    cfg.TEST.COLLAPSE_METRICS = False  # measure the neural collapse of a test's features
    cfg.TEST.FEATURE_CACHE = ""  # a folder for image features of all runs, or "off"
    cfg.TRAINER.REGULARIZERS = []  # losses of `promptclip.regularizers` besides the method's own
    cfg.REGULARIZER = CfgNode(regularizers.defaults())
    for name, method in plugins.methods().items():
        options = dataclasses.asdict(method.Options())
        cfg.TRAINER[name.upper()] = CfgNode({key.upper(): value for key, value in options.items()})
    return cfg


def build_cfg(
    trainer: str,
    dataset_config_file: str | Path,
    config_file: str | Path,
    *,
    root: str = "",
    seed: int | None = None,
    output_dir: str = "",
    overrides: Sequence[object] = (),
) -> CfgNode:
    """The frozen configuration of one run.

    Args:
        trainer: a method's name in any case, or "" when a file or an override sets TRAINER.NAME.
        dataset_config_file: a data set's yaml, or "".
        config_file: a method's yaml, or "".
        root: the folder that holds the data sets; "" leaves DATASET.ROOT as configured.
        seed: None leaves SEED as configured.
        output_dir: "" leaves OUTPUT_DIR as configured.
        overrides: KEY VALUE KEY VALUE ..., the last word on every key.

    Raises:
        UserError: for an unknown key, method or data set, and for a value of the wrong type or
            out of range; the message names the key and the file that holds it.
    """
    flags = {"TRAINER.NAME": trainer, "DATASET.ROOT": root, "OUTPUT_DIR": output_dir, "SEED": seed}
    given = [(key, value) for key, value in flags.items() if value not in ("", None)]
    last = ("the command line", _nested([*given, *_pairs(overrides)]))
    base = configs_dir() / "trainers" / "base.yaml"
    files = [base, *(Path(file) for file in (dataset_config_file, config_file) if str(file))]
    layers = [(str(file), read_yaml(file)) for file in files]
    sections = {name: layers[-1][1].pop(name, {}) for name in CONDITIONAL}

    defaults = default_cfg()
    scratch = defaults.clone()
    if dataset_config_file:
        file, content = layers[1]
        per_cfg = content.pop("PER_CFG", {})
        if not isinstance(per_cfg, dict):
            raise UserError(f"{file}: PER_CFG holds a section for each yaml, got {per_cfg!r:.200}")
        for stem, section in per_cfg.items():
            _merge(scratch, [layer := (f"{file}, PER_CFG {stem}", section)])
            if stem == Path(config_file).stem:
                layers.insert(2, layer)
    cfg = _merge(defaults.clone(), [*layers, last])
    conditional = []
    for name, key in CONDITIONAL.items():
        for value, section in sections[name].items():
            layer = (f"{layers[-1][0]}, {name} {value}", section)
            # A wrong key or name shall not wait for the run that selects its section.
            _merge(scratch, [(layer[0], {"DATASET": {key: value}}), layer])
            if scratch.DATASET[key] == cfg.DATASET[key]:
                conditional.append(layer)
    if conditional:
        cfg = _merge(defaults, [*layers, *conditional, last])
    _check(cfg)
    cfg.freeze()
    return cfg


def config_file(folder: str, name: str) -> Path:
    """The file `configs/<folder>/<name>.yaml`, or the yaml file that `name` is the path of.

    Raises:
        UserError: if there is no such file in `configs/`.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    place = configs_dir() / folder
    known = sorted(path.stem for path in place.glob("*.yaml"))
    if name not in known:
        match = closest(name, known)
        hint = f", did you mean {match!r}" if match else ""
        raise UserError(f"no {name!r} in {place}{hint}? There are: {', '.join(known) or 'none'}")
    return place / f"{name}.yaml"


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a yaml file; an empty file gives an empty one."""
    file = Path(file)
    if not file.is_file():
        siblings = sorted(path.stem for path in file.parent.glob("*.yaml"))
        hint = f"; {file.parent} has {', '.join(siblings)}" if siblings else ""
        raise UserError(f"no configuration file {file}{_meant(file.stem, siblings)}{hint}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid yaml: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold KEY: VALUE lines, got a {type(content).__name__}")
    return content


def config_hash(cfg: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over everything in `cfg` that can change a number."""
    text = json.dumps(_hashed(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One "KEY: our value, not their value" for each hashed key that differs."""
    a, b = _hashed(ours), _hashed(theirs)
    return [
        f"{key}: {a.get(key, 'absent')!r}, not {b.get(key, 'absent')!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, "absent") != b.get(key, "absent")
    ]


def keys_by_dataset(method: str, cfg: str, datasets: Iterable[str]) -> set[str]:
    """Keys to which a method's yaml or those of data sets give each data set a value of its own.

    Args:
        method: the folder in `configs/trainers`.
        cfg: a yaml in it, without its suffix.
        datasets: files of `configs/datasets`, without their suffix.
    """
    recipe = configs_dir() / "trainers" / method / f"{cfg}.yaml"
    files = [configs_dir() / "datasets" / f"{dataset}.yaml" for dataset in datasets]
    own = [read_yaml(file) for file in files if file.is_file()]
    if recipe.is_file():
        own += read_yaml(recipe).get("PER_DATASET", {}).values()
    return {key for layer in own for key in _leaves(layer)}


def closest(word: str, choices: Sequence[str]) -> str:
    """The choice that `word` was probably meant to be, in any case of letters, or ""."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return by_lower[found[0]] if found else ""


def _meant(word: str, choices: Sequence[str]) -> str:
    match = closest(word, choices)
    return f", did you mean {match}?" if match else ""


def _pairs(overrides: Sequence[object]) -> list[tuple[str, object]]:
    """KEY VALUE KEY VALUE ... as pairs."""
    flag = next((word for word in overrides if str(word).startswith("--")), None)
    if flag is not None:
        raise UserError(f"{flag} stands after a KEY VALUE pair; flags come first")
    if len(overrides) % 2:
        raise UserError(f"overrides are KEY VALUE pairs; {overrides[-1]} has no value")
    return [(str(key), value) for key, value in zip(overrides[::2], overrides[1::2], strict=True)]


def _nested(pairs: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """{"A": {"B": value}} of pairs ("A.B", value); the last of equal keys wins."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def _merge(cfg: CfgNode, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> CfgNode:
    """Merge each (source, mapping) into `cfg` in turn, and resolve the names that it chooses."""
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


def _merge_node(root: CfgNode, node: CfgNode, layer: object, source: str, prefix: str) -> None:
    if not isinstance(layer, Mapping):
        raise UserError(f"{source}: {prefix[:-1]} is a section of keys, got {layer!r}")
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in node:
            raise UserError(f"{source}: unknown key {name}{_meant(name, list(_leaves(root)))}")
        if isinstance(node[key], CfgNode):
            _merge_node(root, node[key], value, source, f"{name}.")
        else:
            node[key] = _coerce(value, node[key], f"{source}: {name}")


def _coerce(value: object, old: object, name: str) -> object:
    """`value` as the type of `old`, by yacs' rules; a whole number is also a fraction."""
    if isinstance(value, str):
        # yaml reads 1e-5 and (224, 224) as text, and a command line has nothing but text.
        with contextlib.suppress(ValueError, SyntaxError):
            literal = ast.literal_eval(value)
            value = value if isinstance(old, str) and not isinstance(literal, str) else literal
    if isinstance(old, list | tuple) and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]  # npt,kgcoop on a command line
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(_coerce(v, old[0], name) if old else v for v in value)
    if old is not None and type(value) is not type(old):
        kind = _KINDS.get(type(old), type(old).__name__)
        raise UserError(f"{name} must be {kind}, such as {old!r}; got {value!r}")
    return value


def _check(cfg: CfgNode) -> None:
    """Refuse values out of range."""
    from promptclip import plugins, regularizers

    if not cfg.TRAINER.NAME:
        raise UserError("no method is chosen; give --trainer METHOD")
    if not cfg.DATASET.NAME:
        raise UserError("no data set is chosen; give --dataset-config-file configs/datasets/X.yaml")
    values = _leaves(cfg)
    for key, allowed in _ALLOWED.items():
        value = values[key]
        if isinstance(allowed, frozenset):
            if value not in allowed:
                choices = ", ".join(sorted(allowed))
                hint = _meant(str(value), sorted(allowed))
                raise UserError(f"{key} must be one of {choices}; got {value!r}{hint}")
            continue
        low, high = allowed
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                limit = f"at least {low}" if math.isinf(high) else f"between {low} and {high:g}"
                raise UserError(f"{key} must be {limit}; got {value!r}")
    method = plugins.methods().get(cfg.TRAINER.NAME)
    if method is not None:
        options = cfg.TRAINER[cfg.TRAINER.NAME.upper()]
        method.Options(**{key.lower(): value for key, value in options.items()})
        regularizers.build(cfg)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a tree under its dotted name."""

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(node, prefix))


def _hashed(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What can change a number, as json gives it back.

    Options of other methods and of regularisers that are not used are left out, so that a new one
    leaves every old result valid. So are keys that an older version did not know, where they have
    the value that means what it did, and keys that say nothing beside the value of another.
    """
    names = [cfg["TRAINER"]["NAME"], *cfg["TRAINER"].get("REGULARIZERS", ())]
    own = (f"TRAINER.{names[0].upper()}.", *(f"REGULARIZER.{n.upper()}." for n in names[1:]))
    leaves = _leaves(cfg)
    idle = {key for key, (other, value) in _IDLE.items() if leaves.get(other) == value}
    relevant = {
        key: value
        for key, value in leaves.items()
        if key not in NOT_HASHED | idle
        and not (key in _ADDED_LATER and value == _ADDED_LATER[key])
        and (
            key.split(".")[0] not in ("TRAINER", "REGULARIZER")
            or key.count(".") == 1
            or key.startswith(own)
        )
    }
    kept: dict[str, Any] = json.loads(json.dumps(relevant))
    return kept
