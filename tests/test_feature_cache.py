"""Shared image features: the same numbers, never stale, whatever happens to the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mini_benchmark
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from promptclip import benchmark, feature_cache, plugins
from promptclip.cli import main
from promptclip.clip.model import EncodedImages, PixelsNeededError
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.feature_cache import VARIABLE, FeatureCache, identity, open_cache
from promptclip.run import run

METHODS = sorted(plugins.methods())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "features"))
    return tmp_path / "features"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def logits_of(trainer: Any, split: str | None = None) -> Tensor:
    """What a test's evaluator is given, [N, C]."""
    collected = []
    process = trainer.evaluator.process

    def collect(output: Tensor, label: Tensor) -> None:
        collected.append(output.clone())
        process(output, label)

    trainer.evaluator.process = collect
    try:
        trainer.test(split)
    finally:
        trainer.evaluator.process = process
    return torch.cat(collected)


def build(
    method: str, mini: Path, tmp_path: Path, *overrides: Any, cache: Path | str | None = None
) -> Any:
    """A trainer whose learned tensors are random, and the same each time."""
    where = [] if cache is None else ["TEST.FEATURE_CACHE", str(cache)]
    trainer = mini_benchmark.build(
        method, mini, tmp_path / "unused", "VERBOSE", False, *where, *overrides
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for learner in trainer.model.learners.values():
            for parameter in learner.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_the_same_to_the_last_bit(
    method: str, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "features"
    trainer = build(method, mini, tmp_path)
    shares = trainer.model.shares_image_features
    assert shares == (not type(trainer).Model.prompts_image)
    monkeypatch.setenv(VARIABLE, "off")
    expected = {split: logits_of(trainer, split) for split in ("test", "val")}
    assert trainer.shared_features is None
    monkeypatch.setenv(VARIABLE, str(folder))
    for found in ("computed", "found"):
        trainer._features.clear()
        for split, logits in expected.items():
            assert torch.equal(logits_of(trainer, split), logits)
            assert trainer.shared_features == (found if shares else None)
    assert len(files(folder)) == (2 if shares else 0)


def test_all_methods_that_leave_the_image_tower_alone_share_one_file(
    mini: Path, tmp_path: Path, folder: Path
) -> None:
    for method in ("ZeroshotCLIP", "CoOp", "CoCoOp"):
        for seed in (1, 2):
            trainer = mini_benchmark.build(method, mini, tmp_path, "DATASET.NUM_SHOTS", seed)
            trainer.test()
    assert len(files(folder)) == 1
    with safe_open(files(folder)[0], "pt") as opened:
        assert json.loads(opened.metadata()["identity"])["number"] == 20


@pytest.mark.parametrize("precision", ["bf16", "amp"])
@pytest.mark.parametrize("textbook", [False, True])
def test_other_precisions_and_paths_have_their_own(
    precision: str, textbook: bool, mini: Path, tmp_path: Path, folder: Path
) -> None:
    build("CoOp", mini, tmp_path).test()
    how = ("TRAINER.COOP.PREC", precision, "MODEL.EXACT_TEXTBOOK", textbook)
    expected = logits_of(build("CoOp", mini, tmp_path, *how, cache="off"))
    for found in ("computed", "found"):
        trainer = build("CoOp", mini, tmp_path, *how)
        assert torch.equal(logits_of(trainer), expected)
        assert trainer.shared_features == found
    assert len(files(folder)) == 2


def test_found_features_need_no_decoding(
    mini: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(build("CoOp", mini, tmp_path))
    monkeypatch.setattr(benchmark, "read_picture", lambda path: 1 / 0)
    assert torch.equal(logits_of(build("CoOp", mini, tmp_path)), expected)


def test_validation_in_every_epoch_trains_as_without(
    mini: Path, tmp_path: Path, folder: Path
) -> None:
    best = ("TEST.FINAL_MODEL", "best_val", "TRAINER.COOP.N_CTX", 2)
    learned = []
    for cache in ("off", folder, folder):
        trainer = mini_benchmark.build(
            "CoOp", mini, tmp_path / f"{len(learned)}", *best, "TEST.FEATURE_CACHE", str(cache)
        )
        trainer.train()
        learned.append((trainer.model.prompt_learner.ctx, trainer.best_result))
    assert torch.equal(learned[0][0], learned[1][0])
    assert torch.equal(learned[0][0], learned[2][0])
    assert learned[0][1] == learned[1][1] == learned[2][1]


def test_a_whole_run_is_the_same_and_says_where_its_features_are_from(
    mini: Path, tmp_path: Path, folder: Path
) -> None:
    results = []
    for number, cache in enumerate(("off", folder, folder)):
        keys = ("TEST.FEATURE_CACHE", str(cache), "TEST.COLLAPSE_METRICS", True)
        fast = ("TRAINER.TIPADAPTER.SEARCH_STEP", (4, 4), "OPTIM.MAX_EPOCH", 1)
        output = tmp_path / f"{number}"
        results.append(run(mini_benchmark.cfg_of("TipAdapter", mini, output, *keys, *fast)))
    assert [r["shared_features"] for r in results] == [None, "computed", "found"]
    for key in ("metrics", "per_class", "collapse", "chosen", "config_hash"):
        assert results[0][key] == results[1][key] == results[2][key]


# ------------------------------------------------------------------ nothing stale


@pytest.fixture
def own(mini: Path, tmp_path: Path) -> Path:
    """A copy of the miniature benchmark that a test may change; its yaml."""
    shutil.copytree(mini.parent / "mini", tmp_path / "data/mini")
    text = mini.read_text().replace(str(mini.parent), str(tmp_path / "data"))
    shutil.copy(mini.parent / "clip.safetensors", tmp_path / "data")
    (tmp_path / "data/mini.yaml").write_text(text)
    return tmp_path / "data/mini.yaml"


def test_a_picture_replaced_by_one_of_equal_size_and_time_is_noticed(
    own: Path, tmp_path: Path, folder: Path
) -> None:
    one, other = (own.parent / f"mini/images/{label}/test_0.png" for label in (0, 1))
    for number, path in enumerate((one, other)):  # without compression all files have one size
        Image.effect_noise((36, 36), 30 + 200 * number).convert("RGB").save(path, compress_level=0)
    before = logits_of(build("CoOp", own, tmp_path))
    stat = one.stat()
    shutil.copyfile(other, one)
    os.utime(one, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (one.stat().st_size, one.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    trainer = build("CoOp", own, tmp_path)
    after = logits_of(trainer)
    assert trainer.shared_features == "computed"
    assert not torch.equal(before, after)
    assert torch.equal(after, logits_of(build("CoOp", own, tmp_path, cache="off")))


def test_other_weights_under_the_same_path_are_noticed(
    own: Path, tmp_path: Path, folder: Path
) -> None:
    build("CoOp", own, tmp_path).test()
    path = own.parent / "clip.safetensors"
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    stat = path.stat()
    tensors["visual.class_embedding"][0] += 1
    save_file(tensors, path, metadata)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    trainer = build("CoOp", own, tmp_path)
    trainer.test()
    assert trainer.shared_features == "computed"
    tensors["token_embedding.weight"][0] += 1  # the text tower is not what is shared
    save_file(tensors, path, metadata)
    trainer = build("CoOp", own, tmp_path)
    trainer.test()
    assert trainer.shared_features == "found"


def test_all_that_features_depend_on_is_in_the_identity(
    mini: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*overrides: Any) -> str:
        trainer = build("CoOp", mini, tmp_path, *overrides)
        found = identity(trainer.model.clip, trainer.test_loader, trainer.cfg)
        assert found is not None
        return json.dumps(found)

    usual = of()
    assert usual == of("SEED", 5, "DATASET.NUM_SHOTS", 1, "TRAINER.COOP.N_CTX", 2)
    for overrides in (
        ("DATALOADER.TEST.BATCH_SIZE", 7),
        ("INPUT.INTERPOLATION", "bilinear"),
        ("INPUT.PIXEL_MEAN", [0.4, 0.4, 0.4]),
        ("MODEL.EXACT_TEXTBOOK", True),
        ("TRAINER.COOP.PREC", "bf16"),
        ("DATASET.SUBSAMPLE_CLASSES", "base"),
    ):
        assert of(*overrides) != usual, overrides
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        assert of() != usual
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
        assert of() != usual
    with monkeypatch.context() as patch:
        changed = tmp_path / "model.py"
        changed.write_text("# another tower")
        source = feature_cache.inspect.getsourcefile
        patch.setattr(
            feature_cache.inspect,
            "getsourcefile",
            lambda part: str(changed) if part is feature_cache.FrozenCLIP else source(part),
        )
        assert of() != usual
    assert of() == usual


def test_a_picture_that_changes_while_features_are_computed(
    own: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build("CoOp", own, tmp_path)
    encode = trainer._encode

    def slow(loader: Any) -> Any:
        found = encode(loader)
        shutil.copyfile(
            own.parent / "mini/images/1/test_0.png", own.parent / "mini/images/0/test_0.png"
        )
        return found

    monkeypatch.setattr(trainer, "_encode", slow)
    logits = logits_of(trainer)
    assert trainer.shared_features is None
    assert files(folder) == []
    assert torch.equal(logits, logits_of(build("CoOp", own, tmp_path, cache="off")))


def test_what_cannot_be_told_apart_is_not_shared(
    mini: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, image: Any) -> Any:
            return self.inner(image)

    trainer = build("CoOp", mini, tmp_path)
    trainer.test_loader.dataset.transform = Unknown(trainer.test_loader.dataset.transform)
    trainer.test()
    assert trainer.shared_features is None
    for overrides in (
        ("DATALOADER.TEST.SAMPLER", "RandomSampler"),
        ("DATALOADER.RETURN_IMG0", True),
    ):
        trainer = build("CoOp", mini, tmp_path, *overrides)
        trainer.test()
        assert trainer.shared_features is None
    assert not folder.exists()


# ------------------------------------------------------------------ who looks at pixels


@pytest.mark.parametrize("way", ["attribute", "function", "operator", "index"])
def test_a_method_that_looks_at_pixels_gets_them(
    way: str, mini: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plugins.methods()["CoOp"].Model
    forward = model.forward
    flipped = {
        "attribute": lambda image: image.flip(-1),
        "function": lambda image: torch.flip(image, (-1,)),
        "operator": lambda image: image * -1,
        "index": lambda image: image[..., torch.arange(image.shape[-1] - 1, -1, -1)],
    }[way]
    monkeypatch.setattr(model, "forward", lambda self, image: forward(self, flipped(image)))
    trainer = build("CoOp", mini, tmp_path)
    state = torch.get_rng_state()
    found = []
    for cache in ("off", str(folder)):
        monkeypatch.setenv(VARIABLE, cache)
        trainer._features.clear()
        torch.set_rng_state(state)
        logits = [logits_of(trainer) for _ in range(2)]
        assert trainer.shared_features is None
        found.append((torch.cat(logits), torch.get_rng_state()))
    assert all(torch.equal(off, on) for off, on in zip(*found, strict=True))


def test_encoded_images_are_nothing_else(mini: Path, tmp_path: Path) -> None:
    clip = build("CoOp", mini, tmp_path, cache="off").model.clip
    features = torch.randn(2, clip.config.embed_dim)
    images = EncodedImages(features)
    assert clip.encode_image(images) is features
    assert len(images) == 2
    assert not hasattr(images, "shape")
    with pytest.raises(PixelsNeededError, match="prompts change features"):
        clip.encode_image(images, lambda layer, tokens: None)
    with pytest.raises(PixelsNeededError):
        torch.nn.functional.normalize(images)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the folder


IDENTITY = {"pictures": "abc", "number": 3}
FEATURES = torch.arange(12.0).reshape(3, 4)


def test_what_is_kept_is_read_in_its_type(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "new" / "folder")
    assert cache.read(IDENTITY) is None
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        features = FEATURES.to(dtype).T  # not contiguous
        cache.keep(IDENTITY | {"type": str(dtype)}, features)
        found = cache.read(IDENTITY | {"type": str(dtype)})
        assert found is not None
        assert (found.dtype, torch.equal(found, features)) == (dtype, True)


@pytest.mark.parametrize("damage", ["byte", "header", "cut", "empty", "garbage", "other", "folder"])
def test_damage_is_noticed_and_mended(
    damage: str, mini: Path, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits_of(build("CoOp", mini, tmp_path))
    (file,) = files(folder)
    content = file.read_bytes()
    other = FeatureCache(tmp_path / "other")
    other.keep(IDENTITY, torch.randn(20, 16))
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes(
            {
                "byte": content[:-1] + bytes([content[-1] ^ 1]),
                "header": content[:20] + b"x" + content[21:],
                "cut": content[:-5],
                "empty": b"",
                "garbage": os.urandom(500),
                "other": files(tmp_path / "other")[0].read_bytes(),
            }[damage]
        )
    trainer = build("CoOp", mini, tmp_path)
    assert torch.equal(logits_of(trainer), expected)
    assert trainer.shared_features == "computed"
    assert "is damaged; its image features are computed again" in caplog.text
    trainer = build("CoOp", mini, tmp_path)
    assert torch.equal(logits_of(trainer), expected)
    assert trainer.shared_features == ("computed" if damage == "folder" else "found")


def test_the_folder_stays_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=10**9)
    for number in range(4):
        cache.keep({"number": number}, FEATURES + number)
        place, _ = cache._place({"number": number})
        os.utime(place, (1000 + number, 1000 + number))
    size = place.stat().st_size
    assert cache.read({"number": 0}) is not None  # which makes it the last one used
    left, recent = tmp_path / ".x.safetensors.77", tmp_path / ".y.safetensors.78"
    for path in (left, recent, tmp_path / "mine.txt"):
        path.write_bytes(b"x")
    os.utime(left, (1000, 1000))
    FeatureCache(tmp_path, limit=3 * size + size // 2).keep({"number": 4}, FEATURES)
    kept = [number for number in range(5) if cache.read({"number": number}) is not None]
    assert kept == [0, 3, 4]
    assert (left.exists(), recent.exists(), (tmp_path / "mine.txt").exists()) == (False, True, True)
    FeatureCache(tmp_path, limit=size // 2).keep({"number": 5}, FEATURES)  # too large by itself
    assert cache.read({"number": 5}) is None
    assert cache.read({"number": 4}) is not None


def test_a_folder_that_cannot_be_written(mini: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    expected = logits_of(build("CoOp", mini, tmp_path, cache="off"))
    for _ in range(2):
        trainer = build("CoOp", mini, tmp_path, cache=tmp_path / "file")
        assert torch.equal(logits_of(trainer), expected)
        assert trainer.shared_features == "computed"


@pytest.mark.slow
def test_several_processes_use_a_folder_at_once(tmp_path: Path) -> None:
    code = """
import sys, torch
from pathlib import Path
from promptclip.feature_cache import FeatureCache

torch.manual_seed(0)
features = [torch.randn(50, 16) for _ in range(5)]
cache = FeatureCache(Path(sys.argv[1]), limit=12_000)  # room for three of five
for turn in range(25):
    number = turn % 5
    found = cache.read({"number": number})
    if found is None:
        cache.keep({"number": number}, features[number])
    elif not torch.equal(found, features[number]):
        sys.exit("other numbers")
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors
        assert "damaged" not in errors
    assert 1 <= len(files(tmp_path)) <= 5
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))


def test_where_it_is(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where(*overrides: Any) -> Path | None:
        cache = open_cache(
            mini_benchmark.cfg_of("CoOp", mini, tmp_path, *overrides).TEST.FEATURE_CACHE
        )
        return cache and cache.folder

    key = "TEST.FEATURE_CACHE"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv(VARIABLE, "")
    assert where() == Path("/cache/promptclip/features")
    assert where(key, "off") is None
    assert where(key, "~/there") == Path.home() / "there"
    monkeypatch.setenv(VARIABLE, "/var")
    assert where() == Path("/var")
    assert where(key, "/there") == Path("/there")
    monkeypatch.setenv(VARIABLE, "off")
    assert where() is None
    usual = mini_benchmark.cfg_of("CoOp", mini, tmp_path)
    assert config_hash(usual) == config_hash(
        mini_benchmark.cfg_of("CoOp", mini, tmp_path, key, "off")
    )


def test_a_picture_that_cannot_be_read_is_named_as_ever(
    own: Path, tmp_path: Path, folder: Path
) -> None:
    (own.parent / "mini/images/0/test_0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0/test_0.png: the picture cannot be read"):
        build("CoOp", own, tmp_path).test()
    trainer = build("CoOp", own, tmp_path)
    (own.parent / "mini/images/0/test_0.png").unlink()
    with pytest.raises(UserError, match=r"0/test_0.png: the picture cannot be read"):
        trainer.test()
    assert files(folder) == []


def test_the_command_lists_and_clears(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "features"
    monkeypatch.setenv(VARIABLE, str(folder))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{folder}: 0 sets, 0.0 MiB of at most 4096\n"
    mini_benchmark.build("CoOp", mini, tmp_path / "run").test()
    (folder / "damaged.safetensors").write_bytes(b"x")
    os.utime(folder / "damaged.safetensors", (1000, 1000))
    FeatureCache(folder).keep({"from": "another version"}, FEATURES)
    another, _ = FeatureCache(folder)._place({"from": "another version"})
    os.utime(another, (1001, 1001))
    (folder / "mine.txt").write_text("x")
    capsys.readouterr()
    assert main(["cache"]) == 0
    head, own, *others = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{folder}: 3 sets, 0.0 MiB")
    assert re.search(r"MiB  20 pictures of 32 pixels, weights \w{8}, fp32, torch \d[\d.]+$", own)
    assert [line.split("MiB  ")[1].split(",")[0] for line in others] == ["damaged", "damaged"]
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out.endswith(f"are free again in {folder}\n")
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]
    monkeypatch.setenv(VARIABLE, "off")
    assert main(["cache", "--clear"]) == 0
    assert "off" in capsys.readouterr().out
