"""`promptclip train` and `train.py`: one training or one test, with CoOp's flags."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from promptclip.errors import UserError
from promptclip.progress import amount

log = logging.getLogger(__name__)

EPILOG = """KEY VALUE pairs come last and have the last word on any configuration key, for example
DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base TRAINER.COOP.N_CTX 4 OPTIM.MAX_EPOCH 50"""

DETERMINISTIC = ("COMPUTE.DETERMINISTIC", True)

# CoOp's flags that stand for a key
FLAG_KEYS = {
    "resume": "RESUME",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}


def add_to(commands: Any) -> None:
    """Add the command."""
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
    flag("--data-folder", default="", metavar="PATH",
         help="own pictures, a folder or a CSV file, without --dataset-config-file")  # fmt: skip
    flag("--trainer", default="", metavar="METHOD", help="such as CoOp, DAPT, ZeroshotCLIP")
    flag("--backbone", default="", metavar="CLIP", help="such as ViT-B/16, or a path to weights")
    flag("--head", default="", help=argparse.SUPPRESS)
    flag("--eval-only", action="store_true", help="test the checkpoint in --model-dir")
    flag("--model-dir", default="", metavar="DIR", help="output folder of the training run")
    flag("--load-epoch", type=int, metavar="N", help="(default: the best on validation)")
    flag(
        "--deterministic",
        action="store_true",
        help="COMPUTE.DETERMINISTIC True: the same numbers "
        "twice on a GPU, too, or an error where that cannot be",
    )
    flag("--no-train", action="store_true", help="build everything, then stop")
    amount.add_flags(command)
    flag("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="see below")


def _train(args: argparse.Namespace) -> int:
    amount.without_bars(args)
    from promptclip import data_sets, results
    from promptclip.config import build_cfg
    from promptclip.run import run

    if args.data_folder and args.dataset_config_file:
        raise UserError("--data-folder and --dataset-config-file are two data sets; give one")
    if (args.model_dir or args.load_epoch is not None) and not args.eval_only:
        raise UserError(
            "--model-dir and --load-epoch say what is tested, and would have no effect here; add "
            "--eval-only, or go on with a training by giving its folder as --output-dir"
        )
    text = data_sets.as_path(args.data_folder) if args.data_folder else args.dataset_config_file
    data = data_sets.find(text, args.opts) if text else None
    flags = [(key, getattr(args, name)) for name, key in FLAG_KEYS.items()]
    cfg = build_cfg(
        args.trainer,
        data.file if data else "",
        args.config_file,
        root=args.root,
        seed=args.seed,
        output_dir=args.output_dir,
        overrides=[
            *(data.overrides if data else ()),
            *(part for pair in flags if pair[1] for part in pair),
            *(DETERMINISTIC if args.deterministic else ()),
            *args.opts,
        ],
    )
    with amount.silence(args.quiet, brief=args.brief):
        result = run(
            cfg,
            eval_only=args.eval_only,
            model_dir=args.model_dir,
            load_epoch=args.load_epoch,
            no_train=args.no_train,
        )
    if result and (args.quiet or args.brief):
        seconds = sum(result["seconds"].values())
        log.info("%s: %s (%.0f s)", cfg.OUTPUT_DIR, results.told(result), seconds)
    return 0
