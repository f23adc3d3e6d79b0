"""The command line: `train.py`, `promptclip` and `python -m promptclip`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import promptclip
from promptclip.errors import UserError

EPILOG = """KEY VALUE pairs come last and have the last word on any configuration key, for example
DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base TRAINER.COOP.N_CTX 4 OPTIM.MAX_EPOCH 50"""

PROTOCOL_EPILOG = """Flags stand before METHOD or after the last SEED. Finished runs are not
repeated, interrupted ones go on. docs/protocols.md tells what is trained and tested on what."""

# Command -> help, and what the data set is called.
PROTOCOLS = {
    "base2new": ("train on base classes, test on base and new classes, print the table", "DATASET"),
    "fewshot": ("train and test on all classes with several numbers of shots", "DATASET"),
    "xd": ("train on all classes of one data set, test on other data sets", "SOURCE"),
    "dg": ("train on all classes of one data set, test on its variants", "SOURCE"),
}
PER_CLASS = "training pictures per class"

# CoOp's flags that stand for a key
FLAG_KEYS = {
    "resume": "RESUME",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}

# Modules that are not there in an environment where nothing was installed.
SETUP = "`bash scripts/quickstart.sh` makes an environment, or activate yours"
MISSING = {
    "dassl": "`pip install ./runtime` in the checkout installs the one that comes with promptclip",
    "torch": SETUP,
    "yacs": SETUP,
    "yaml": SETUP,
}


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Bare messages to whatever `sys.stdout` is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]  # noqa: D102
        return sys.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 1 if some run has failed, 2 for unusable input, 130 if interrupted.
    """
    args = _parser().parse_args(argv)
    logger = logging.getLogger("promptclip")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(Console())
    try:
        return int(args.command(args))
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        if error.name not in MISSING:
            raise
        return _fail(f"error: no module {error.name} in {sys.prefix}; {MISSING[error.name]}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; start again to go on", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def train() -> int:
    """`train.py`: the command `train`."""
    return main(["train", *sys.argv[1:]])


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="promptclip", description=promptclip.__doc__)
    parser.add_argument("--version", action="version", version=promptclip.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="one training or one test, with CoOp's flags",
        description="Train a method and test it, or test a checkpoint.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_train)
    flag = command.add_argument
    flag("--root", default="", metavar="DIR", help="the folder that holds the data sets")
    flag("--output-dir", default="", metavar="DIR", help="where the run goes (default: output)")
    flag("--resume", default="", metavar="DIR", help="go on from the checkpoints in DIR")
    flag("--seed", type=int, help="0 or more; -1 for none (default: as configured)")
    flag("--source-domains", nargs="+", metavar="NAME", help="domains to train on")
    flag("--target-domains", nargs="+", metavar="NAME", help="domains to test on")
    flag("--transforms", nargs="+", metavar="NAME", help="augmentations for training")
    flag("--config-file", default="", metavar="YAML", help="configs/trainers/<METHOD>/*.yaml")
    flag("--dataset-config-file", default="", metavar="YAML", help="configs/datasets/*.yaml")
    flag("--trainer", default="", metavar="METHOD", help="such as CoOp, DAPT, ZeroshotCLIP")
    flag("--backbone", default="", metavar="CLIP", help="such as ViT-B/16, or a path to weights")
    flag("--head", default="", help=argparse.SUPPRESS)
    flag("--eval-only", action="store_true", help="test the checkpoint in --model-dir")
    flag("--model-dir", default="", metavar="DIR", help="output folder of the training run")
    flag("--load-epoch", type=int, metavar="N", help="(default: the best on validation)")
    flag("--no-train", action="store_true", help="build everything, then stop")
    flag("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="see below")

    flags = {name: _protocol_flags(commands, name, *text) for name, text in PROTOCOLS.items()}
    for name in ("base2new", "xd", "dg"):
        flags[name]("--shots", type=int, default=16, metavar="K", help=f"{PER_CLASS} (default: 16)")
    flags["fewshot"]("--shots", type=numbers, default=[1, 2, 4, 8, 16], metavar="K[,K...]",
                     help=f"{PER_CLASS} (default: 1,2,4,8,16)")  # fmt: skip
    flags["base2new"]("--part", choices=("train", "test"),
                      help="only train on base, or only test on new")  # fmt: skip
    for name in ("xd", "dg"):
        flags[name]("--targets", type=names, default=(), metavar="DATASET[,DATASET...]",
                    help="what to test on (default: the usual ones of the source)")  # fmt: skip

    command = commands.add_parser(
        "table",
        help="the table of a folder of results",
        description="Methods as rows, accuracies as mean and sample standard deviation.",
    )
    command.set_defaults(command=_table)
    command.add_argument("folder", help="such as output or output/base2new/train_base/emoji")
    command.add_argument("--format", choices=("text", "md", "csv", "json"), default="text")
    return parser


def _protocol_flags(commands: Any, name: str, help: str, dataset: str) -> Callable[..., Any]:
    """A protocol's command with what all protocols take; gives its `add_argument`."""
    command = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=PROTOCOL_EPILOG
    )
    command.set_defaults(command=_protocol, protocol=name)
    flag: Callable[..., Any] = command.add_argument
    flag("--root", default="", metavar="DIR", help="the folder that holds the data sets")
    flag("--cfg", default="", metavar="NAME", help="the method's yaml (default: the data set's)")
    flag("--output", default="output", metavar="DIR", help="(default: output)")
    flag("--quiet", action="store_true", help="one line for each run; the rest is in log.txt")
    flag("--dry-run", action="store_true", help="say what would be run and where, do nothing")
    flag("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
         help="any configuration key, such as OPTIM.MAX_EPOCH 50; can be repeated")  # fmt: skip
    flag("methods", type=names, metavar="METHOD[,METHOD...]", help="such as zsclip,coop,dapt")
    flag("dataset", metavar=dataset, help="a file of configs/datasets without its .yaml")
    flag("seeds", type=int, nargs="*", default=[1, 2, 3], metavar="SEED", help="(default: 1 2 3)")
    return flag


def names(text: str) -> list[str]:
    """Words of a list with commas or spaces between them."""
    return text.replace(",", " ").split()


def numbers(text: str) -> list[int]:
    """The same of whole numbers; argparse shows this function's name in its error."""
    return [int(number) for number in names(text)]


def _train(args: argparse.Namespace) -> int:
    from promptclip.config import build_cfg
    from promptclip.run import run

    flags = [(key, getattr(args, name)) for name, key in FLAG_KEYS.items()]
    cfg = build_cfg(
        args.trainer,
        args.dataset_config_file,
        args.config_file,
        root=args.root,
        seed=args.seed,
        output_dir=args.output_dir,
        overrides=[part for pair in flags if pair[1] for part in pair] + args.opts,
    )
    run(
        cfg,
        eval_only=args.eval_only,
        model_dir=args.model_dir,
        load_epoch=args.load_epoch,
        no_train=args.no_train,
    )
    return 0


def _protocol(args: argparse.Namespace) -> int:
    if args.quiet:
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from promptclip import protocols

    protocol: Callable[..., int] = getattr(protocols, args.protocol)
    own = {"targets": args.targets} if "targets" in args else {}
    if "part" in args:
        own = {"parts": (args.part,) if args.part else protocols.PARTS}
    return protocol(
        args.methods,
        args.dataset,
        root=args.root,
        seeds=args.seeds,
        shots=args.shots,
        cfg_name=args.cfg,
        output=args.output,
        overrides=[part for pair in args.set for part in pair],
        quiet=args.quiet,
        dry_run=args.dry_run,
        **own,
    )


def _table(args: argparse.Namespace) -> int:
    from promptclip import table

    sys.stdout.write(table.render(table.build(args.folder), args.format).rstrip("\n") + "\n")
    return 0
