"""Train the small CLIP `tiny-emoji` from emoji and icons: `bash scripts/pretrain_tiny.sh`.

Data: the emoji concepts that `promptclip.emoji` keeps away from the benchmarks, in three styles and
as Noto Emoji's outlines, and icon fonts with glyph names. An icon whose name holds the name of a
benchmark concept anywhere ("dog" in "dog-side") is left out. Pictures are drawn once; augmentation
works on whole batches of tensors.

Losses: contrastive over the names of a batch, where all pictures of one name are positives, and
cross entropy over the captions of all emoji subcategories. The weights are an exponential moving
average over the steps.

Every step draws from a generator seeded by its own number, so a stopped run goes on from its last
checkpoint with the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import logging
import math
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from promptclip import emoji
from promptclip.clip.config import CLIPConfig
from promptclip.clip.tokenizer import tokenize

log = logging.getLogger("pretrain_tiny")
Weights = dict[str, Tensor]

CONFIG = CLIPConfig(
    embed_dim=128,
    image_size=48,
    patch_size=6,
    visual_width=192,
    visual_layers=6,
    visual_heads=3,
    text_width=128,
    text_layers=4,
    text_heads=2,
    activation="gelu",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
BICUBIC = Image.Resampling.BICUBIC
MAX_VARIANTS = 36  # of a concept; couples have up to 104
DRAWN = 60  # pixels of a stored picture; augmentation shrinks it to the model's size
BATCH_EMOJI, BATCH_OUTLINES, BATCH_ICONS = 112, 16, 128
LR, WEIGHT_DECAY, WARMUP = 1e-3, 0.2, 150
EMA = 0.998
KEEP, FULL_FROM = 0.5, 0.5  # share of patches looked at; all from this part of the run on
KIND_WEIGHT, LABEL_SMOOTHING = 2.0, 0.1  # of the loss of subcategories
TEMPLATES = ("a picture of a {}.", "a photo of a {}.", "an icon of a {}.", "a {}.", "{}")
FONTS = ("materialdesignicons6", "fontawesome6-solid", "fontawesome6-regular", "phosphor")
FONTS += ("remixicon", "codicon", "elusiveicons")
# Words of an icon's name that tell how it is drawn, not what it shows.
DRAWING = re.compile(
    "outlined?|fill(ed)?|line|off|alt|bold|thin|light|duotone|solid|regular|variant|box|circle|square|"
    "[2345]"
)
# What the first word of an icon's name says about its subcategory: plain English, so that icons of
# things that are no emoji ("screwdriver", "sofa") get one as well.
GLOSSARY = {
    "animal bird": "bird duck owl eagle crow penguin",
    "animal bug": "bug ant bee beetle spider butterfly mosquito worm",
    "animal marine": "fish shark whale dolphin jellyfish octopus crab",
    "animal mammal": (
        "cat dog horse cow pig rabbit elephant panda unicorn paw donkey sheep kangaroo"
    ),
    "arrow": (
        "arrow arrows caret chevron chevrons corner undo redo angle angles forward reply share"
    ),
    "av symbol": "play pause stop skip rewind repeat shuffle eject player step volume record fast",
    "body parts": "bone tooth eye ear foot brain lungs skull nose hand heartbeat arm footprints",
    "book paper": "book books notebook newspaper bookmark bookmarks receipt scroll page script",
    "clothing": (
        "shirt shoe tshirt hat glasses bag backpack tie dress handbag tote suitcase sock pants "
        "crown sunglasses coat hanger boot sneaker scarf vest necklace baseball"
    ),
    "computer": (
        "laptop desktop monitor keyboard mouse printer cpu server database disc disk floppy "
        "memory harddisk chip usb tablet hard"
    ),
    "dishware": "knife fork spoon silverware bowl plate pot",
    "drink": "cup coffee beer glass wine bottle tea mug martini brandy champagne liquor",
    "emotion": "comment message chat chats bubble speech thought explosion dizzy",
    "event": "gift balloon party confetti firework ticket cake christmas pine",
    "face concerned": "frown sad cry worried",
    "face smiling": "smiley smile laugh grin happy",
    "food fruit": (
        "fruit apple banana cherry cherries lemon orange grapes pear watermelon pineapple"
    ),
    "food prepared": (
        "food pizza bread burger hamburger sandwich egg taco cheese bacon sausage grain"
    ),
    "food sweet": "cookie cake candy ice lollipop cupcake donut chocolate pie",
    "food vegetable": "carrot corn mushroom pepper chili onion potato salad",
    "game": "gamepad puzzle dice cards chess joystick controller game poker toy spade club",
    "geometric": (
        "circle square triangle hexagon rectangle rhombus pentagon octagon shape diamond "
        "polygon octagram circles squares rectangles triangles oval"
    ),
    "heart": "heart hearts",
    "household": (
        "sofa couch chair armchair bed bathtub shower toilet door broom bucket lamp table "
        "basket soap sponge fridge microwave oven washing faucet toaster trash vacuum kettle "
        "iron wash"
    ),
    "light and video": (
        "lightbulb bulb camera video movie projector film flashlight candle television tv photo "
        "cctv magnifying magnify webcam"
    ),
    "lock": "lock unlock key padlock",
    "mail": "email mail mailbox inbox envelope package postage mailer at outbox",
    "math": "plus minus divide multiply equal percent math",
    "medical": "pill pills stethoscope syringe bandage hospital medical needle ambulance",
    "money": "cash money wallet bank coin coins credit piggy",
    "musical instrument": "guitar piano drum trumpet violin saxophone",
    "office": (
        "folder folders file files clipboard paperclip pin chart calendar ruler scissors card "
        "archive briefcase notepad presentation trash note thumbtack graph"
    ),
    "person activity": "walk run dance hiking running walking kneeling",
    "person role": "account user person users worker doctor nurse",
    "person sport": "swim swimming golf ski snowboard surfing rowing yoga karate",
    "phone": "phone cellphone mobile telephone device",
    "place building": (
        "home house building buildings store factory castle warehouse garage barn storefront "
        "school hospital office city"
    ),
    "plant flower": "flower rose tulip lotus",
    "religion": "cross om star-david yin buddhism christianity islam judaism dharmachakra",
    "science": "flask microscope telescope beaker atom dna test virus",
    "sky and weather": (
        "weather cloud sun moon snow rain wind thermometer temperature umbrella lightning storm "
        "droplet drop snowflake planet rainbow fog haze cloudy sunset sunrise star"
    ),
    "sound": "bell speaker megaphone bullhorn volume mute",
    "sport": (
        "soccer basketball football tennis ball bowling hockey cricket volleyball rugby barbell "
        "dumbbell billiards badminton baseball racquetball"
    ),
    "time": "clock timer alarm hourglass stopwatch watch time",
    "tool": (
        "screwdriver wrench hammer saw axe tool tools gear cog shovel ladder drill bolt magnet "
        "pliers sword nut screw pickaxe toolbox settings"
    ),
    "transport air": "airplane plane helicopter rocket parachute drone satellite",
    "transport ground": (
        "car truck bus train bike bicycle motorbike scooter van tram taxi tractor subway "
        "caravan moped motorcycle jeep cab road gas fuel traffic"
    ),
    "transport sign": (
        "wheelchair toilet restroom parking elevator escalator baggage human luggage"
    ),
    "transport water": "ship boat sailboat ferry anchor submarine canoe",
    "warning": "alert warning cancel forbid prohibit block ban radioactive biohazard no error",
    "writing": "pen pencil marker brush highlighter feather edit",
    "zodiac": "zodiac",
}
KIND_OF = {word: kind for kind, heads in GLOSSARY.items() for word in heads.split()}


# --------------------------------------------------------------------------------------------------
# Pictures


@dataclasses.dataclass
class Pictures:
    """Training pictures of one kind, grouped: a step first draws a group, then one of its pictures.

    `pixels` are uint8: colour on white [N, 3, S, S], or the ink of one-colour pictures
    [N, 1, S, S]. `labels` [N, 2] index `Captions.names` and `Captions.subcategories`; an unknown
    subcategory is -1. A group is a concept in one style, or the icons of one name.
    """

    pixels: Tensor
    labels: Tensor
    groups: list[list[int]]

    @classmethod
    def of(
        cls, rows: list[tuple[np.ndarray, tuple[int, int]]], groups: list[list[int]]
    ) -> Pictures:
        """Stack pictures [C, S, S] with their two labels."""
        pixels = torch.from_numpy(np.stack([picture for picture, _ in rows]))
        return cls(pixels, torch.tensor([labels for _, labels in rows]), groups)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels [n, C, S, S] in 0..1 and labels [n, 2] of pictures drawn at random."""
        group = torch.randint(len(self.groups), (n,), generator=rng).tolist()
        part = torch.rand(n, generator=rng).tolist()
        members = [self.groups[g] for g in group]
        rows = [m[int(r * len(m))] for m, r in zip(members, part, strict=True)]
        return self.pixels[rows] / 255, self.labels[rows]


@dataclasses.dataclass
class Data:
    """What a run trains on."""

    emoji: Pictures
    outlines: Pictures  # Noto Emoji
    icons: Pictures
    names: list[str]
    subcategories: list[str]
    concepts: list[str]  # keys


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it: qtawesome would want Qt."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"error: pretraining needs the package {name}; see scripts/pretrain_tiny.sh"
        )
    return Path(spec.submodule_search_locations[0])


def glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """Ink of one character, centred, [1, S, S] uint8."""
    canvas = Image.new("L", (2 * DRAWN, 2 * DRAWN))
    ImageDraw.Draw(canvas).text((DRAWN, DRAWN), character, fill=255, font=font, anchor="mm")
    box = canvas.getbbox()
    if box is None:
        return np.zeros((1, DRAWN, DRAWN), np.uint8)
    cut = canvas.crop(box)
    scale = (DRAWN - 6) / max(cut.size)
    cut = cut.resize([max(1, round(side * scale)) for side in cut.size], BICUBIC)
    out = Image.new("L", (DRAWN, DRAWN))
    out.paste(cut, ((DRAWN - cut.width) // 2, (DRAWN - cut.height) // 2))
    return np.asarray(out)[None]


def icons() -> dict[str, list[np.ndarray]]:
    """Name -> pictures, without names that hold the name of a benchmark concept anywhere."""
    taken = {words(name) for c in emoji.concepts() if not c.pretraining for name in c.all_names}
    found: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(name: str, ink: np.ndarray) -> None:
        key = words(name)
        spans = {key[i:j] for i in range(len(key)) for j in range(i + 1, len(key) + 1)}
        if key and not spans & taken and ink.any():
            found[" ".join(key)].append(ink)

    fonts = package_folder("qtawesome") / "fonts"
    for prefix in FONTS:
        (path,) = fonts.glob(f"{prefix}-*.ttf")
        (charmap,) = fonts.glob(f"{prefix}-*charmap*.json")
        font = ImageFont.truetype(str(path), DRAWN)
        for name, code in json.loads(charmap.read_text()).items():
            add(name, glyph(font, chr(int(code, 16))))
    for path in sorted((package_folder("pytablericons") / "icons").glob("*/*.svg")):
        picture = emoji.draw_svg(path.read_text().replace("currentColor", "#000"), DRAWN)
        add(path.stem, np.asarray(picture)[None, ..., 3])
    return dict(sorted(found.items()))


def words(name: str) -> tuple[str, ...]:
    """An icon's name without the words on how it is drawn."""
    split = re.split(r"[^a-z0-9]+", name.lower())
    return tuple(word for word in split if word and not DRAWING.fullmatch(word))


def collect(concepts: list[emoji.Concept]) -> Data:
    """Draw everything."""
    names: dict[str, int] = {}
    subcategories: dict[str, int] = {}
    known: dict[tuple[str, ...], int] = {}  # words of a concept's name -> its subcategory
    coloured, outlined, drawn = [], [], []
    groups: dict[str, list[list[int]]] = {"emoji": [], "outlines": [], "icons": []}
    (noto,) = package_folder("manimgx_fonts").glob("NotoEmoji*.ttf")
    font = ImageFont.truetype(str(noto), DRAWN)
    for concept in concepts:
        kind = emoji.subcategory_name(concept.subcategory)
        labels = (
            names.setdefault(concept.name, len(names)),
            subcategories.setdefault(kind, len(subcategories)),
        )
        known |= {words(name): labels[1] for name in concept.all_names}
        for style in emoji.STYLES:
            codes = concept.variants[:MAX_VARIANTS]
            groups["emoji"].append(list(range(len(coloured), len(coloured) + len(codes))))
            for code in codes:
                picture = emoji.picture(code, style).resize((DRAWN, DRAWN), BICUBIC)
                coloured.append((np.asarray(picture).transpose(2, 0, 1), labels))
        if "-" not in concept.key and (ink := glyph(font, chr(int(concept.key, 16)))).any():
            groups["outlines"].append([len(outlined)])
            outlined.append((ink, labels))
    for text, pictures in icons().items():
        split = tuple(text.split())
        kind = subcategories.get(KIND_OF.get(split[0], ""), -1)
        kind = next((known[split[:n]] for n in (3, 2, 1) if split[:n] in known), kind)
        labels = (names.setdefault(text, len(names)), kind)
        groups["icons"].append(list(range(len(drawn), len(drawn) + len(pictures))))
        drawn += [(ink, labels) for ink in pictures]
    log.info(
        "%d emoji pictures, %d outlines, %d icons (%d with a subcategory), %d names",
        len(coloured), len(outlined), len(drawn), sum(x[1] >= 0 for _, x in drawn), len(names),
    )  # fmt: skip
    return Data(
        Pictures.of(coloured, groups["emoji"]),
        Pictures.of(outlined, groups["outlines"]),
        Pictures.of(drawn, groups["icons"]),
        list(names),
        list(subcategories),
        [concept.key for concept in concepts],
    )


def training_concepts(holdout: float) -> tuple[list[emoji.Concept], list[emoji.Concept]]:
    """Pretraining concepts, and those among them that are held out for choosing the recipe.

    Args:
        holdout: share of a subcategory's concepts that is held out, if it has five or more.
    """
    groups: dict[str, list[emoji.Concept]] = defaultdict(list)
    for concept in emoji.concepts():
        if concept.pretraining:
            groups[concept.subcategory].append(concept)
    train, held = [], []
    for members in groups.values():
        members.sort(key=lambda c: hashlib.sha256(f"{c.key} held out".encode()).digest())
        count = round(holdout * len(members)) if len(members) >= 5 else 0
        held += members[:count]
        train += members[count:]
    return train, held


# --------------------------------------------------------------------------------------------------
# Augmentation


def warp(pixels: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Random scale, turn, shift and mirror, [B, C, S, S] -> [B, C, size, size]; 0 outside."""
    n = len(pixels)

    def between(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    angle, scale, aspect = between(-0.25, 0.25), between(0.8, 1.25), between(-0.12, 0.12).exp()
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    wide, high = scale * aspect, scale / aspect
    across = [mirror * angle.cos() * wide, -angle.sin() * high, between(-0.15, 0.15)]
    down = [mirror * angle.sin() * wide, angle.cos() * high, between(-0.15, 0.15)]
    theta = torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)
    grid = F.affine_grid(theta, [n, pixels.shape[1], size, size], align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def some(n: int, p: float, rng: torch.Generator) -> Tensor:
    """Which of n pictures are changed, [n, 1, 1, 1]."""
    return (torch.rand(n, generator=rng) < p)[:, None, None, None]


def recolour(image: Tensor, rng: torch.Generator) -> Tensor:
    """Change hue and contrast of [B, 3, S, S] in 0..1; make some grey, edges only, or inverted."""
    n = len(image)
    mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=rng)
    mix = mix / mix.sum(2, keepdim=True)  # white stays white
    image = torch.where(some(n, 0.5, rng), torch.einsum("nij,njhw->nihw", mix, image), image)
    gamma = (0.4 * torch.randn(n, 1, 1, 1, generator=rng)).exp()
    image = image.clamp(0, 1) ** gamma
    grey = image.mean(1, keepdim=True)
    image = torch.where(some(n, 0.15, rng), grey.expand_as(image), image)
    gx = F.pad(grey[..., :, 1:] - grey[..., :, :-1], (0, 1))
    gy = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    edges = 1 - (4 * (gx.abs() + gy.abs())).clamp(0, 1)
    image = torch.where(some(n, 0.15, rng), edges.expand_as(image), image)
    return torch.where(some(n, 0.05, rng), 1 - image, image)


def paint(ink: Tensor, rng: torch.Generator) -> Tensor:
    """Ink [B, 1, S, S] on paper in random colours, often black on white: [B, 3, S, S]."""
    n = len(ink)
    dark = torch.rand(n, 3, 1, 1, generator=rng) * 0.7
    dark = torch.where(some(n, 0.4, rng), 0.0, dark)
    paper = 1 - torch.rand(n, 3, 1, 1, generator=rng) * 0.4
    paper = torch.where(some(n, 0.6, rng), 1.0, paper)
    swap = some(n, 0.1, rng)
    dark, paper = torch.where(swap, paper, dark), torch.where(swap, dark, paper)
    return ink * dark + (1 - ink) * paper


def erase(image: Tensor, rng: torch.Generator) -> Tensor:
    """Lay a white patch over a part of some pictures."""
    n, size = len(image), image.shape[-1]
    centre = torch.rand(n, 2, 1, generator=rng) * size
    half = (0.05 + 0.15 * torch.rand(n, 2, 1, generator=rng)) * size
    inside = (torch.arange(size) - centre).abs() < half  # [B, 2, S]
    box = inside[:, 0, None, :, None] & inside[:, 1, None, None, :] & some(n, 0.3, rng)
    return torch.where(box, 1.0, image)


# --------------------------------------------------------------------------------------------------
# Training


def initial_weights() -> dict[str, Tensor]:
    """CLIP's initial weights; open_clip's keys are OpenAI's."""
    c = CONFIG
    vision = CLIPVisionCfg(
        layers=c.visual_layers,
        width=c.visual_width,
        head_width=c.visual_width // c.visual_heads,
        patch_size=c.patch_size,
        image_size=c.image_size,
    )
    text = CLIPTextCfg(
        context_length=c.context_length,
        vocab_size=c.vocab_size,
        width=c.text_width,
        heads=c.text_heads,
        layers=c.text_layers,
    )
    return {k: v.detach() for k, v in CLIP(c.embed_dim, vision, text).named_parameters()}


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """A LayerNorm of the state dict."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """A linear layer of the state dict."""
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def tower(w: Weights, prefix: str, x: Tensor, layers: int, heads: int, causal: bool) -> Tensor:
    """CLIP's blocks. Attention is written out: for short sequences torch's own is slower here."""
    n, length, _ = x.shape
    mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1) if causal else None
    for layer in range(layers):
        at = f"{prefix}transformer.resblocks.{layer}."
        project = w[at + "attn.in_proj_weight"], w[at + "attn.in_proj_bias"]
        qkv = F.linear(norm(w, at + "ln_1", x), *project)
        q, k, v = qkv.view(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        scores = scores if mask is None else scores + mask
        mixed = (scores.softmax(-1) @ v).view(n, heads, length, -1).transpose(1, 2).reshape(x.shape)
        x = x + linear(w, at + "attn.out_proj", mixed)
        hidden = linear(w, at + "mlp.c_fc", norm(w, at + "ln_2", x))
        x = x + linear(w, at + "mlp.c_proj", F.gelu(hidden))
    return x


def encode_text(w: Weights, tokens: Tensor) -> Tensor:
    """Unit text features [C, D] of rows of `token_embedding`, in chunks of about equal length."""
    order = tokens.argmax(1).argsort(stable=True)
    features = torch.cat([encode_chunk(w, tokens[rows]) for rows in order.chunk(4)])
    return features[order.argsort()]


def encode_chunk(w: Weights, tokens: Tensor) -> Tensor:
    """Text features of captions cut after the longest; exact, as the tower is causal."""
    end = tokens.argmax(1)
    tokens = tokens[:, : int(end.max()) + 1]
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"][: tokens.shape[1]]
    x = tower(w, "", x, CONFIG.text_layers, CONFIG.text_heads, causal=True)
    x = norm(w, "ln_final", x[torch.arange(len(x)), end]) @ w["text_projection"]
    return F.normalize(x.float(), dim=-1)


def encode_image(w: Weights, image: Tensor, keep: Tensor | None = None) -> Tensor:
    """Unit features [B, D] of pictures in 0..1; `keep` [B, K]: the patches that are looked at."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CONFIG.mean, CONFIG.std))
    filters = w["visual.conv1.weight"]
    patches = F.unfold((image - mean) / std, CONFIG.patch_size, stride=CONFIG.patch_size).mT
    place = w["visual.positional_embedding"]
    x = patches.to(filters.dtype) @ filters.flatten(1).T + place[1:]
    if keep is not None:
        x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
    first = (w["visual.class_embedding"] + place[0]).expand(len(x), 1, -1)
    x = norm(w, "visual.ln_pre", torch.cat([first, x], 1))
    x = tower(w, "visual.", x, CONFIG.visual_layers, CONFIG.visual_heads, causal=False)
    x = norm(w, "visual.ln_post", x[:, 0]) @ w["visual.proj"]
    return F.normalize(x.float(), dim=-1)


def positives_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Contrastive loss of pictures [B] and texts [K] with several positives each, both ways."""
    target = positive / positive.sum(1, keepdim=True)
    back = positive / positive.sum(0, keepdim=True)
    to_text = (target * logits.log_softmax(1)).sum(1).mean()
    to_image = (back * logits.log_softmax(0)).sum(0).mean()
    return -0.5 * (to_text + to_image)


class Trainer:
    """The loop. Only the rows of the token embedding that the captions use are trained."""

    def __init__(self, data: Data, steps: int, folder: Path) -> None:
        self.data, self.steps, self.folder = data, steps, folder
        torch.manual_seed(0)
        self.weights = initial_weights()
        tokens = [
            torch.stack(
                [tokenize([template.format(text) for text in texts]) for template in TEMPLATES]
            )
            for texts in (data.names, data.subcategories)
        ]
        self.vocabulary = torch.cat([t.flatten() for t in tokens]).unique()  # keeps the order
        self.names, self.kinds = (torch.searchsorted(self.vocabulary, t) for t in tokens)
        self.embedding = self.weights["token_embedding.weight"]
        self.weights["token_embedding.weight"] = self.embedding[self.vocabulary]
        self.average = {key: weight.clone() for key, weight in self.weights.items()}
        self.half = {key: w.bfloat16().requires_grad_() for key, w in self.weights.items()}
        decay = [weight for weight in self.weights.values() if weight.ndim >= 2]
        rest = [weight for weight in self.weights.values() if weight.ndim < 2]
        self.optim = torch.optim.AdamW(
            [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0}],
            lr=LR,
            betas=(0.9, 0.98),
            fused=True,
        )

    def batch(self, rng: torch.Generator, partial: bool) -> tuple[Tensor, Tensor]:
        """Augmented pictures [B, 3, S, S] in 0..1, `partial` or whole, and their labels [B, 2]."""
        data, size = self.data, CONFIG.image_size
        colour, labels = data.emoji.draw(BATCH_EMOJI, rng)
        outlines, outline_labels = data.outlines.draw(BATCH_OUTLINES, rng)
        icon, icon_labels = data.icons.draw(BATCH_ICONS, rng)
        colour = recolour(warp(colour - 1, size, rng) + 1, rng)  # white outside
        ink = warp(torch.cat([outlines, icon]), size, rng)
        image = torch.cat([colour, paint(ink, rng)])
        image = erase(image, rng) if partial else image
        return image, torch.cat([labels, outline_labels, icon_labels])

    def step(self, step: int) -> tuple[float, float]:
        """One step; returns the losses of names and of subcategories."""
        rng = torch.Generator().manual_seed(step)
        warm = min(1.0, (step + 1) / WARMUP)
        for group in self.optim.param_groups:
            group["lr"] = LR * warm * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        partial = step < FULL_FROM * self.steps
        image, labels = self.batch(rng, partial)
        name, kind = labels.unbind(1)
        used, index = name.unique(return_inverse=True)
        template = torch.randint(len(TEMPLATES), (len(used),), generator=rng)
        kinds = self.kinds[int(torch.randint(len(TEMPLATES), (1,), generator=rng))]
        keep = None
        if partial:
            patches = (CONFIG.image_size // CONFIG.patch_size) ** 2
            order = torch.rand(len(image), patches, generator=rng).argsort(1)
            keep = order[:, : round(KEEP * patches)]

        scale = self.weights["logit_scale"].exp().requires_grad_()
        image_features = encode_image(self.half, image, keep)
        text_features = encode_text(self.half, torch.cat([kinds, self.names[template, used]]))
        logits = scale * image_features @ text_features.T
        positive = F.one_hot(index, len(used)).float()
        of_names = positives_loss(logits[:, len(kinds) :], positive)
        known = kind >= 0
        of_kinds = F.cross_entropy(
            logits[known, : len(kinds)], kind[known], label_smoothing=LABEL_SMOOTHING
        )
        (of_names + KIND_WEIGHT * of_kinds).backward()
        self.update(step, scale)
        return of_names.item(), of_kinds.item()

    @torch.no_grad()
    def update(self, step: int, scale: Tensor) -> None:
        """Move the fp32 weights by the gradients of the bf16 ones, and the average after them."""
        for key, half in self.half.items():
            gradient = scale.grad * scale if key == "logit_scale" else half.grad
            self.weights[key].grad = gradient.float()
            half.grad = None
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optim.step()
        self.weights["logit_scale"].clamp_(0, math.log(100))
        torch._foreach_copy_(list(self.half.values()), list(self.weights.values()))
        rate = 1 - min(EMA, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), rate)

    def state(self) -> Weights:
        """The averaged weights with the whole vocabulary."""
        embedding = self.embedding.clone()
        embedding[self.vocabulary] = self.average["token_embedding.weight"]
        return {**self.average, "token_embedding.weight": embedding}

    def run(self, held: list[emoji.Concept]) -> None:
        """Train from the last checkpoint, if there is one, to the end."""
        checkpoint = self.folder / "checkpoint.pt"
        start = self.load(checkpoint) if checkpoint.exists() else 0
        begin, losses = time.time(), []
        for step in range(start, self.steps):
            losses.append(self.step(step))
            done = step + 1
            if done % 50 == 0:
                log.info(
                    "step %d/%d, loss of names %.3f, of kinds %.3f, scale %.1f, %.2f s/step",
                    done,
                    self.steps,
                    *np.mean(losses[-50:], 0),
                    self.weights["logit_scale"].exp(),
                    (time.time() - begin) / len(losses),
                )
            if done % 300 == 0 or done == self.steps:
                self.save(checkpoint, done)
                export(self.state(), self.data.concepts, self.folder / "tiny-emoji.safetensors")
                if held:
                    log.info("held out: %s", evaluate(self.state(), held))

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint in one step."""
        unfinished = path.with_suffix(".tmp")
        torch.save(
            {
                "step": step,
                "steps": self.steps,
                "weights": self.weights,
                "average": self.average,
                "optim": self.optim.state_dict(),
            },
            unfinished,
        )
        unfinished.replace(path)

    def load(self, path: Path) -> int:
        """Take up a checkpoint; returns the number of steps done."""
        saved = torch.load(path, weights_only=True)
        if saved["steps"] != self.steps:
            raise SystemExit(
                f"error: {path} is of a run of {saved['steps']} steps, not {self.steps}"
            )
        with torch.no_grad():
            for key in self.weights:
                self.weights[key].copy_(saved["weights"][key])
                self.average[key].copy_(saved["average"][key])
                self.half[key].copy_(saved["weights"][key])
        self.optim.load_state_dict(saved["optim"])
        log.info("going on after step %d", saved["step"])
        return int(saved["step"])


@torch.no_grad()
def evaluate(w: Weights, concepts: list[emoji.Concept]) -> dict[str, float]:
    """Zero-shot accuracy in percent over the classes of `emoji`, by style."""
    benchmark = Counter(c.subcategory for c in emoji.concepts() if not c.pretraining)
    classes = sorted(s for s, count in benchmark.items() if count >= emoji.MIN_BENCHMARK)
    texts = [TEMPLATES[0].format(emoji.subcategory_name(s)) for s in classes]
    text_features = encode_text(w, tokenize(texts))
    members = [concept for concept in concepts if concept.subcategory in classes]
    label = torch.tensor([classes.index(concept.subcategory) for concept in members])
    accuracy = {}
    for style in emoji.STYLES:
        size = (CONFIG.image_size, CONFIG.image_size)
        drawn = [emoji.picture(c.variants[0], style).resize(size, BICUBIC) for c in members]
        image = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255
        predicted = (encode_image(w, image) @ text_features.T).argmax(1)
        accuracy[style] = round(100 * (predicted == label).float().mean().item(), 1)
    return accuracy


def export(w: Weights, concepts: list[str], path: Path) -> None:
    """Write the model as `promptclip.clip.load` reads it, and what it was trained on."""
    metadata = {
        "promptclip.config": json.dumps(dataclasses.asdict(CONFIG)),
        "promptclip.trained_on": json.dumps(sorted(concepts)),
    }
    half = {key: weight.half().contiguous() for key, weight in w.items()}
    save_file(half, path, metadata=metadata)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the small CLIP tiny-emoji.")
    parser.add_argument("folder", type=Path, help="for checkpoints and the result")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument(
        "--holdout", type=float, default=0.0, help="share of concepts kept for choosing a recipe"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before writing it, and filling it takes a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    args.folder.mkdir(parents=True, exist_ok=True)
    concepts, held = training_concepts(args.holdout)
    Trainer(collect(concepts), args.steps, args.folder).run(held)


if __name__ == "__main__":
    main()
