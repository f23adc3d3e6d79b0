"""Time and memory of the text tower, fast path against textbook path, forward and backward.

    python benchmarks/text_tower.py [--classes 100 1000] [--n-ctx 16] [--repeat 5] [--json FILE]

The tower is CLIP ViT-B/16's (12 layers, width 512, random weights), the class names ImageNet's,
fp32. Both paths run in this process, in turn, on the same weights and prompts. The textbook path is
measured at `--textbook-limit` classes at most and scaled linearly beyond (`*`): at 1,000 it needs
about 28 GB. It grows faster than linearly, so the ratio is on the low side.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor

from promptclip.clip.config import CLIPConfig
from promptclip.clip.model import FrozenCLIP
from promptclip.prompts import TextContext

VIT_B16 = CLIPConfig(
    embed_dim=512,
    image_size=224,
    patch_size=16,
    visual_width=768,
    visual_layers=0,  # the image tower is not measured
    visual_heads=12,
    text_width=512,
    text_layers=12,
    text_heads=8,
)


def random_weights(config: CLIPConfig) -> dict[str, Tensor]:
    """A text tower at CLIP's own scale of initialisation (and an image tower of no layers)."""
    torch.manual_seed(0)
    t, v, d = config.text_width, config.visual_width, config.embed_dim
    weights = {
        "visual.conv1.weight": torch.randn(v, 3, config.patch_size, config.patch_size),
        "visual.class_embedding": torch.randn(v),
        "visual.positional_embedding": torch.randn(197, v),
        "visual.proj": torch.randn(v, d),
        "token_embedding.weight": torch.randn(config.vocab_size, t) * 0.02,
        "positional_embedding": torch.randn(config.context_length, t) * 0.01,
        "text_projection": torch.randn(t, d) * t**-0.5,
        "logit_scale": torch.tensor(4.6052),
    }
    for i in range(config.text_layers):
        block = f"transformer.resblocks.{i}"
        for name, shape in {
            "attn.in_proj_": (3 * t, t),
            "attn.out_proj.": (t, t),
            "mlp.c_fc.": (4 * t, t),
            "mlp.c_proj.": (t, 4 * t),
        }.items():
            weights[f"{block}.{name}weight"] = torch.randn(shape) * shape[1] ** -0.5 / 2
            weights[f"{block}.{name}bias"] = torch.randn(shape[0]) * 0.01
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    norms += [
        f"transformer.resblocks.{i}.ln_{j}" for i in range(config.text_layers) for j in (1, 2)
    ]
    for norm in norms:
        weights[f"{norm}.weight"] = torch.ones(v if norm.startswith("visual") else t)
        weights[f"{norm}.bias"] = torch.zeros(v if norm.startswith("visual") else t)
    return weights


def peak_memory(reset: bool = False) -> int:
    """Peak resident memory of this process in bytes, since the last reset (Linux with glibc)."""
    if reset:
        # what an earlier measurement has freed would hide what this one needs
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    field = "VmRSS" if reset else "VmHWM"
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def measure(clip: FrozenCLIP, classnames: list[str], n_ctx: int, repeat: int) -> dict[str, object]:
    """Median seconds of forward and backward, and the memory they need beyond the weights."""
    torch.manual_seed(1)
    context = TextContext(clip, classnames, n_ctx=n_ctx)
    direction = torch.randn(len(classnames), clip.config.embed_dim)
    seconds, memory = [], 0
    for step in range(repeat + 1):
        context.ctx.grad = None
        gc.collect()
        before = peak_memory(reset=True)
        start = time.perf_counter()
        features = clip.encode_text(context.tokens, context)
        (features * direction).sum().backward()
        if step:  # the first warms up
            seconds.append(time.perf_counter() - start)
        memory = max(memory, peak_memory() - before)
    return {
        "seconds": statistics.median(seconds),
        "bytes": memory,
        "features": features.detach(),
        "gradient": context.ctx.grad,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--n-ctx", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--textbook-limit", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    weights = random_weights(VIT_B16)
    fast, textbook = (FrozenCLIP(weights, VIT_B16, textbook=flag) for flag in (False, True))
    rows = []
    say = sys.stdout.write
    say(f"torch {torch.__version__}, {args.threads} threads, {platform.processor() or 'CPU'}, ")
    say(f"fp32, {args.n_ctx} context tokens, median of {args.repeat}\n")
    say(f"{'classes':>8} {'textbook s':>11} {'fast s':>8} {'ratio':>6}")
    say(f" {'textbook MB':>12} {'fast MB':>8} {'ratio':>6} {'difference':>11} {'gradient':>9}\n")
    for number in args.classes:
        names = [IMAGENET_CLASSNAMES[i % 1000] for i in range(number)]
        ours = measure(fast, names, args.n_ctx, args.repeat)
        fits = min(number, args.textbook_limit)
        theirs = measure(textbook, names[:fits], args.n_ctx, args.repeat)
        same = ours if fits == number else measure(fast, names[:fits], args.n_ctx, 1)
        scale = number / fits
        row = {
            "classes": number,
            "textbook_measured_at": fits,
            "textbook_seconds": theirs["seconds"] * scale,
            "fast_seconds": ours["seconds"],
            "textbook_bytes": theirs["bytes"] * scale,
            "fast_bytes": ours["bytes"],
        }
        for what in ("features", "gradient"):
            difference = (same[what] - theirs[what]).abs().max() / theirs[what].abs().max()
            row[f"{what}_difference"] = difference.item()
        rows.append(row)
        mark = "*" if scale > 1 else " "
        say(f"{number:8d} {row['textbook_seconds']:10.2f}{mark} {row['fast_seconds']:8.3f}")
        say(f" {row['textbook_seconds'] / row['fast_seconds']:6.1f}")
        say(f" {row['textbook_bytes'] / 2**20:11.0f}{mark} {row['fast_bytes'] / 2**20:8.0f}")
        say(f" {row['textbook_bytes'] / row['fast_bytes']:6.1f}")
        say(f" {row['features_difference']:11.1e} {row['gradient_difference']:9.1e}\n")
    if any(row["textbook_measured_at"] < row["classes"] for row in rows):
        say(f"* measured at {args.textbook_limit} classes and scaled linearly\n")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
