"""The speed benchmark: that it counts operations right, and that every row runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter as Tally
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_clip import TINY, random_state_dict
from speed import measure, tricks, weights
from speed.bench import QUICK, TEXT, TEXTBOOK, Bench, Job, Way
from speed.measure import Measured, Piece, in_turn
from speed.operations import Counter, image_operations, text_operations
from speed.products import Products
from speed.table import SECONDS, Row, lines
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import promptclip
from promptclip.clip.layout import check_tensors
from promptclip.clip.model import Block, FrozenCLIP
from promptclip.feature_cache import instead
from promptclip.prompts import POSITIONS, LayerTokens, TextContext, VisualTokens

ROOT = Path(promptclip.__file__).parent.parent
NAMES = ["dog", "fire engine", "a very long name indeed", "ox"]
ROWS = {
    *("text", "coop", "cocoop", "dapt", "upt", "dpt"),
    *("test", "half", "half-test", "products", "scale", "overhead", "start", "tricks"),
}


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(random_state_dict(), TINY)


def counted(work):
    """Operations as PyTorch counts them; its fused attention on a CPU it does not."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("images", [0, 3])
def test_text_operations(position, images, clip):
    context = TextContext(clip, NAMES, n_ctx=4, position=position)
    learned = context.ctx + torch.randn(images, 1, TINY.text_width) if images else context.ctx
    prompter, tokens, times = LayerTokens([learned]), context.tokens, max(images, 1)

    forward_backward = counted(lambda: clip.encode_text(tokens, prompter).sum().backward())
    with torch.no_grad():
        forward = counted(lambda: clip.encode_text(tokens, prompter))
    lengths = [length for part in tokens.parts for length in part.lengths]
    for backward, done in ((True, forward_backward), (False, forward)):
        needed = text_operations(TINY, tokens, images=times, backward=backward)
        if position == "front":  # start-of-text, alone in front, goes with the classes' own tokens
            assert needed <= done <= 1.03 * needed
        else:  # scores of words with words in the first block, once more for each further image
            words = sum(length**2 for length in lengths) if position == "end" else 0
            assert done == needed + 2 * (times - 1) * TINY.text_width * words


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_image_operations(depth, clip):
    image = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    prompter = VisualTokens(clip, 5, depth=depth)
    work = counted(lambda: clip.encode_image(image, prompter).sum().backward())
    assert image_operations(TINY, 2, [5] * depth, backward=True) == work


def test_image_operations_without_prompts(clip):
    image = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    assert image_operations(TINY, 2) == counted(lambda: clip.encode_image(image))


def test_products_alone_are_all_that_the_work_has(clip):
    context = TextContext(clip, NAMES, n_ctx=4)

    def work():
        clip.encode_text(context.tokens, context).sum().backward()

    with sdpa_kernel(SDPBackend.MATH):
        alone = Products(work)
    context.zero_grad()
    assert counted(alone) == counted(work)


def test_prompts_in_upper_layers_need_no_gradient_below(clip):
    image = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    tokens = torch.randn(5, TINY.visual_width, requires_grad=True)

    def prompter(layer, _):
        return tokens if layer == 1 else None

    work = counted(lambda: clip.encode_image(image, prompter).sum().backward())
    assert image_operations(TINY, 2, [None, 5], backward=True) == work


def test_a_watched_clip_computes_the_same_and_is_counted(clip):
    image = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    visual = VisualTokens(clip, 5, depth=2, before_norm=True)
    context = TextContext(clip, NAMES, n_ctx=4)

    def work():
        image_features, text_features = (
            clip.encode_image(image, visual),
            clip.encode_text(context.tokens, context),
        )
        loss = (image_features @ text_features.T).sum()
        loss.backward()
        return loss.item()

    counter = Counter()
    with counter.watching(clip):
        watched = work()
    assert watched == work()
    logits = 3 * 2 * 2 * len(NAMES) * TINY.embed_dim  # not the towers'
    assert counter.total == counted(work) - logits


def test_without_a_trick_the_features_are_the_same(clip):
    context = TextContext(clip, NAMES, n_ctx=tricks.N_CTX)
    model = SimpleNamespace(
        clip=clip, classnames=NAMES, prompt_learner=context, text_prompter=context
    )
    trainer = SimpleNamespace(model=model, num_classes=len(NAMES))
    expected = clip.encode_text(context.tokens, context)

    tokens, prompter = tricks._prefix_of_each_class(trainer)
    assert len(tokens.prefix_positions) == 1
    torch.testing.assert_close(clip.encode_text(tokens, prompter), expected)

    image = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    with counted_whole() as rows, tricks._whole_last_block():
        torch.testing.assert_close(clip.encode_text(context.tokens, context), expected)
    own = sum(sum(part.lengths) for part in context.tokens.parts)
    assert rows[-1] == len(context.tokens.prefix_positions) + own
    with instead(Block, "forward", tricks._whole_block(Block.forward)):
        found = clip.encode_image(image)
    torch.testing.assert_close(found, clip.encode_image(image))

    tokens, _ = tricks._all_positions(trainer)
    own = TINY.context_length - len(tokens.prefix_positions)
    assert [sum(part.lengths) for part in tokens.parts] == [len(NAMES) * own]


@contextmanager
def counted_whole():
    """Numbers of text tokens that a block's last step is given."""
    rows, finish = [], Block.finish

    def counting(self, x, attended):
        rows.append(x.shape[-2])
        return finish(self, x, attended)

    with instead(Block, "finish", counting):
        yield rows


def test_random_weights_are_a_clip():
    check_tensors(weights.random_weights(weights.TINY), weights.TINY, None)


def test_a_target_is_met_or_missed_from_its_own_side():
    ours = Measured((2.0,), 10**6, 10**6)
    least = Row("text", "work", ours, 2.0, target=3.0)
    most = Row("start", "work", ours, 2.0, SECONDS, target=3.0, at_most=True)
    assert (least.met, most.met, Row("text", "work", ours, 2.0).met) == (False, True, None)
    *_, first, second = lines([least, most])
    assert ">= 3 | NO " in first
    assert "<= 3 | yes" in second


# ------------------------------------------------------------------ in turn


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where they are added: `clock.now += 1`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.now)
    return clock


def takes(clock, seconds, done, name):
    """Work of so many seconds, a machine's pace apart that changes with every round."""

    def work():
        pace = 1 + sum(one == name for one in done)
        done.append(name)
        clock.now += seconds * pace

    return work


def test_what_is_compared_is_done_in_turn(clock):
    done, ready = [], []
    pieces = {
        name: Piece(takes(clock, seconds, done, name), lambda name=name: ready.append(name))
        for name, seconds in (("ours", 1), ("textbook", 3))
    }
    took = in_turn(pieces.items(), 2, torch.device("cpu"), 8)
    assert done == ready == ["ours", "textbook"] * 3
    assert took["ours"].each == (1, 2, 3)
    assert (took["ours"].seconds, took["ours"].runs) == (2.5, 2)
    assert took["ours"].times_faster(took["textbook"]) == 3


def test_work_begins_where_the_work_before_it_has_been_done_once(clock):
    done = []

    def pieces():
        for name in ("first", "second"):
            done.append(f"build {name}")
            yield name, Piece(takes(clock, 1, done, name))

    in_turn(pieces(), 0, torch.device("cpu"), 8)
    assert done == ["build first", "first", "build second", "second"]


def test_long_work_is_done_once_and_compared_with_first_runs(clock):
    done = []
    pieces = {
        name: Piece(takes(clock, seconds, done, name))
        for name, seconds in (("short", 2), ("long", 2 * measure.LONG))
    }
    took = in_turn(pieces.items(), 5, torch.device("cpu"), 8)
    assert took["long"].each == (2 * measure.LONG,)
    assert took["short"].runs == measure.ROUNDS_OF_LONG
    assert took["short"].times_faster(took["long"]) == measure.LONG


def test_share_is_of_the_speed_beside_each_run():
    # The machine was twice as quick in the last runs, and so was the work
    measured = Measured((9.0, 4.0, 2.0, 2.0), speeds=(1.0, 50.0, 100.0, 100.0))
    assert measured.share(100) == 0.5


def test_work_that_is_computed_from_other_work_is_so_run_by_run():
    step, text = Measured((9.0, 4.0, 2.0)), Measured((9.0, 2.0, 1.0))
    scaled = step.scale(lambda one, part: one + 3 * part, text)
    assert (scaled.each, scaled.scaled) == ((36.0, 10.0, 5.0), True)
    assert Measured((1.0, 2.0, 1.0)).times_faster(scaled) == 5


# ------------------------------------------------------------------ all rows


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `--quick` prints, its folder of figures, and its JSON."""
    folder = tmp_path_factory.mktemp("quick")
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/run.py", "--quick", "--repeat", "1", "--threads", "1"),
            *("--json", str(folder / "found.json"), "--plot", str(folder / "figures")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    text = (folder / "found.json").read_text()
    return done.stdout, folder / "figures", json.loads(text, parse_constant=refuse)


@pytest.mark.slow
def test_every_row_gives_numbers(quick):
    printed, _, found = quick
    assert {row["row"] for row in found["rows"]} == ROWS
    for row in found["rows"]:
        numbers = [row["figure"], row["ours"]["seconds"]]
        if row["other"] is not None:
            numbers.append(row["other"]["seconds"])
        if row["share"] is not None:
            numbers.append(row["share"])
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert row["work"] in printed
    steps = Tally(row["row"] for row in found["rows"] if " step, " in row["work"])
    assert all(steps[method] == 2 for method in ("coop", "cocoop", "dapt", "upt", "dpt"))


@pytest.mark.slow
def test_both_paths_do_the_same_work(quick):
    differences = [
        value
        for row in quick[2]["rows"]
        for name, value in row["more"].items()
        if name.startswith("difference")
    ]
    assert len(differences) == 7  # features and gradient of the text tower, and losses of five
    assert max(differences) < 1e-4


@pytest.mark.slow
def test_says_on_what_it_ran(quick):
    about = quick[2]
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (about["hardware"]["threads"], about["repeat"], about["quick"]) == (1, 1, True)


@pytest.mark.slow
def test_curves(quick):
    _, figures, found = quick
    assert {curve["over"] for curve in found["curves"]} == {"classes", "images", "context tokens"}
    for curve in found["curves"]:
        assert len(curve["at"]) == len(curve["took"]) > 1
        assert all(one["seconds"] > 0 for one in curve["took"])
    assert (figures / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (figures / "cost.svg").read_text()


def test_an_unknown_row_is_refused():
    command = [sys.executable, "benchmarks/run.py", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown rows nonsense; known are text, coop" in done.stderr


@pytest.mark.parametrize("work", ["CoOp", TEXT])
def test_each_path_is_measured_as_users_train_it(work, tmp_path):
    bench, works = Bench(tmp_path, QUICK, 1, ["coop"]), {}
    with ExitStack() as stack:
        pieces = dict(bench.pieces(Job(work, 6, textbook=True), stack, works, {}))
        assert [*pieces] == [*works] == [Way(work, "fp32", 6), Way(work, TEXTBOOK, 6)]
        for one, textbook in zip(works.values(), (False, True), strict=True):
            clip = one.trainer.model.clip
            assert one.trainer.cfg.MODEL.EXACT_TEXTBOOK == clip.textbook == textbook
            blocks = [*clip.text_blocks, *clip.visual_blocks]
            assert all(block.in_place != textbook for block in blocks)
        for piece in pieces.values():
            piece.work()
        ours, theirs = works.values()
        assert max(theirs.difference(ours).values()) < 1e-5
        ours.found = {name: 1.1 * value for name, value in ours.found.items()}
        assert min(theirs.difference(ours).values()) > 0.05


def test_what_plots_need_is_asked_for_before_anything_is_measured(tmp_path):
    code = f"""
import importlib.util, runpy, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: (
    None if name == "matplotlib" else find_spec(name, *more))
sys.argv = ["benchmarks/run.py", "--quick", "--plot", {str(tmp_path / "figures")!r}]
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/run.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--plot draws with matplotlib; pip install 'promptclip[plots]'" in done.stderr
