"""`promptclip base2new`, `fewshot`, `xd`, `dg` and `imbalance`: experiments of many runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from promptclip.commands.train import DETERMINISTIC
from promptclip.errors import UserError
from promptclip.progress import amount

PROTOCOL_EPILOG = """Flags stand before METHOD or after the last SEED. Finished runs are not
repeated, interrupted ones go on. docs/protocols.md tells what is trained and tested on what."""

# Command -> help, and what the data set is called.
PROTOCOLS = {
    "base2new": ("train on base classes, test on base and new classes, print the table", "DATASET"),
    "fewshot": ("train and test on all classes with several numbers of shots", "DATASET"),
    "xd": ("train on all classes of one data set, test on other data sets", "SOURCE"),
    "dg": ("train on all classes of one data set, test on its variants", "SOURCE"),
    "imbalance": ("train and test on all classes, some of which are rare in training", "DATASET"),
}
PER_CLASS = "training pictures per class"


def add_to(commands: Any) -> None:
    """Add the commands."""
    flags = {name: _protocol_flags(commands, name, *text) for name, text in PROTOCOLS.items()}
    for name in ("base2new", "xd", "dg", "imbalance"):
        flags[name]("--shots", type=int, default=16, metavar="K", help=f"{PER_CLASS} (default: 16)")
    flags["fewshot"]("--shots", type=numbers, default=[1, 2, 4, 8, 16], metavar="K[,K...]",
                     help=f"{PER_CLASS} (default: 1,2,4,8,16)")  # fmt: skip
    flags["base2new"]("--part", choices=("train", "test"),
                      help="only train on base, or only test on new")  # fmt: skip
    for name in ("xd", "dg"):
        flags[name](
            "--targets",
            type=targets,
            action="extend",
            default=[],
            metavar="DATASET[,DATASET...]",
            help="what to test on (default: the usual ones of the source); can be repeated",
        )
    flags["imbalance"]("--ratios", type=fractions, default=[1.0, 0.25, 0.06], metavar="R[,R...]",
                       help="the rarest class's training pictures to the most frequent one's; "
                       "1 is a balanced sample (default: 1,0.25,0.06)")  # fmt: skip


def _protocol_flags(commands: Any, name: str, help: str, dataset: str) -> Callable[..., Any]:
    """A protocol's command with what all protocols take; gives its `add_argument`."""
    command = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=PROTOCOL_EPILOG
    )
    command.set_defaults(command=_protocol, protocol=name)
    flag: Callable[..., Any] = command.add_argument
    flag("--root", default="", metavar="DIR", help="the folder that holds the data sets")
    flag("--data-folder", default="", metavar="PATH",
         help=f"own pictures, a folder or a CSV file; then {dataset} is left out")  # fmt: skip
    flag("--cfg", default="", metavar="NAME", help="the method's yaml (default: the data set's)")
    flag("--output", default="output", metavar="DIR", help="(default: output)")
    amount.add_flags(command)
    flag("--dry-run", action="store_true", help="say what would be run and where, do nothing")
    flag("--deterministic", dest="set", action="append_const", default=[],
         const=DETERMINISTIC,         help="the same numbers twice on a GPU, too")  # fmt: skip
    flag("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
         help="any configuration key, such as OPTIM.MAX_EPOCH 50; can be repeated")  # fmt: skip
    flag("methods", type=names, metavar="METHOD[,METHOD...]", help="such as zsclip,coop,dapt")
    flag("dataset", metavar=dataset, nargs="?", default="",
         help="a file of configs/datasets without its .yaml, or a path to pictures")  # fmt: skip
    flag("seeds", type=int, nargs="*", default=[], metavar="SEED", help="(default: 1 2 3)")
    return flag


def names(text: str) -> list[str]:
    """Words of a list with commas or spaces between them."""
    return text.replace(",", " ").split()


def targets(text: str) -> list[str]:
    """The same of data sets; the path of own pictures may have commas and spaces in it."""
    return [text] if os.path.exists(os.path.expanduser(text)) else names(text)


def numbers(text: str) -> list[int]:
    """The same of whole numbers; argparse shows this function's name in its error."""
    return [int(number) for number in names(text)]


def fractions(text: str) -> list[float]:
    """The same of numbers."""
    return [float(number) for number in names(text)]


def _protocol(args: argparse.Namespace) -> int:
    amount.without_bars(args)
    from promptclip import protocols

    dataset, seeds = _data_set(args)
    protocol: Callable[..., int] = getattr(protocols, args.protocol)
    own = {name: getattr(args, name) for name in ("targets", "ratios") if name in args}
    if "part" in args:
        own["parts"] = (args.part,) if args.part else protocols.PARTS
    return protocol(
        args.methods,
        dataset,
        root=args.root,
        seeds=seeds or [1, 2, 3],
        shots=args.shots,
        cfg_name=args.cfg,
        output=args.output,
        overrides=[part for pair in args.set for part in pair],
        quiet=args.quiet,
        brief=args.brief,
        dry_run=args.dry_run,
        **own,
    )


def _data_set(args: argparse.Namespace) -> tuple[str, list[int]]:
    """The data set and the seeds: with --data-folder, all words after METHOD are seeds."""
    if not args.data_folder:
        if not args.dataset:
            raise UserError("no data set is given; name one after METHOD, or give --data-folder")
        return args.dataset, args.seeds
    if args.dataset and not args.dataset.isdecimal():
        raise UserError(f"{args.dataset} and --data-folder {args.data_folder} are two data sets")
    from promptclip import data_sets

    first = [int(args.dataset)] if args.dataset else []
    return data_sets.as_path(args.data_folder), [*first, *args.seeds]
