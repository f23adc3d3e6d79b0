"""Coverage-guided fuzzing of what reads files of others, by line of our code.

An input that reaches a line, or a step from one line to another, that none has reached before is
kept and altered further. `python tests/faults/fuzz.py SECONDS` looks for new ones and writes them
below `seeds/`; the test replays those and goes on from them for a while.
"""

from __future__ import annotations

import json
import pickle
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from promptclip import checkpoints, few_shot, prompt_file, results, run_file, split_files, splits
from promptclip.clip import archive, load
from promptclip.commands import grid_input
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.few_shot import Picture
from promptclip.table import logs
from promptclip.tree import Place

SEEDS = Path(__file__).parent / "seeds"
LARGEST = 4000  # bytes of a seed that is kept
_PATIENCE = 20  # seconds for one input; all are small
_WORDS = (
    *(b"", b"\0", b"\xff", b"[", b"]", b"{", b"}", b'"', b":", b",", b"-", b"\n", b"..", b"/"),
    *(b"0", b"-1", b"1e999", b"99999999999999999999", b"NaN", b"null", b"true", b"\\ud800", b"!!"),
    *(b"train", b"val", b"test", b"__metadata__", b"!!python/object/apply:os.system", b"&a *a"),
)
TRAIN = [Picture(f"c{i % 2}/{i}.jpg", i % 2, f"class {i % 2}") for i in range(6)]
OLD = {"_use_new_zipfile_serialization": False}
PLACE = Place("fewshot", "one", 1, "CoOp", "tiny", 1)


class _Scripted(torch.nn.Module):
    """Something to make an archive of."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("logit_scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@dataclass(frozen=True)
class Reader:
    """Something that reads a file.

    Attributes:
        suffix: of the file.
        read: raises UserError, or nothing.
        code: the files whose lines count.
    """

    suffix: str
    read: Callable[[Path], object]
    code: tuple[Any, ...]


def _config(path: Path) -> object:
    data = configs_dir() / "datasets" / "emoji.yaml"
    return build_cfg("CoOp", data, path)


def _grid(path: Path) -> object:
    given = grid_input.DEFAULTS | grid_input._of_file(str(path))
    return grid_input.spec_of(given), grid_input.seats_of(given)


def _log(path: Path) -> object:
    text = path.read_text(encoding="utf-8", errors="replace")
    return logs._outcome(PLACE, [text]), logs.find_all(path.parent, [path.parent])


def _records(path: Path) -> object:
    path.replace(path.with_name(run_file.RUN_FILE))
    return run_file.read(path.parent), results.read(path.parent)


def readers() -> dict[str, Reader]:
    """By the name of the folder of their seeds."""
    from promptclip import config, files, merge, own_pictures, tensor_file

    sample = lambda path: few_shot.read_pickle(path, TRAIN, TRAIN)  # noqa: E731
    return {
        "archive": Reader(".pt", _weights, (archive, load)),
        "safetensors": Reader(".safetensors", _weights, (load,)),
        "prompts": Reader(".safetensors", prompt_file.read, (prompt_file, tensor_file)),
        "checkpoint": Reader(".pth.tar", lambda path: checkpoints.read(str(path)), (checkpoints,)),
        "split_json": Reader(".json", splits.read, (splits, few_shot)),
        "rows_json": Reader(".json", split_files.read_rows, (split_files,)),
        "rows_jsonl": Reader(".jsonl", split_files.read_rows, (split_files,)),
        "rows_csv": Reader(".csv", split_files.read_rows, (split_files,)),
        "sample_pickle": Reader(".pkl", sample, (few_shot,)),
        "own_csv": Reader(".csv", own_pictures.read, (own_pictures,)),
        "config_yaml": Reader(".yaml", _config, (config, merge)),
        "grid_yaml": Reader(".yaml", _grid, (grid_input, config)),
        "log": Reader(".txt", _log, (logs,)),
        "record": Reader(".json", _records, (files, run_file)),
    }


def _weights(path: Path) -> object:
    return load._read_file(path)


@contextmanager
def patience() -> Iterator[None]:
    """What takes too long ends with TimeoutError."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still at it after {_PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def steps_of(reader: Reader, content: bytes) -> set[tuple[str, int, int]]:
    """The steps from line to line that reading some content takes.

    Raises:
        Exception: whatever the reader raises but for UserError.
    """
    wanted = {str(module.__file__) for module in reader.code}
    steps: set[tuple[str, int, int]] = set()

    def tracer(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in wanted:
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal last
            steps.add((frame.f_code.co_filename, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    with tempfile.TemporaryDirectory() as folder, patience():
        path = Path(folder, f"seed1/shot_1-seed_1{reader.suffix}")
        path.parent.mkdir()
        path.write_bytes(content)
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            reader.read(path)
        except UserError as error:
            str(error).encode()  # it can be printed
        finally:
            sys.settrace(before)
    return steps


def altered(content: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """Some content with one or several random alterations."""
    found = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        place = generator.randrange(len(found) + 1)
        length = min(generator.choice((1, 1, 2, 4, 16, 64)), len(found) - place)
        match generator.randrange(8):
            case 0:
                del found[place : place + length]
            case 1:
                found[place:place] = generator.randbytes(length)
            case 2:
                found[place : place + length] = generator.randbytes(length)
            case 3 if place < len(found):
                found[place] ^= 1 << generator.randrange(8)
            case 4:
                found[place:place] = found[place : place + length] * generator.choice((1, 2, 50))
            case 5:
                other = generator.choice(others)
                start = generator.randrange(len(other) + 1)
                found[place : place + length] = other[start : start + generator.randrange(1, 65)]
            case 6:
                del found[place:]
            case _:
                found[place : place + length * generator.randrange(2)] = generator.choice(_WORDS)
    return bytes(found)


@dataclass
class Fuzzed:
    """What came of it.

    Attributes:
        tried: how many inputs were read.
        kept: those that reached something new.
        steps: how many steps were reached.
        failures: what came out besides UserError, and the input.
    """

    tried: int
    kept: list[bytes]
    steps: int
    failures: list[tuple[BaseException, bytes]]


def fuzz(reader: Reader, corpus: list[bytes], go_on: Callable[[int], bool], seed: int) -> Fuzzed:
    """Replay a corpus, and alter it as long as `go_on`, given the number tried, says so."""
    generator = random.Random(seed)
    reached: set[tuple[str, int, int]] = set()
    pool: list[bytes] = []
    result = Fuzzed(0, [], 0, [])
    queue = list(corpus)
    while queue or go_on(result.tried):
        known = bool(queue)
        content = queue.pop() if known else altered(generator.choice(pool), pool, generator)
        result.tried += 1
        try:
            steps = steps_of(reader, content)
        except Exception as error:
            result.failures.append((error, content))
            continue
        if not steps <= reached or known:
            pool.append(content)
            if not known and len(content) <= LARGEST:
                result.kept.append(content)
        reached |= steps
    result.steps = len(reached)
    return result


def corpus(name: str) -> list[bytes]:
    """The seeds of a reader, in a fixed order."""
    return [file.read_bytes() for file in sorted((SEEDS / name).iterdir())]


def _first() -> dict[str, list[bytes]]:
    """Whole files to begin with."""
    from safetensors.torch import save

    from promptclip import tensor_file

    rows = [[p.path, p.label, p.classname] for p in TRAIN]
    split = json.dumps({"train": rows, "val": rows[:2], "test": rows[2:]}).encode()
    named = [dict(zip(split_files.FIELDS, (*row, "train"), strict=True)) for row in rows]
    lines = "\n".join(map(json.dumps, named)).encode()
    csv = b"path,label,classname,split\na/b.png,0,x,train\na/c.png,1,y,test\n"
    weights = {"logit_scale": torch.ones(()), "text_projection": torch.ones(2, 2)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x")

        def saved(content: Any, **options: Any) -> bytes:
            torch.save(content, file, **options)
            return file.read_bytes()

        def scripted() -> bytes:
            torch.jit.save(torch.jit.script(_Scripted()), file)
            return file.read_bytes()

        state = {"state_dict": {"ctx": torch.ones(1, 2)}, "epoch": 1}
        prompts = Path(folder, "p")
        about = dict.fromkeys(("method", "promptclip", "backbone", "backbone_sha256"), "x")
        about |= {"config_hash": "x", "epoch": 1, "classnames": ["a"]}
        prompt_file.write({"a": {"b": torch.ones(1), "c": {"d": 1}}}, about, prompts)
        tensor_file.write({"a": torch.ones(1)}, {"schema": 2}, file)
        others = file.read_bytes()
        run_file.write({"config_hash": "x", "model": None}, {"A": 1}, Path(folder))
        record = Path(folder, run_file.RUN_FILE).read_bytes()
        return {
            "archive": [scripted(), saved(weights), saved(weights, **OLD)],
            "safetensors": [save(weights, {"promptclip.config": '{"patch_size": 8}'})],
            "prompts": [prompts.read_bytes(), others],
            "checkpoint": [saved(state), saved(state, **OLD)],
            "split_json": [split],
            "rows_json": [split, json.dumps({"train": {"data": [named[0]]}}).encode()],
            "rows_jsonl": [lines],
            "rows_csv": [csv],
            "sample_pickle": [_pickled(protocol) for protocol in (0, 2, 4)],
            "own_csv": [csv],
            "config_yaml": [b"OPTIM: {LR: 0.1, MAX_EPOCH: 3}\nPER_SHOTS: {4: {OPTIM: {LR: 1}}}\n"],
            "grid_yaml": [b"methods: [coop]\ndatasets: all\nseeds: 1-3\nset: {OPTIM.LR: 1}\n"],
            "log": [
                b"** Config **\n***\nSEED: 1\nDATASET:\n  NAME: x\nTRAINER:\n  NAME: y\n\n"
                b"epoch [1/2]\nFinish training\nEvaluate on the *test* set\n=> result\n"
                b"* total: 2,465\n* correct: 2,262\n* accuracy: 91.8%\nElapsed: 1 day, 0:01:10\n"
            ],
            "record": [record],
        }  # fmt: skip


def _pickled(protocol: int) -> bytes:
    from dassl.data.datasets import Datum

    def datum(picture: Picture) -> Datum:
        found = Datum.__new__(Datum)
        vars(found).update(
            _impath=f"/x/{picture.path}", _label=picture.label, _classname=picture.classname
        )
        return found

    return pickle.dumps({part: [*map(datum, TRAIN[:2])] for part in ("train", "val")}, protocol)


def main(seconds: float) -> None:
    """Look for new inputs of every reader for some seconds each, and keep them."""
    import hashlib
    import warnings

    warnings.simplefilter("ignore")
    first = _first()
    for name, reader in readers().items():
        folder = SEEDS / name
        folder.mkdir(parents=True, exist_ok=True)
        known = list(dict.fromkeys([*first[name], *corpus(name)]))
        end = time.monotonic() + seconds
        result = fuzz(reader, known, lambda tried, end=end: time.monotonic() < end, seed=1)
        for content in [*known, *result.kept]:
            (folder / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
        print(name, result.tried, "tried", len(result.kept), "kept", result.steps, "steps")  # noqa: T201
        for error, content in result.failures[:5]:
            print("   ", repr(error)[:300], content[:300])  # noqa: T201


if __name__ == "__main__":
    main(float(sys.argv[1]))
