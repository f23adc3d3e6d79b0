"""No code that runs what a file of others says: looked for in every file, and each rule tried."""

from __future__ import annotations

from pathlib import Path

import let_in
import pytest

import promptclip

ROOT = Path(promptclip.__file__).parent.parent
FOLDERS = ("promptclip", "runtime", "trainers", "datasets", "scripts", "benchmarks", "docs")
PYTHON = sorted(
    [ROOT / "train.py", ROOT / "setup.py", *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
)
BASH = sorted([*(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci/run"])
ALLOWED = {
    ("promptclip/few_shot.py", "pickle._Unpickler"): "admits one name, gives an inert record",
    ("promptclip/clip/archive.py", "pickle._Unpickler"): "admits tensors, gives inert objects",
    ("promptclip/clip/tokenizer.py", "importlib.util.spec_from_file_location"): "of open_clip",
    ("promptclip/clip/tokenizer.py", "exec_module"): "of open_clip, as `import` runs it",
    ("promptclip/clip/hub.py", "huggingface_hub"): "public weights, asks promptclip.network first",
    ("promptclip/doctor/files.py", "huggingface_hub"): "lists its cache on this machine",
    ("promptclip/network.py", "urllib.request"): "the one door",
    ("promptclip/original_dassl.py", "torch.serialization.add_safe_globals"): "inert stand-ins",
    ("runtime/dassl/utils/torchtools.py", "torch.serialization.safe_globals"): "inert stand-ins",
    ("runtime/dassl/utils/tools.py", "urllib.request"): "download_url, over TLS",
    ("runtime/dassl/data/datasets/base_dataset.py", "gdown"): "Dassl's interface, if installed",
    ("runtime/dassl/data/datasets/base_dataset.py", "shutil.unpack_archive"): (
        "of zip files, of which it leaves out what leads out"
    ),
    ("runtime/dassl/modeling/backbone.py", "torch.hub.load_state_dict_from_url"): "checked, safe",
}


def test_nothing_is_let_in() -> None:
    assert len(PYTHON) > 100
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for path in PYTHON
        for what in let_in.in_python(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize("path", BASH, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_split_nothing_and_stop_at_errors(path: Path) -> None:
    script = path.read_text(encoding="utf-8")
    assert not let_in.in_bash(script)
    sourced = path.name == "_env.sh"
    assert sourced or "\nset -euo pipefail\n" in script


BAD = {
    "import pickle\npickle.loads(b'')": "pickle.loads",
    "import pickle as p\np.load(f)": "pickle.load",
    "def f():\n    from pickle import loads\n    return map(loads, x)": "pickle.loads",
    "from pickle import *": "pickle.*",
    "import pickle\npickle.Unpickler(f).load()": "pickle.Unpickler",
    "import pickle\nclass A(pickle.Unpickler): pass": "an unpickler without find_class",
    "import pickle\nread = pickle.load": "pickle.load",
    "import _pickle": "_pickle",
    "import cloudpickle": "cloudpickle",
    "import dill": "dill",
    "import marshal\nmarshal.loads(b'')": "marshal",
    "import shelve": "shelve",
    "from joblib import load": "joblib",
    "import pandas as pd\npd.read_pickle(f)": "pandas.read_pickle",
    "import torch\ntorch.load(f)": "torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=False)": "torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=safe)": "torch.load without weights_only=True",
    "from torch import load\nload(f)": "torch.load without weights_only=True",
    "import torch, functools\nfunctools.partial(torch.load, f)": (
        "torch.load in the place of a value"
    ),
    "import torch\ntorch.serialization.load(f)": (
        "torch.serialization.load without weights_only=True"
    ),
    "import torch\ntorch.jit.load(f)": "torch.jit.load",
    "from torch import jit\njit.load(f)": "torch.jit.load",
    "import torch\ntorch.hub.load('a', 'b')": "torch.hub.load",
    "import torch\ntorch.serialization.add_safe_globals([f])": (
        "torch.serialization.add_safe_globals"
    ),
    "eval('1')": "builtins.eval",
    "exec(text)": "builtins.exec",
    "compile(text, '', 'exec')": "builtins.compile",
    "run = eval": "builtins.eval",
    "__import__('os')": "builtins.__import__",
    "import builtins\nbuiltins.eval('1')": "builtins.eval",
    "import runpy": "runpy",
    "spec.loader.exec_module(module)": "exec_module",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.load",
    "import yaml\nyaml.load(text, yaml.SafeLoader)": "yaml.load",
    "from yaml import unsafe_load": "yaml.unsafe_load",
    "import yaml\nyaml.full_load(text)": "yaml.full_load",
    "cfg.merge_from_file(path)": "merge_from_file",
    "CfgNode.load_cfg(file)": "load_cfg",
    "import tarfile\ntarfile.open(f).extractall(d)": "extract without a filter",
    "import tarfile\ntarfile.open(f).extract(m, d, filter='tar')": "extract without a filter",
    "import zipfile\nwith zipfile.ZipFile(f) as z: z.extractall(d)": "extract without a filter",
    "import shutil\nshutil.unpack_archive(f, d)": "shutil.unpack_archive",
    "import subprocess\nsubprocess.run(text, shell=True)": "shell=True",
    "import subprocess\nsubprocess.Popen(text, shell=how)": "shell=True",
    "import subprocess\nsubprocess.getoutput(text)": "subprocess.getoutput",
    "import os\nos.system(text)": "os.system",
    "from os import popen": "os.popen",
    "import asyncio\nasyncio.create_subprocess_shell(text)": "asyncio.create_subprocess_shell",
    "import numpy as np\nnp.load(f, allow_pickle=True)": "allow_pickle=True",
    "AutoModel.from_pretrained(n, trust_remote_code=True)": "trust_remote_code=True",
    "from urllib.request import urlopen": "urllib.request",
    "import urllib.request\nurllib.request.urlretrieve(u, f)": "urllib.request",
    "import requests": "requests",
    "session.get(u, verify=False)": "verify=False",
    "import socket\nsocket.create_connection(a)": "socket.create_connection",
    "import tempfile\ntempfile.mktemp()": "tempfile.mktemp",
}
GOOD = (
    "import pickle\nraise pickle.UnpicklingError",
    "import torch\ntorch.load(f, map_location='cpu', weights_only=True)",
    "model.eval()\nself.model.eval()",
    "import re\nre.compile('a')",
    "import ast\nast.literal_eval('1')",
    "import yaml\nyaml.safe_load(text)",
    "import tarfile\ntarfile.open(f).extractall(d, filter='data')",
    "import subprocess\nsubprocess.run(['ls'], check=True)",
    "import numpy as np\nnp.load(f)",
    "import socket\nsocket.gethostname()",
    "from scipy.io import loadmat\nloadmat(f)",
    "from .pickle import load",
)


@pytest.mark.parametrize(("source", "rule"), BAD.items(), ids=range(len(BAD)))
def test_each_rule_can_fail(source: str, rule: str) -> None:
    assert rule in let_in.in_python(source)


@pytest.mark.parametrize("source", GOOD)
def test_what_is_harmless_is_left_alone(source: str) -> None:
    assert not let_in.in_python(source)


def test_every_name_is_tried_or_alike() -> None:
    """A name that is misspelt would never be found."""
    for name in let_in.NEVER:
        module, _, last = name.rpartition(".")
        source = f"from {module} import {last}" if module else f"import {name}"
        assert name in let_in.in_python(source)


@pytest.mark.parametrize(
    "line",
    [
        *('eval "$text"', "x=1; eval $x", "bash -c $1", 'sh -c "$1"', "source <(curl $url)"),
        *("rm $file", 'cp "$a" $b', "run $@", "run ${files[@]}", "run $*", "cd $(dirname $0)"),
        *(
            "run ${A:+--flag $A}",
            'run "$(cat $file)"',
            'run "${a}"$b',
            "[ $a = 1 ]",
            "exit $status",
        ),
    ],
)
def test_each_rule_for_bash_can_fail(line: str) -> None:
    assert let_in.in_bash(f"{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        *('run "$@"', 'run "${files[@]}"', "a=$b c=$(run)", "local a=$1 b=0", "export A=${B:-c d}"),
        *('run ${A:+--flag "$A"} "${@:2}"', 'cd "$(dirname "$0")"', "n=$((a > b ? a / b : 1))"),
        *("[ $# -gt 0 ]", "echo 'costs $5'", "# eval $x", 'read -ra a <<<"$b"', r"echo \$a"),
    ],
)
def test_good_bash_is_left_alone(line: str) -> None:
    assert not let_in.in_bash(f"{line}\n")
