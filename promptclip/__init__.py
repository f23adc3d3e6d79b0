"""promptclip: few-shot prompt tuning of CLIP as Dassl trainers."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptclip.predictor import load as load

__version__ = "0.1.0"

# In a checkout, `trainers/` and `datasets/` lie beside this package, at the top level where the
# field looks for them; a wheel installs them inside it. Either way they are
# `promptclip.trainers` and `promptclip.datasets`, and the top-level name `datasets` stays
# Hugging Face's.
_root = Path(__file__).resolve().parent.parent
if (_root / "trainers").is_dir() and (_root / "setup.py").is_file():
    __path__.append(str(_root))

# A wheel brings the engine along, for environments in which no `dassl` is installed: neither
# `runtime/` as a package of its own nor the original, which come first.
_engine = Path(__file__).resolve().parent / "runtime"
if _engine.is_dir() and importlib.util.find_spec("dassl") is None:
    sys.path.append(str(_engine))

# Read when huggingface_hub is imported, which open_clip does: nothing is told about this machine.
# (`promptclip.network` is what promptclip itself asks before it uses the network.)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """`load`, which needs torch, is imported when it is first asked for."""
    if name == "load":
        from promptclip.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
