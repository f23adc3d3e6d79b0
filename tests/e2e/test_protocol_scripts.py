"""Each protocol by its own bash script, on miniatures of the public benchmarks and on emoji."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grid_case
import miniatures
import pytest
import random_clip

from promptclip import data_sets, plugins
from promptclip.config import read_yaml
from promptclip.tree import TARGETS

pytestmark = pytest.mark.slow

SHORT = ("--set", "OPTIM.MAX_EPOCH", "2", "--set", "DATALOADER.NUM_WORKERS", "0")
VARIABLES = ("DATA", "DATA_FOLDER", "SHOTS", "CFG", "OUTPUT", "TARGETS", "RATIOS")
TRAINED = "Finish training\n"  # once in the log of a run for each time that it has trained


@dataclass(frozen=True)
class Cell:
    """A number that a protocol must come to.

    Attributes:
        folder: below the output folder, above shots_K/METHOD/CFG/seed1.
        column: its heading in the table.
        benchmark: registered name of what it is measured on.
        classnames: of the classes that it is measured on.
        num_test: pictures that it is measured on.
        shots: training pictures per class.
        num_train: of each class in falling order; () where the model of another cell is tested.
    """

    folder: str
    column: str
    benchmark: str
    classnames: list[str]
    num_test: int
    shots: int
    num_train: tuple[int, ...]


class Scripts:
    """Runs scripts that share the folders of data and of results, and looks at the latter."""

    def __init__(self, data: Path, output: Path, *flags: str) -> None:
        self._output, self._flags = output, flags
        inherited = grid_case.environment(PROMPTCLIP_NO_VENV="1", COLUMNS="250")
        self._environment = {k: v for k, v in inherited.items() if k not in VARIABLES} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DATA": str(data),
            "OUTPUT": str(output),
        }

    def __call__(self, method: str, protocol: str, dataset: str, **variables: str) -> str:
        """What the method's script for the protocol says, with environment variables."""
        script = grid_case.ROOT / "scripts" / method / f"{protocol}.sh"
        done = subprocess.run(
            ["bash", str(script), dataset, "1", "--quiet", *SHORT, *self._flags],
            env=self._environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self, said: str, cells: Iterable[Cell], method: str, cfg: str) -> dict[str, float]:
        """Every cell has its result, and the table its number; gives the accuracies by column."""
        (row, *_), name, found = tables(said), plugins.trainer_name(method), {}
        for cell in cells:
            result = json.loads((self._folder(cell, method, cfg) / "result.json").read_text())
            asked = {"method": name, "shots": cell.shots, "seed": 1, "dataset": cell.benchmark}
            assert result.items() >= asked.items()
            assert [one["classname"] for one in result["per_class"]] == cell.classnames, cell
            assert result["metrics"]["num_test"] == cell.num_test, cell
            assert sorted(result.get("num_train", ()), reverse=True) == [*cell.num_train], cell
            found[cell.column] = result["metrics"]["accuracy"]
            assert row[cell.column] == f"{found[cell.column]:.2f}", said
        assert (row["method"], row["seeds"]) == (name, "1")
        return found

    def check_trainings(self, cells: Iterable[Cell], method: str, cfg: str) -> None:
        """What a method had to train was trained once, and nothing else."""
        expected = sorted({self._folder(cell, method, cfg) for cell in cells if cell.num_train})
        name = plugins.trainer_name(method)
        logs = self._output.rglob(f"{name}/**/log.txt")
        trained = [log.parent for log in logs for _ in range(log.read_text().count(TRAINED))]
        models = self._output.rglob(f"{name}/**/model.pth.tar-*")
        assert sorted(trained) == sorted(model.parents[1] for model in models) == expected

    def check_again(self, said: str, *command: str, **variables: str) -> None:
        """The command that has said something tells the same table again and does nothing."""
        before = self._state()
        again = self(*command, **variables)
        assert self._state() == before
        assert tables(again)
        assert said.endswith(again)
        assert begun(again) == []

    def _folder(self, cell: Cell, method: str, cfg: str) -> Path:
        shots, name = f"shots_{cell.shots}", plugins.trainer_name(method)
        return self._output / cell.folder / shots / name / cfg / "seed1"

    def _state(self) -> dict[Path, tuple[int, bytes]]:
        """Every file of the results but for locks, and when it was written."""
        files = [path for path in self._output.rglob("[!.]*") if path.is_file()]
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def begun(said: str) -> list[str]:
    """Number and total of the runs that were not finished before."""
    return re.findall(r"(?m)^\[(\d+/\d+)\] ", said)


def tables(said: str) -> list[dict[str, str]]:
    """The row of each table of one method, by headings."""
    lines = said.splitlines()
    rules = [number for number, line in enumerate(lines) if set(line.strip()) == {"─"}]
    pairs = [[re.split(r"\s{2,}", lines[rule + at].strip()) for at in (-1, 1)] for rule in rules]
    return [dict(zip(heading, row, strict=True)) for heading, row in pairs]


# On miniatures, with the published recipes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All miniatures, and a CLIP as deep as ViT-B/16 and for pictures as large."""
    root = tmp_path_factory.mktemp("data")
    for name in miniatures.NAMES:
        miniatures.make(root, name)
    layers = {"visual_layers": 12, "text_layers": 12}
    deep = dataclasses.replace(random_clip.TINY, image_size=224, patch_size=32, **layers)
    random_clip.save(root / "clip.safetensors", deep)
    return root


@pytest.fixture
def scripts(data: Path, tmp_path: Path) -> Scripts:
    return Scripts(data, tmp_path, "--set", "MODEL.BACKBONE.NAME", str(data / "clip.safetensors"))


def measured(
    dataset: str,
    folder: str,
    column: str,
    *,
    classnames: Sequence[str] = (),
    shots: int = 2,
    num_train: Sequence[int] | None = None,
) -> Cell:
    """A cell that is measured on a miniature, if nothing is told on all classes and trained."""
    kind = plugins.benchmark(dataset)
    names = list(classnames or miniatures.classnames(kind.__name__))
    pictures = miniatures.PER_CLASS if kind.test_only else miniatures.PARTS["test"]
    trained = tuple([shots] * len(names) if num_train is None else num_train)
    return Cell(folder, column, kind.__name__, names, len(names) * pictures, shots, trained)


def base2new(dataset: str) -> list[Cell]:
    names = measured(dataset, "", "").classnames
    base, new = names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :]
    return [
        measured(dataset, f"base2new/train_base/{dataset}", "base", classnames=base),
        measured(dataset, f"base2new/test_new/{dataset}", "new", classnames=new, num_train=()),
    ]


def fewshot(dataset: str) -> list[Cell]:
    folder = f"fewshot/{dataset}"
    return [measured(dataset, folder, "1 shot", shots=1), measured(dataset, folder, "2 shots")]


def imbalance(dataset: str) -> list[Cell]:
    whole = measured(dataset, f"fewshot/{dataset}", "balanced", shots=3)
    # 3 * 0.3^(r/2) and 3 * 0.3^(r/3), of which at least one stays
    rare = {3: (3, 1, 1), 4: (3, 2, 1, 1)}[len(whole.classnames)]
    folder = f"imbalance/{dataset}/ratio_0.3"
    return [whole, measured(dataset, folder, "ratio 0.3", shots=3, num_train=rare)]


def transfer(protocol: str, source: str, measured: Callable[..., Cell]) -> list[Cell]:
    """The cells of "xd" or "dg" with the usual targets; `measured(dataset, folder, column)`."""
    return [
        measured(source, f"fewshot/{source}", source),
        *(
            measured(target, f"{protocol}/{source}/{target}", target, num_train=())
            for target in TARGETS[protocol][source]
        ),
    ]


# Protocol -> its variables, the cells of a benchmark, and whose scripts are tried on which.
PROTOCOLS: dict[str, tuple[dict[str, str], Callable[[str], list[Cell]], dict[str, str]]] = {
    "base2new": (
        {"SHOTS": "2"},
        base2new,
        {
            **{"dapt": "imagenet", "cocoop": "caltech101"},
            **{"maple": "oxford_pets", "kgcoop": "stanford_cars"},
        },
    ),
    "fewshot": (
        {"SHOTS": "1 2"},
        fewshot,
        {"clip_adapter": "oxford_flowers", "promptsrc": "food101", "vpt": "fgvc_aircraft"},
    ),
    "imbalance": (
        {"SHOTS": "3", "RATIOS": "1 0.3"},
        imbalance,
        {"npt": "sun397", "ivlp": "dtd", "upt": "eurosat", "prograd": "ucf101"},
    ),
}


def test_every_benchmark_that_can_be_trained_on_is_tried() -> None:
    tried = [dataset for *_, datasets in PROTOCOLS.values() for dataset in datasets.values()]
    every = [miniatures.short(n) for n in miniatures.NAMES if not miniatures.kind_of(n).test_only]
    assert (sorted(tried), len(tried)) == (sorted(every), 11)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_on_several_benchmarks(protocol: str, scripts: Scripts) -> None:
    variables, cells_of, datasets = PROTOCOLS[protocol]
    for method, dataset in datasets.items():
        said = scripts(method, protocol, dataset, **variables)
        assert begun(said) == ["1/2", "2/2"]
        cells = cells_of(dataset)
        scripts.check(said, cells, method, "vit_b16")
        scripts.check_trainings(cells, method, "vit_b16")
    scripts.check_again(said, method, protocol, dataset, **variables)


def test_one_training_on_imagenet_is_tested_everywhere(scripts: Scripts) -> None:
    said = {}
    for protocol, count, first in (("xd", 10, 1), ("dg", 4, 2)):  # dg finds the training of xd
        said[protocol] = scripts("coop", protocol, "imagenet", SHOTS="2")
        assert begun(said[protocol]) == [f"{n}/{count + 1}" for n in range(first, count + 2)]
        training, *tests = transfer(protocol, "imagenet", measured)
        found = scripts.check(said[protocol], [training, *tests], "coop", "vit_b16")
        average = sum(found[test.column] for test in tests) / count
        assert tables(said[protocol])[0]["average"] == f"{average:.2f}"
        scripts.check_trainings([training], "coop", "vit_b16")
    for protocol, before in said.items():
        scripts.check_again(before, "coop", protocol, "imagenet", SHOTS="2")


# On the built-in benchmarks, with the small CLIP that comes with the package


@pytest.mark.usefixtures("emoji_packages")
def test_emoji_across_styles_and_benchmarks_and_imbalanced(tmp_path: Path) -> None:
    scripts = Scripts(tmp_path / "data", tmp_path / "output")
    shots = {"SHOTS": "4"}

    def measured(
        dataset: str, folder: str, column: str, *, num_train: Sequence[int] | None = None
    ) -> Cell:
        name = read_yaml(data_sets.find(dataset).file)["DATASET"]["NAME"]
        split = json.loads((tmp_path / "data" / dataset / f"split_zhou_{name}.json").read_text())
        names = dict(sorted((label, classname) for _, label, classname in split["test"]))
        if num_train is None:  # some classes have fewer pictures than shots
            counts = Counter(label for _, label, _ in split["train"]).values()
            num_train = sorted((min(4, count) for count in counts), reverse=True)
        return Cell(folder, column, name, [*names.values()], len(split["test"]), 4, (*num_train,))

    trained = []
    for protocol, source, count in (
        ("dg", "emoji", 2),
        ("xd", "emoji", 1),
        ("xd", "emoji_people", 1),
    ):
        said = scripts("coop", protocol, source, **shots)
        cells = transfer(protocol, source, measured)
        assert len(cells) == count + 1
        accuracies = scripts.check(said, cells, "coop", "tiny")
        if protocol == "dg":  # the small CLIP knows these pictures and words, in every style
            assert min(accuracies.values()) > 3 * 100 / len(cells[0].classnames)
        trained.append(cells[0])
    said = scripts("coop", "imbalance", "emoji_people", RATIOS="1 0.25", **shots)
    assert begun(said) == ["2/2"]  # the balanced training was there
    # 4 * 0.25^(r/34) of the 35 classes, rounded down
    rare = (4, *[3] * 7, *[2] * 10, *[1] * 17)
    folder = "imbalance/emoji_people/ratio_0.25"
    cells = [
        measured("emoji_people", "fewshot/emoji_people", "balanced"),
        measured("emoji_people", folder, "ratio 0.25", num_train=rare),
    ]
    scripts.check(said, cells, "coop", "tiny")
    assert [list(table)[1:4] for table in tables(said)[1:]] == [["head", "medium", "tail"]] * 2
    scripts.check_trainings([*trained, *cells], "coop", "tiny")
