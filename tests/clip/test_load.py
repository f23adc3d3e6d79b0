"""Every source of weights gives the same tensors, bad ones give one line, none runs code."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import threading
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from random_clip import random_state_dict
from torch import nn

from promptclip.clip import download, openclip
from promptclip.clip.config import CLIPConfig
from promptclip.clip.load import METADATA_KEY, half_type, load_clip, read_clip, resolve_precision
from promptclip.errors import UserError

CONFIG = CLIPConfig(
    embed_dim=32,
    image_size=32,
    patch_size=8,
    visual_width=128,
    visual_layers=2,
    visual_heads=2,
    text_width=64,
    text_layers=3,
    text_heads=1,
    vocab_size=100,
)
OPEN_CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "text_cfg": {"vocab_size": 100, "width": 64, "heads": 1, "layers": 3},
}
RESNET = {"image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}


@pytest.fixture(scope="module")
def weights():
    """Half precision where OpenAI's archives have it."""
    return {
        key: value.half() if value.ndim > 1 and "embedding" not in key else value
        for key, value in random_state_dict(CONFIG).items()
    }


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class OpenAI(nn.Module):
    """The modules of OpenAI's package, by its names (openai/CLIP d05afc4, clip/model.py)."""

    def __init__(self, weights, config=CONFIG):
        super().__init__()

        def tower(width, layers, heads):
            return module(resblocks=nn.Sequential(*(block(width, heads) for _ in range(layers))))

        def block(width, heads):
            mlp = OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
            return module(
                attn=nn.MultiheadAttention(width, heads),
                ln_1=nn.LayerNorm(width),
                mlp=nn.Sequential(mlp),
                ln_2=nn.LayerNorm(width),
            )

        def module(**children):
            parent = nn.Module()
            for name, child in children.items():
                setattr(parent, name, child)
            return parent

        vision, width = config.visual_width, config.text_width
        self.visual = module(
            conv1=nn.Conv2d(3, vision, config.patch_size, config.patch_size, bias=False),
            class_embedding=nn.Parameter(torch.empty(vision)),
            positional_embedding=nn.Parameter(weights["visual.positional_embedding"]),
            ln_pre=nn.LayerNorm(vision),
            transformer=tower(vision, config.visual_layers, config.visual_heads),
            ln_post=nn.LayerNorm(vision),
            proj=nn.Parameter(torch.empty(vision, config.embed_dim)),
        )
        self.transformer = tower(width, config.text_layers, config.text_heads)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.load_state_dict(weights, assign=True)


class Tree(nn.Module):
    """Nothing but the tensors of a state dict, by its names; what TorchScript can compile."""

    def __init__(self, state_dict):
        super().__init__()
        for key, value in state_dict.items():
            name, _, rest = key.partition(".")
            if not rest:
                if value.is_floating_point():
                    self.register_parameter(name, nn.Parameter(value))
                else:
                    self.register_buffer(name, value)
            elif not hasattr(self, name):
                head = f"{name}."
                children = {k[len(head) :]: v for k, v in state_dict.items() if k.startswith(head)}
                self.add_module(name, Tree(children))


def torchscript(state_dict, path):
    """A genuine archive, with the integers that OpenAI's have beside the weights."""
    tree = Tree(state_dict)
    for name, value in {"input_resolution": 32, "context_length": 77, "vocab_size": 100}.items():
        tree.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(tree), path)
    return path


def open_clip_model(weights, config=OPEN_CLIP_CONFIG, quick_gelu=True, custom=False):
    from open_clip.model import CLIP, CustomTextCLIP

    model = (CustomTextCLIP if custom else CLIP)(**config, quick_gelu=quick_gelu).eval()
    towers = ("visual", "logit")
    model.load_state_dict(
        {k if k.startswith(towers) or not custom else f"text.{k}": v for k, v in weights.items()},
        assign=True,
    )
    return model


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """Two small models in open_clip's list: `tiny` and `tiny-resnet`, both with QuickGELU."""
    import open_clip

    folder = tmp_path_factory.mktemp("models")
    for name, config in {
        "tiny": OPEN_CLIP_CONFIG,
        "tiny-resnet": OPEN_CLIP_CONFIG | {"vision_cfg": RESNET},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config | {"quick_gelu": True}))
    open_clip.add_model_config(folder)


def save(value, path, **options):
    torch.save(value, path, **options)
    return path


def save_safetensors(state_dict, path, config=None):
    metadata = {METADATA_KEY: json.dumps(config)} if config else None
    safetensors.torch.save_file(state_dict, path, metadata)
    return path


def training_checkpoint(weights):
    """As open_clip's training writes it, from several processes."""
    state_dict = {f"module.{key}": value for key, value in weights.items()}
    return {"epoch": 32, "name": "run", "state_dict": state_dict, "optimizer": {"state": {}}}


SOURCES = {
    "state dict": lambda w, path: save(w, path),
    "state dict as string": lambda w, path: str(save(w, path)),
    "state dict, old format": lambda w, path: save(
        OrderedDict(w), path, _use_new_zipfile_serialization=False
    ),
    "torchscript": torchscript,
    "torchscript in memory": lambda w, path: torch.jit.load(torchscript(w, path)),
    "safetensors": save_safetensors,
    "safetensors with sizes": lambda w, path: save_safetensors(w, path, asdict(CONFIG)),
    "openai in memory": lambda w, path: OpenAI(w),
    "open_clip in memory": lambda w, path: open_clip_model(w),
    "open_clip in memory, text apart": lambda w, path: open_clip_model(w, custom=True),
    "open_clip state dict": lambda w, path: f"open_clip:tiny/{save(w, path)}",
    "open_clip safetensors": lambda w, path: f"open_clip:tiny/{save_safetensors(w, path)}",
    "open_clip training": lambda w, path: f"open_clip:tiny/{save(training_checkpoint(w), path)}",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_sources_agree(source, weights, tmp_path, tiny_models):
    state_dict, config, visual = read_clip(source(weights, tmp_path / "weights"))
    assert config == CONFIG
    assert visual is None
    assert state_dict.keys() == weights.keys()
    for key, value in weights.items():
        assert state_dict[key].dtype == value.dtype
        assert torch.equal(state_dict[key], value), key


def test_model_in_memory_may_change_later(weights):
    model = OpenAI({key: value.clone() for key, value in weights.items()})
    state_dict, _, _ = read_clip(model)
    with torch.no_grad():
        model.logit_scale.add_(1)
    assert torch.equal(state_dict["logit_scale"], weights["logit_scale"])


def test_what_tensors_do_not_tell(weights, tmp_path):
    told = {"text_heads": 4, "activation": "gelu", "mean": [0.5] * 3, "std": [0.25] * 3}
    expected = replace(
        CONFIG, text_heads=4, activation="gelu", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    path = save_safetensors(weights, tmp_path / "weights.safetensors", told)
    assert read_clip(path)[1] == expected

    narrow = {"text_cfg": OPEN_CLIP_CONFIG["text_cfg"] | {"heads": 4}}
    model = open_clip_model(weights, OPEN_CLIP_CONFIG | narrow, quick_gelu=False)
    model.visual.image_mean, model.visual.image_std = [0.5] * 3, [0.25] * 3
    assert read_clip(model)[1] == expected


# ------------------------------------------------------------------- features


def features(clip, config):
    torch.manual_seed(0)
    image = torch.randn(3, 3, config.image_size, config.image_size)
    ids = torch.randint(1, 90, (4, 77))
    for row, end in zip(ids, (2, 9, 30, 76), strict=True):
        row[end], row[end + 1 :] = 99, 0
    with torch.no_grad():
        return clip.encode_image(image), clip.encode_text(ids)


def assert_same_features(clip, model, config, tolerance=1e-6):
    for ours, theirs in zip(features(clip, config), features(model, config), strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("textbook", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_of_open_clip(weights, quick_gelu, textbook):
    weights = {key: value.float() for key, value in weights.items()}
    model = open_clip_model(weights, quick_gelu=quick_gelu)
    clip = load_clip(model, textbook=textbook)
    assert clip.config.activation == ("quick_gelu" if quick_gelu else "gelu")
    assert_same_features(clip, model, CONFIG)


@pytest.fixture(scope="module")
def resnet(weights):
    """open_clip's model with a small ResNet, its batch norms not at their initial state."""
    torch.manual_seed(0)
    from open_clip.model import CLIP

    model = CLIP(**OPEN_CLIP_CONFIG | {"vision_cfg": RESNET}, quick_gelu=True).eval()
    text = {k: v.float() for k, v in weights.items() if not k.startswith("visual.")}
    model.load_state_dict(text, strict=False)
    for name, tensor in model.visual.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "source",
    [
        lambda model, path: model,
        lambda model, path: save(model.state_dict(), path),
        lambda model, path: f"open_clip:tiny-resnet/{save(model.state_dict(), path)}",
    ],
    ids=["in memory", "state dict", "open_clip"],
)
def test_resnet(source, resnet, tmp_path, tiny_models):
    clip = load_clip(source(resnet, tmp_path / "weights"))
    assert clip.config == replace(
        CONFIG, patch_size=0, visual_width=8, visual_layers=5, visual_heads=4
    )
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert_same_features(clip, resnet, clip.config)


def test_tiny_emoji():
    clip = load_clip("tiny-emoji")
    assert clip.dtype == torch.float32
    assert clip.encode_text(torch.tensor([[49406, 1929, 49407] + [0] * 74])).isfinite().all()


# ------------------------------------------------------------------ precision


def test_precision():
    assert resolve_precision("auto", "cpu") == resolve_precision("auto", "mps") == "fp32"
    assert resolve_precision("auto", "cuda:0") == "amp"
    assert resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(UserError, match='fp32, .* or auto, got "half"'):
        resolve_precision("half", "cpu")


@pytest.mark.parametrize("native", [False, True])
def test_half_type(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert half_type("cuda") == (torch.bfloat16 if native else torch.float16)
    assert half_type("cpu") == torch.bfloat16


# ------------------------------------------------------------------ bad input


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


def write(data, path):
    path.write_bytes(data)
    return path


BAD = {
    "no such name": (lambda w, path: "ViT-B16", r"no weights 'ViT-B16'.*did you mean ViT-B/16\?"),
    "no such file": (lambda w, path: path, "no weights .*the path of a file"),
    "folder": (lambda w, path: path.parent, "no weights"),
    "web page": (
        lambda w, path: write(b"<!DOCTYPE html><html>404</html>", path),
        "weights holds no weights .*begins with b'<!DOCTYPE html",
    ),
    "empty": (lambda w, path: write(b"", path), "holds no weights .*begins with b''"),
    "not a state dict": (lambda w, path: save([1, 2], path), "expected tensors by name"),
    "tensor": (lambda w, path: save(torch.ones(3), path), "expected tensors by name"),
    "whole module": (lambda w, path: save(nn.Linear(1, 1), path), "that can be read safely"),
    "not a CLIP": (
        lambda w, path: save(nn.Linear(1, 1).state_dict(), path),
        "not a supported CLIP: a CLIP has a tensor 'text_projection', this has bias, weight",
    ),
    "missing": (
        lambda w, path: save(without(w, "visual.ln_post.bias"), path),
        "tensors are missing: visual.ln_post.bias",
    ),
    "missing heads of lists": (
        lambda w, path: save({k: v for k, v in w.items() if ".1." not in k}, path),
        r"tensors are missing: .*resblocks.1.* and \d+ more",
    ),
    "unknown": (
        lambda w, path: save(w | {"visual.attn_pool.query": torch.ones(1)}, path),
        "unknown tensors: visual.attn_pool.query; supported are",
    ),
    "shape": (
        lambda w, path: save(w | {"ln_final.bias": torch.ones(63)}, path),
        r"the shape of ln_final.bias must be \[64\], is \[63\]",
    ),
    "rank": (
        lambda w, path: save(w | {"text_projection": torch.ones(63)}, path),
        "not the ranks of a CLIP",
    ),
    "other sizes": (
        lambda w, path: save_safetensors(w, path, {"visual_width": 64}),
        r"the shape of visual.* must be \[64.*\], is \[128",
    ),
    "heads": (
        lambda w, path: save_safetensors(w, path, {"text_heads": 5}),
        "width must be a multiple of its heads, is 64 with 5",
    ),
    "activation": (
        lambda w, path: save_safetensors(w, path, {"activation": "relu"}),
        'activation must be "quick_gelu" or "gelu", is \'relu\'',
    ),
    "unknown field": (lambda w, path: save_safetensors(w, path, {"size": 5}), "argument 'size'"),
    "training checkpoint": (
        lambda w, path: save(training_checkpoint(w), path),
        "does not tell its activation.*open_clip:MODEL/",
    ),
    "other module": (lambda w, path: nn.Linear(1, 1), "towers of the model are not CLIP's"),
    "open_clip name": (
        lambda w, path: "open_clip:ViT-B32/openai",
        "no model 'ViT-B32'; did you mean ViT-B-32",
    ),
    "open_clip tag": (
        lambda w, path: "open_clip:ViT-B-16-plus-240/openai",
        "has the tags laion400m_e31, laion400m_e32; 'openai' is none of them, nor a file",
    ),
    "open_clip without tag": (lambda w, path: "open_clip:ViT-B-32", "'' is none of them"),
    "siglip": (
        lambda w, path: "open_clip:ViT-B-16-SigLIP/webli",
        "ViT-B-16-SigLIP is not supported .*pool_type.*timm_model_name.*; supported are",
    ),
    "coca": (lambda w, path: "open_clip:coca_ViT-B-32/laion2b_s13b_b90k", "attentional_pool"),
    "another model": (
        lambda w, path: f"open_clip:ViT-B-32/{save(w, path)}",
        "tensors are missing: transformer.resblocks.10",
    ),
}


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_bad_source(source, message, weights, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read_clip(source(weights, tmp_path / "weights"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write_file", [save, torchscript, save_safetensors])
def test_truncated_file(write_file, weights, tmp_path):
    path = write_file(weights, tmp_path / "weights")
    data = path.read_bytes()
    for size in (len(data) - 1, len(data) // 2, 1000, 9):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="is damaged") as caught:
            read_clip(path)
        assert "\n" not in str(caught.value)


def test_damaged_archive(weights, tmp_path):
    path = torchscript(weights, tmp_path / "weights")
    data = bytearray(path.read_bytes())
    data[data.index(weights["text_projection"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged TorchScript .*CRC"):
        read_clip(path)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "image tower's pooling"),
        ({"vision_cfg": {"norm_kwargs": {"eps": 1e-6}}}, "norm's epsilon"),
        ({"text_cfg": {"pool_type": "last"}}, "text tower's pooling"),
        ({"text_cfg": {"no_causal_mask": True}}, "text tower's mask"),
        ({"text_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "activation"),
    ],
)
@pytest.mark.parametrize("custom", [False, True])
def test_model_built_otherwise(change, part, custom, weights):
    config = {
        key: OPEN_CLIP_CONFIG[key] | change.get(key, {}) for key in ("vision_cfg", "text_cfg")
    }
    model = open_clip_model(weights, {"embed_dim": 32, **config}, quick_gelu=False, custom=custom)
    with pytest.raises(UserError, match=f"model's {part}.* is not CLIP's; supported are"):
        read_clip(model)


# --------------------------------------------------------- nothing is executed


class Exploit:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("archive", ["torchscript", "state dict", "old state dict", "bare pickle"])
def test_exploit(archive, weights, tmp_path):
    path, marker = tmp_path / "weights", tmp_path / "marker"
    exploit = {"text_projection": Exploit(marker)}
    if archive == "torchscript":
        genuine = torchscript(weights, tmp_path / "genuine")
        with zipfile.ZipFile(genuine) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                tampered = name.endswith("/data.pkl")
                data = pickle.dumps(exploit, protocol=2) if tampered else source.read(name)
                target.writestr(name, data)
    elif archive == "bare pickle":
        path.write_bytes(pickle.dumps(exploit))
    else:
        save(exploit, path, _use_new_zipfile_serialization=archive == "state dict")
    with pytest.raises(UserError, match=r"not read: it asks for \w+.mkdir|can be read safely"):
        read_clip(path)
    assert not marker.exists()


# ----------------------------------------------------- OpenAI's names, download


class Server(http.server.BaseHTTPRequestHandler):
    body = b""
    announced: int | None = None

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(self.announced or len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def published(weights, tmp_path, monkeypatch):
    """A server that has `ViT-B/16`; gives its handler and the path in the cache folder."""
    body = torchscript(weights, tmp_path / "published").read_bytes()
    handler = type("Handler", (Server,), {"body": body})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sha256 = hashlib.sha256(body).hexdigest()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(download.OPENAI, "ViT-B/16", f"{sha256}/ViT-B-16.pt")
    yield handler, tmp_path / "cache" / "ViT-B-16.pt"
    server.shutdown()
    thread.join()
    server.server_close()


def test_download(published, weights, capfd):
    handler, path = published
    state_dict, _, _ = read_clip("ViT-B/16")
    assert torch.equal(state_dict["text_projection"], weights["text_projection"])
    assert path.read_bytes() == handler.body
    assert [*path.parent.iterdir()] == [path]
    assert "ViT-B-16.pt" in capfd.readouterr().err

    handler.body = b""  # from now on it comes from the folder
    assert read_clip("ViT-B/16")[1] == CONFIG


@pytest.mark.parametrize(
    ("body", "announced", "reason"),
    [
        (b"<html>Sign in</html>", None, r"20 bytes came, their SHA-256 is \w{64}"),
        (b"PK", 1000, "2 bytes came|IncompleteRead"),
    ],
    ids=["another file", "broken connection"],
)
def test_failed_download(published, body, announced, reason):
    handler, path = published
    sha256 = download.OPENAI["ViT-B/16"].split("/")[0]
    handler.body, handler.announced = body, announced
    with pytest.raises(UserError, match=f"{path}.* http://127.*{reason}.* SHA-256 is {sha256}"):
        read_clip("ViT-B/16")
    assert [*path.parent.iterdir()] == []


def test_no_network(published, monkeypatch):
    _, path = published
    monkeypatch.setattr(download, "_ADDRESS", "http://127.0.0.1:1/")
    with pytest.raises(UserError, match=f"{path} is not there and could not be downloaded") as e:
        read_clip("ViT-B/16")
    assert "\n" not in str(e.value)


def test_cached_file_of_another_hash(published):
    _, path = published
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"expected SHA-256 \w{64}, got \w{64}; delete it"):
        read_clip("ViT-B/16")
    assert path.read_bytes() == b"mine"


# ------------------------------------------------------------ open_clip's tags


def test_open_clip_tags(monkeypatch, tmp_path):
    monkeypatch.setattr(openclip.hub, "weights", lambda place: tmp_path / "file")
    monkeypatch.setattr(openclip, "openai_weights", lambda name: Path(name))
    assert openclip.find("ViT-L-14-336/openai")[0] == Path("ViT-L/14@336px")
    path, settings = openclip.find("ViT-B-32/laion2b_s34b_b79k")
    assert path == tmp_path / "file"
    assert settings["activation"] == "gelu"
    # Trained with QuickGELU, though the model of that name has none.
    assert openclip.find("ViT-B-16/dfn2b")[1]["activation"] == "quick_gelu"
    # Trained on pixels from -1 to 1.
    assert openclip.find("ViT-L-14/laion2b_s32b_b82k")[1]["mean"] == (0.5, 0.5, 0.5)


def test_open_clip_without_a_network(monkeypatch):
    def fail(place):
        raise FileNotFoundError("no\nnetwork")

    monkeypatch.setattr(openclip.hub, "weights", fail)
    with pytest.raises(UserError, match=r"laion2b_s34b_b79k of ViT-B-32 \(.*\): no network"):
        openclip.find("ViT-B-32/laion2b_s34b_b79k")
