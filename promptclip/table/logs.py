"""Outputs of repositories that came before: the `log.txt` files of CoOp and its descendants.

What Dassl prints at the end of a test (Dassl.pytorch c61a1b5, `evaluation/evaluator.py`):

    Evaluate on the *test* set
    => result
    * total: 2,465
    * correct: 2,262
    * accuracy: 91.8%

A log in which training goes on after the last such block, or has none, has no result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from promptclip.table.outcome import Outcome
from promptclip.tree import TARGETS, Place, find

_RUN = r"/(?P<method>[^/]+)/(?P<cfg>[^/]+)_(?P<shots>\d+)shots(?:/(?P<variant>[^/]+))?"
_SEED = r"/seed(?P<seed>\d+)$"
_ELSEWHERE = re.compile(rf"/evaluation{_RUN}/(?P<target>[^/]+){_SEED}")
_ALL_CLASSES = re.compile(rf"/(?P<dataset>[^/]+){_RUN}{_SEED}")
_LINES = re.compile(
    r"(?P<training>epoch \[)"
    r"|(?P<finished>Finish(ed)? training)"
    r"|(?:Evaluate on the \*|Do evaluation on )(?P<split>\w+)"
    r"|(?P<result>=> result)"
    r"|\* total: (?P<total>\d[\d,]*)"
    r"|\* correct: (?P<correct>\d[\d,]*)"
    r"|\* accuracy: (?P<accuracy>\d+(?:\.\d+)?)%"
)
_CONFIG = re.compile(r"\*\* Config \*\*\n\*+\n((?: *\w+:.*\n)+)")
_MODEL_DIR = re.compile(r"(?m)^model_dir: (\S+)$")
_ELAPSED = re.compile(r"(?m)^Elapsed: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


def find_all(root: Path, folders: Iterable[Path]) -> tuple[dict[Place, Outcome], list[str]]:
    """Read all logs of a tree.

    Args:
        root: the top of the tree, or a folder in it.
        folders: those of it that are called `seed<s>`.

    Returns:
        What each place has, and notes on what could not be read or checked.
    """
    found: dict[Place, Outcome] = {}
    read: set[Path] = set()
    for folder in folders:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in _logs(folder)]
        if place := _place(folder, texts):
            if place in found:
                return {}, [f"{root} holds several trees of logs; give one of them"]
            found[place] = _outcome(place, texts)
            read.add(folder)
    elsewhere = sorted({path.parent for path in root.rglob("log.txt*")} - read)
    return found, list(_warnings(found, root, elsewhere))


def _warnings(found: dict[Place, Outcome], root: Path, elsewhere: list[Path]) -> Iterator[str]:
    if elsewhere:
        some = ", ".join(str(path.relative_to(root)) for path in elsewhere[:3])
        more = ", ..." if len(elsewhere) > 3 else ""
        yield (
            "Folders of logs that are not read, their layout is unknown: "
            f"{len(elsewhere)} ({some}{more})"
        )
    unchecked = [place for place, read in found.items() if read.accuracy and not read.config]
    if unchecked:
        yield (
            f"Logs that do not show their configuration: {len(unchecked)}; whether those of a row "
            "have the same is not checked."
        )
    if found:
        yield "Logs do not tell which pictures were seen; their rows are never marked as best."


def _logs(folder: Path) -> list[Path]:
    """The logs of a run: started again, Dassl begins another with a date in its name."""
    return sorted(path for path in folder.glob("log.txt*") if path.is_file())


def _place(folder: Path, texts: Iterable[str]) -> Place | None:
    """What was run in a folder, by its path in this package's tree or in CoOp's."""
    path = folder.as_posix()
    if place := find(folder):
        return place
    if match := _ELSEWHERE.search(path):
        model_dirs = [found[1] for text in texts for found in _MODEL_DIR.finditer(text)]
        source = next(filter(None, (_ALL_CLASSES.search(f"/{d}") for d in model_dirs)), None)
        if source is None:
            return None
        variants = match["target"] in TARGETS["dg"].get(source["dataset"], ())
        return _placed(match, "dg" if variants else "xd", source["dataset"], match["target"])
    if match := _ALL_CLASSES.search(path):
        return _placed(match, "fewshot", match["dataset"])
    return None


def _placed(match: re.Match[str], protocol: str, dataset: str, target: str = "") -> Place:
    cfg = " ".join(filter(None, (match["cfg"], match["variant"])))
    return Place(
        protocol, dataset, int(match["shots"]), match["method"], cfg, int(match["seed"]), target
    )


def _outcome(place: Place, texts: list[str]) -> Outcome:
    """What the logs of a run say together."""
    if not texts:
        return Outcome(problem="no log of")
    accuracies = {value for text in texts if (value := accuracy(text)) is not None}
    if not accuracies:
        last = next((line for line in reversed(texts[-1].splitlines()) if line.strip()), "")
        words = " ".join(last.split())[:80]
        return Outcome(
            problem="no result in the log of", detail=f"has no result, its log ends: {words}"
        )
    if len(accuracies) > 1:
        values = " and ".join(f"{value:.2f}" for value in sorted(accuracies))
        return Outcome(problem="several results of", detail=f"has logs with {values}")
    config = next(filter(None, map(configuration, reversed(texts))), None)
    if config and not _belongs(config, place):
        return Outcome(problem="misplaced")
    times = [found for text in texts for found in _ELAPSED.findall(text)]
    seconds = [
        timedelta(days=int(d or 0), hours=int(h), minutes=int(m), seconds=int(s)).total_seconds()
        for d, h, m, s in times
    ]
    return Outcome(accuracies.pop(), config=config, seconds=sum(seconds) if seconds else None)


def accuracy(text: str) -> float | None:
    """Accuracy in percent of the test at the end of a log; None if it has none.

    Dassl prints one or two digits after the point; where the counts stand, they are taken.
    """
    trained, split, value = True, "test", None
    counts: dict[str, int] = {}
    for line in text.splitlines():
        found = _LINES.match(line.strip())
        if not found:
            continue
        if found["training"]:
            trained, value = False, None
        elif found["finished"]:
            trained = True
        elif found["split"]:
            split = found["split"]
        elif found["result"]:
            counts = {}
        elif found["accuracy"] is None:
            counts |= {k: int(v.replace(",", "")) for k, v in found.groupdict().items() if v}
        elif trained and split == "test":
            value = float(found["accuracy"])
            if counts.get("total") and "correct" in counts:
                value = 100 * counts["correct"] / counts["total"]
    return value


def configuration(text: str) -> dict[str, Any] | None:
    """The configuration that a log shows; None if there is none that can be read."""
    if not (section := _CONFIG.search(text)):
        return None
    try:
        config = yaml.safe_load(section[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    whole = isinstance(config, dict) and all(
        isinstance(config.get(key), dict) and "NAME" in config[key]
        for key in ("DATASET", "TRAINER")
    )
    return config if whole else None


def _belongs(config: dict[str, Any], place: Place) -> bool:
    """Whether a configuration is that of its folder, as far as it says."""
    seed = config.get("SEED", place.seed)
    classes = config["DATASET"].get("SUBSAMPLE_CLASSES", place.classes)
    return bool(seed == place.seed and classes == place.classes)
