"""Train or test a method: CoOp's command line. `python train.py --help` lists the flags."""

import sys

from promptclip.cli import train_py

if __name__ == "__main__":
    sys.exit(train_py())
