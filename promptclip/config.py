"""From yaml files and a command line to one checked, frozen configuration.

Merge order: Dassl's defaults, every method's options, `configs/trainers/base.yaml`, the data set's
yaml, the method's yaml (its own keys, then its matching conditional sections), the command line.
A data set's yaml may have sections for methods' yaml of some name (`PER_CFG`), merged after it.
Nothing is overridden afterwards, and a key that does not exist is an error wherever it stands.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

import promptclip
from promptclip.errors import UserError
from promptclip.imbalance import PROFILES
from promptclip.merge import Layer, closest, copied, leaves, meant, merge, nested, pairs

# Sections of a method's yaml that hold only for some value of a key of DATASET.
CONDITIONAL = {"PER_SHOTS": "NUM_SHOTS", "PER_DATASET": "NAME"}

# Where a run stands and what it says on the way; none of it can change a number.
NOT_HASHED = frozenset(
    {
        "COMPUTE.CUDA_GRAPHS",
        "DATASET.CFG",
        "DATASET.FOLDER",
        "DATASET.ROOT",
        "MODEL.MEMORY_BUDGET",
        "OUTPUT_DIR",
        "RESUME",
        "TEST.COLLAPSE_EVERY",
        "TEST.COMPUTE_CMAT",
        "TEST.FEATURE_CACHE",
        "TEST.PER_CLASS_RESULT",
        "TRAIN.CHECKPOINT_FREQ",
        "TRAIN.CHECKPOINT_STEPS",
        "TRAIN.PRINT_FREQ",
        "VERBOSE",
    }
)

# Keys that came later, and the value with which everything is as it was before.
_ADDED_LATER: dict[str, Any] = {
    "COMPUTE.COMPILE": False,
    "COMPUTE.CUDNN_BENCHMARK": False,
    "COMPUTE.DETERMINISTIC": False,
    "COMPUTE.TF32": False,
    "DATASET.BAD_IMAGES": "error",
    "DATASET.FOLDER_HASH": "",
    "DATASET.IMBALANCE": 1.0,
    "DATASET.IMBALANCE_PROFILE": "exponential",
    "TEST.COLLAPSE_METRICS": False,
    "TRAINER.REGULARIZERS": [],
}

# Keys that say something only as long as another one does not have this value.
_IDLE: dict[str, tuple[str, Any]] = {"DATASET.IMBALANCE_PROFILE": ("DATASET.IMBALANCE", 1.0)}

_SAMPLERS = frozenset(
    {
        "RandomClassSampler",
        "RandomDomainSampler",
        "RandomSampler",
        "SeqDomainSampler",
        "SequentialSampler",
    }
)

# The values that Dassl's own keys may take, in a list each of them: a set of choices, or a closed
# interval.
_ALLOWED: dict[str, frozenset[str] | tuple[float, float]] = {
    "DATALOADER.K_TRANSFORMS": (1, math.inf),
    "DATALOADER.NUM_WORKERS": (0, 512),
    "DATALOADER.TEST.BATCH_SIZE": (1, math.inf),
    "DATALOADER.TEST.SAMPLER": _SAMPLERS,
    "DATALOADER.TRAIN_X.BATCH_SIZE": (1, math.inf),
    "DATALOADER.TRAIN_X.SAMPLER": _SAMPLERS,
    "DATASET.BAD_IMAGES": frozenset({"error", "skip"}),
    "DATASET.IMBALANCE": (1e-4, 1),
    "DATASET.IMBALANCE_PROFILE": frozenset(PROFILES),
    "DATASET.SUBSAMPLE_CLASSES": frozenset({"all", "base", "new"}),
    "INPUT.INTERPOLATION": frozenset({"bicubic", "bilinear", "nearest"}),
    "INPUT.PIXEL_MEAN": (-1e6, 1e6),
    "INPUT.PIXEL_STD": (1e-6, 1e6),
    "INPUT.RRCROP_SCALE": (0, 1),
    "INPUT.SIZE": (1, 4096),
    "MODEL.MEMORY_BUDGET": (0, math.inf),
    "OPTIM.ADAM_BETA1": (0, 1),
    "OPTIM.ADAM_BETA2": (0, 1),
    "OPTIM.GAMMA": (0, 1e6),
    "OPTIM.LR": (0, 1e6),
    "OPTIM.LR_SCHEDULER": frozenset({"cosine", "multi_step", "single_step"}),
    "OPTIM.MAX_EPOCH": (1, math.inf),
    "OPTIM.MOMENTUM": (0, 1),
    "OPTIM.NAME": frozenset({"adam", "adamw", "amsgrad", "radam", "rmsprop", "sgd"}),
    "OPTIM.RMSPROP_ALPHA": (0, 1),
    "OPTIM.WARMUP_CONS_LR": (0, 1e6),
    "OPTIM.WARMUP_MIN_LR": (0, 1e6),
    "OPTIM.WARMUP_TYPE": frozenset({"constant", "linear"}),
    "OPTIM.WEIGHT_DECAY": (0, 1e6),
    "SEED": (-1, 2**32 - 1),
    "TEST.FINAL_MODEL": frozenset({"best_val", "last_step"}),
    "TEST.SPLIT": frozenset({"test", "val"}),
    "TEST.COLLAPSE_EVERY": (0, math.inf),
    "TRAIN.CHECKPOINT_STEPS": (0, math.inf),
    "TRAIN.PRINT_FREQ": (1, math.inf),
}

_LENGTHS = {"INPUT.PIXEL_MEAN": 3, "INPUT.PIXEL_STD": 3, "INPUT.RRCROP_SCALE": 2, "INPUT.SIZE": 2}


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
    computing = ("TF32", "CUDNN_BENCHMARK", "DETERMINISTIC", "COMPILE")
    cfg.COMPUTE = CfgNode(dict.fromkeys(computing, False))
    cfg.COMPUTE.CUDA_GRAPHS = True  # where it changes nothing but the time
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # or "base", "new"
    cfg.DATASET.IMBALANCE = 1.0  # training pictures of the rarest class to the most frequent one's
    cfg.DATASET.IMBALANCE_PROFILE = "exponential"  # or "step"
    cfg.DATASET.BAD_IMAGES = "error"  # or "skip", see `promptclip.bad_pictures`
    cfg.DATASET.CFG = "vit_b16"  # the yaml of a method that scripts take unless told otherwise
    cfg.DATASET.FOLDER = ""  # own pictures: their folder or CSV file, see `promptclip.data_sets`
    cfg.DATASET.FOLDER_HASH = ""  # ... and the hash of what it holds, noted by the command
    cfg.MODEL.EXACT_TEXTBOOK = False
    cfg.MODEL.MEMORY_BUDGET = 0.0  # GiB that the text tower may keep; 0: half of what is free
    cfg.TEST.COLLAPSE_EVERY = 0  # epochs between such measures, which the log keeps; 0: none
    cfg.TEST.COLLAPSE_METRICS = False  # measure the neural collapse of a test's features
    cfg.TEST.FEATURE_CACHE = ""  # a folder for image features of all runs, or "off"
    cfg.TRAIN.CHECKPOINT_STEPS = 0  # as in our runtime; the original goes on after epochs only
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
    return Builder()(
        trainer,
        dataset_config_file,
        config_file,
        root=root,
        seed=seed,
        output_dir=output_dir,
        overrides=overrides,
    )


class Builder:
    """Makes configurations, as `build_cfg` does, of which many have their files in common.

    Each file is read once, and what two of them say together is merged and checked once. So a
    file counts as it was when it was first read, for as long as the builder lives.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}  # path -> SHA-256 of what was read
        self._contents: dict[str, dict[str, Any]] = {}
        self._recipes: dict[tuple[str, str], _Recipe] = {}

    @functools.cached_property
    def defaults(self) -> CfgNode:
        """What holds where no file says anything."""
        return default_cfg()

    def __call__(
        self,
        trainer: str,
        dataset_config_file: str | Path,
        config_file: str | Path,
        *,
        root: str = "",
        seed: int | None = None,
        output_dir: str = "",
        overrides: Sequence[object] = (),
    ) -> CfgNode:
        """The frozen configuration of one run; arguments and errors are those of `build_cfg`."""
        flags = {
            "TRAINER.NAME": trainer,
            "DATASET.ROOT": root,
            "OUTPUT_DIR": output_dir,
            "SEED": seed,
        }
        given = [(key, value) for key, value in flags.items() if value not in ("", None)]
        last = ("the command line", nested([*given, *pairs(overrides)]))
        files = str(dataset_config_file), str(config_file)
        if files not in self._recipes:
            self._recipes[files] = self._recipe(*files)
        return self._recipes[files].cfg(last)

    def _recipe(self, dataset_file: str, config_file: str) -> _Recipe:
        base = str(configs_dir() / "trainers" / "base.yaml")
        names = [base, *filter(None, (dataset_file, config_file))]
        contents = [dict(self._content(name)) for name in names]
        sections = {name: _sections(contents[-1], name, names[-1], "value") for name in CONDITIONAL}
        per_cfg = _sections(contents[1], "PER_CFG", names[1], "yaml") if dataset_file else {}
        layers: list[Layer] = list(zip(names, contents, strict=True))
        scratch = copied(self.defaults)
        # A wrong key or name in a section shall not wait for the run that selects it.
        for stem, section in per_cfg.items():
            merge(scratch, [layer := (f"{dataset_file}, PER_CFG {stem}", section)])
            if stem == Path(config_file).stem:
                layers.insert(2, layer)
        conditional = []
        for name, key in CONDITIONAL.items():
            for value, section in sections[name].items():
                layer = (f"{names[-1]}, {name} {value}", section)
                merge(scratch, [(layer[0], {"DATASET": {key: value}}), layer])
                conditional.append((key, scratch.DATASET[key], layer))
        return _Recipe(merge(copied(self.defaults), layers), conditional)

    def _content(self, name: str) -> dict[str, Any]:
        if name not in self._contents:
            content = _bytes(Path(name))
            self.files[name] = hashlib.sha256(content).hexdigest()
            self._contents[name] = _parsed(content, name)
        return self._contents[name]


def _sections(content: dict[str, Any], name: str, file: str, each: str) -> dict[Any, Any]:
    """Take the sections of a name out of a yaml's content; nothing behind the colon means none."""
    found = content.pop(name, None)
    if not isinstance(found, dict | None):
        raise UserError(f"{file}: {name} holds a section for each {each}, got {found!r:.200}")
    return found or {}


@dataclass(frozen=True)
class _Recipe:
    """What the files of a data set and a method say together.

    Attributes:
        merged: the defaults and all that always holds.
        conditional: a key of DATASET, and what holds besides where it has a value.
    """

    merged: CfgNode
    conditional: Sequence[tuple[str, Any, Layer]]

    def cfg(self, last: Layer) -> CfgNode:
        """The configuration with the last word of a command line."""
        cfg = merge(copied(self.merged), [last])
        layers = [layer for key, value, layer in self.conditional if cfg.DATASET[key] == value]
        if layers:
            cfg = merge(copied(self.merged), [*layers, last])
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
    """The mapping in a yaml file; an empty file gives an empty one.

    Raises:
        UserError: if there is no such file, or it holds something else.
    """
    return _parsed(_bytes(Path(file)), str(file))


def _bytes(file: Path) -> bytes:
    if not file.is_file():
        siblings = sorted(path.stem for path in file.parent.glob("*.yaml"))
        hint = f"; {file.parent} has {', '.join(siblings)}" if siblings else ""
        what = f"{file} is a folder" if file.is_dir() else f"no configuration file {file}"
        raise UserError(f"{what}{meant(file.stem, siblings)}{hint}; give the path of a yaml file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: the first would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As of `SafeLoader`."""
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        count = Counter(key.value for key in keys)
        for key in reversed(keys):
            if count[key.value] > 1:
                problem = f"the key {key.value} stands there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        loader = _Loader(text)
        loader.name = name  # for errors
        try:
            content = loader.get_single_data() or {}
        finally:
            loader.dispose()
    # ValueError: a date that there is not; RecursionError: a thousand brackets
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid yaml: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} must hold KEY: VALUE lines, got a {type(content).__name__}")
    return content


def saved_cfg(saved: Mapping[str, Any], source: str, overrides: Sequence[object] = ()) -> CfgNode:
    """The configuration of a run, from what its folder says.

    Keys that came later have their defaults; options of other methods are not asked for.

    Args:
        saved: the configuration in `run.json` or `result.json`.
        source: the file that holds it, for errors.
        overrides: KEY VALUE KEY VALUE ..., the last word on every key.

    Raises:
        UserError: for a method, a key or a value that this version does not know.
    """
    trainer = saved.get("TRAINER") if isinstance(saved, Mapping) else None
    if not isinstance(trainer, dict) or not isinstance(trainer.get("NAME"), str):
        raise UserError(f"{source} does not say which method it is of")
    own = trainer["NAME"].upper()
    kept = {key: one for key, one in trainer.items() if key == own or not isinstance(one, dict)}
    cfg, layer = default_cfg(), {**saved, "TRAINER": kept}
    merge(cfg, [(source, layer), ("the call", nested(pairs(overrides)))])
    _check(cfg)
    cfg.freeze()
    return cfg


def config_hash(cfg: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over everything in `cfg` that can change a number."""
    return digest(hashed(cfg))


def digest(values: Mapping[str, Any]) -> str:
    """The hash of a configuration, from what `hashed` gives."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def hashed(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What can change a number, by dotted keys, as json gives it back.

    Options of other methods and of regularisers that are not used are left out, so that a new one
    leaves every old result valid. So are keys that an older version did not know, where they have
    the value that means what it did, and keys that say nothing beside the value of another.
    """
    names = [cfg["TRAINER"]["NAME"], *cfg["TRAINER"].get("REGULARIZERS", ())]
    own = (f"TRAINER.{names[0].upper()}.", *(f"REGULARIZER.{n.upper()}." for n in names[1:]))
    values = leaves(cfg)
    idle = {key for key, (other, value) in _IDLE.items() if values.get(other) == value}
    silent = NOT_HASHED | idle
    relevant = {
        key: value
        for key, value in values.items()
        if key not in silent
        and not (key in _ADDED_LATER and value == _ADDED_LATER[key])
        and (
            not key.startswith(("TRAINER.", "REGULARIZER."))
            or key.count(".") == 1
            or key.startswith(own)
        )
    }
    kept: dict[str, Any] = json.loads(json.dumps(relevant))
    return kept


def config_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One "KEY: our value, not their value" for each hashed key that differs."""
    a, b = hashed(ours), hashed(theirs)
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
    return {key for layer in own for key in leaves(layer)}


def _check(cfg: CfgNode) -> None:
    """Refuse values out of range."""
    from promptclip import plugins, regularizers

    if not cfg.TRAINER.NAME:
        raise UserError("no method is chosen; give --trainer METHOD")
    if not cfg.DATASET.NAME:
        raise UserError("no data set is chosen; give --dataset-config-file configs/datasets/X.yaml")
    values = leaves(cfg)
    for key, allowed in (_ALLOWED | _registered()).items():
        _check_value(key, values[key], allowed)
    for key, length in _LENGTHS.items():
        if len(values[key]) != length:
            raise UserError(f"{key} must have {length} numbers; got {values[key]!r}")
    if (shots := values["DATASET.NUM_SHOTS"]) != -1 and shots < 1:
        raise UserError(f"DATASET.NUM_SHOTS must be 1 or more, or -1 for all pictures; got {shots}")
    method = plugins.methods().get(cfg.TRAINER.NAME)
    if method is not None:
        options = cfg.TRAINER[cfg.TRAINER.NAME.upper()]
        method.Options(**{key.lower(): value for key, value in options.items()})
        regularizers.build(cfg)


def _registered() -> dict[str, frozenset[str]]:
    """The values of keys that the engine says, and plugins may add to."""
    from dassl.data.transforms.transforms import AVAI_CHOICES
    from dassl.evaluation import EVALUATOR_REGISTRY

    return {
        "INPUT.TRANSFORMS": frozenset(AVAI_CHOICES),
        "TEST.EVALUATOR": frozenset(EVALUATOR_REGISTRY.registered_names()),
    }


def _check_value(key: str, value: Any, allowed: frozenset[str] | tuple[float, float]) -> None:
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(allowed, frozenset):
            if one not in allowed:
                choices = ", ".join(sorted(allowed))
                hint = meant(str(one), sorted(allowed))
                raise UserError(f"{key} must be one of {choices}; got {one!r}{hint}")
        elif not allowed[0] <= one <= allowed[1]:
            low, high = allowed
            most = high if isinstance(high, int) else f"{high:g}"
            limit = f"at least {low}" if math.isinf(high) else f"between {low} and {most}"
            raise UserError(f"{key} must be {limit}; got {value!r}")
