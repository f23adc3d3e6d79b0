"""The bash scripts: forwarders, environment variables, choice of environment, installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import promptclip

ROOT = Path(promptclip.__file__).parent.parent
SCRIPTS = sorted((ROOT / "scripts").rglob("*.sh"))
PROTOCOLS = ("base2new", "base2new_train", "base2new_test", "fewshot", "xd", "dg", "imbalance")
FORWARDERS = [script for script in SCRIPTS if script.parent.name != "scripts"]


def bash(script, *args, **env):
    return subprocess.run(
        ["bash", str(script), *map(str, args)],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def python(tmp_path):
    """A folder with a `python` that writes down its arguments, and answers what scripts ask."""
    folder = tmp_path / "bin"
    folder.mkdir()
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    for name in ("python", "python3.13"):
        (folder / name).write_text(
            f"""#!/bin/sh
case "$*" in
*"sys.prefix"*) echo {prefix} ;;
*"sys.version_info"*) exec {sys.executable} "$@" ;;
"-") cat >/dev/null; exit "${{HAS_DASSL:-0}}" ;;
*) printf '%s\\n' "$*" >>{tmp_path}/calls ;;
esac
"""
        )
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def calls(tmp_path):
    file = tmp_path / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize(
    "script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.name}"
)
def test_bash_can_read_it(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_forwarders_are_all_the_same_and_lead_somewhere():
    folders = {script.parent for script in FORWARDERS}
    assert ROOT / "scripts/coop" in folders
    for folder in folders:
        assert {script.name for script in folder.iterdir()} == {f"{name}.sh" for name in PROTOCOLS}
    assert len({script.read_bytes() for script in FORWARDERS}) == 1
    assert all((ROOT / "scripts" / script.name).is_file() for script in FORWARDERS)


def test_variables_become_flags(python, tmp_path):
    run = {"PATH": python, "VIRTUAL_ENV": "x"}
    assert bash(ROOT / "scripts/dapt/base2new.sh", "emoji", **run).returncode == 0
    variables = {"DATA": "/my data", "SHOTS": "8", "CFG": "rn50", "OUTPUT": "o"}
    bash(ROOT / "scripts/coop/base2new.sh", "imagenet", 1, 2, **run, **variables)
    bash(ROOT / "scripts/zsclip/base2new_train.sh", "emoji", 1, **run)
    bash(ROOT / "scripts/base2new_test.sh", "coop,dapt", "emoji", 1, **run)
    flags = ("--set", "OPTIM.MAX_EPOCH", 2)
    bash(ROOT / "scripts/dapt/fewshot.sh", "emoji", *flags, **run, SHOTS="1 2 4")
    bash(ROOT / "scripts/coop/xd.sh", "emoji", **run, TARGETS="dtd eurosat")
    bash(ROOT / "scripts/dg.sh", "coop", "imagenet", "--dry-run", **run)
    bash(ROOT / "scripts/coop/base2new.sh", 1, "--quiet", **run, DATA_FOLDER="/my pictures")
    bash(ROOT / "scripts/npt/imbalance.sh", "emoji_people", 1, **run, RATIOS="1 0.1", SHOTS="10")
    assert calls(tmp_path) == [
        "-m promptclip base2new dapt emoji",
        "-m promptclip base2new --root /my data --shots 8 --cfg rn50 --output o coop imagenet 1 2",
        "-m promptclip base2new --part train zsclip emoji 1",
        "-m promptclip base2new --part test coop,dapt emoji 1",
        "-m promptclip fewshot --shots 1 2 4 dapt emoji --set OPTIM.MAX_EPOCH 2",
        "-m promptclip xd --targets dtd eurosat coop emoji",
        "-m promptclip dg coop imagenet --dry-run",
        "-m promptclip base2new --data-folder /my pictures coop 1 --quiet",
        "-m promptclip imbalance --shots 10 --ratios 1 0.1 npt emoji_people 1",
    ]


@pytest.fixture
def checkout(tmp_path):
    """What the scripts need of a checkout, in a folder of its own."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "runtime").mkdir()
    for file in ("setup.py", "pyproject.toml", "constraints.txt", "runtime/pyproject.toml"):
        shutil.copy(ROOT / file, folder / file)
    return folder


def test_quickstart_installs_once_and_runs_the_protocol(python, checkout, tmp_path):
    run = {"PATH": python, "PROMPTCLIP_NO_VENV": "1"}
    quickstart = checkout / "scripts/quickstart.sh"
    done = bash(quickstart, **run)
    assert done.returncode == 0, done.stderr
    protocol = "-m promptclip base2new --brief zsclip,coop,dapt emoji"
    pip = "-m pip install --quiet --disable-pip-version-check -e"
    assert calls(tmp_path) == [f"{pip} .[emoji] -e ./runtime", protocol]
    assert bash(quickstart, **run, SHOTS="4").returncode == 0
    assert calls(tmp_path) == ["-m promptclip base2new --shots 4 --brief zsclip,coop,dapt emoji"]
    (checkout / "setup.py").write_text("# changed")
    bash(quickstart, **run, HAS_DASSL="1")
    assert calls(tmp_path) == [f"{pip} .[emoji]", protocol]


def test_quickstart_fills_its_own_environment_with_what_is_pinned(python, checkout, tmp_path):
    (checkout / ".venv/bin").mkdir(parents=True)
    for file in ("python", "activate"):
        (checkout / ".venv/bin" / file).write_text("")
        (checkout / ".venv/bin" / file).chmod(0o755)
    for run in range(2):
        done = bash(checkout / "scripts/quickstart.sh", PATH=python)
        assert done.returncode == 0, done.stderr
        *installed, protocol = calls(tmp_path)
        pip = "-m pip install --quiet --disable-pip-version-check"
        assert installed == [
            f"{pip} --require-hashes --only-binary :all: -r constraints.txt",
            f"{pip} -e .[emoji] -e ./runtime --no-build-isolation",
        ]
        assert protocol.startswith("-m promptclip base2new")
        pins = checkout / "constraints.txt"
        pins.write_text(pins.read_text() + f"# {run}\n")  # what is pinned has changed


def test_results_runs_every_protocol_and_writes_the_page(python, checkout, tmp_path):
    run = {"PATH": python, "VIRTUAL_ENV": "x", "SEEDS": "1 2", "SHOTS": "3", "JOBS": "1"}
    results = checkout / "scripts/results.sh"
    done = bash(results, "coop", "dapt", **run, OUTPUT="o", PAGE="page.md", EMOJI_SHOTS="1 2")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\w+): (started|done)", done.stdout) == [
        ("coop", "started"), ("coop", "done"), ("dapt", "started"), ("dapt", "done")
    ]  # fmt: skip
    lines = calls(tmp_path)
    protocol = "-m promptclip {} --output o --quiet --shots {} {} {} 1 2"
    assert lines[:4] == [
        protocol.format("base2new", "16", "coop", "emoji"),
        protocol.format("base2new", "2", "coop", "emoji_people"),
        protocol.format("fewshot", "1 2", "coop", "emoji"),
        protocol.format("fewshot", "2", "coop", "emoji_people"),
    ]
    assert lines[4:] == [line.replace("coop", "dapt") for line in lines[:4]] + [
        "-m promptclip.results_page page o"
    ]
    assert (checkout / "page.md").is_file()
    assert (checkout / "o/coop.log").is_file()


def test_pretraining_installs_and_passes_its_arguments_on(python, checkout, tmp_path):
    run = {"PATH": python, "PROMPTCLIP_NO_VENV": "1"}
    for args, passed in (((), "output/tiny-emoji"), (("there", "--steps", "4"), "there --steps 4")):
        done = bash(checkout / "scripts/pretrain_tiny.sh", *args, **run)
        assert done.returncode == 0, done.stderr
        assert calls(tmp_path)[-1] == f"scripts/pretrain_tiny.py {passed}"


def test_the_environment_is_the_active_one_else_that_of_the_checkout(python, checkout, tmp_path):
    activate = checkout / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("export PYTHONUSED=venv; echo chosen")
    train = checkout / "scripts/coop/base2new_train.sh"
    for env, chosen in (
        ({}, True),
        ({"CONDA_DEFAULT_ENV": "base"}, True),
        ({"CONDA_DEFAULT_ENV": "mine"}, False),
        ({"VIRTUAL_ENV": "mine"}, False),
        ({"PROMPTCLIP_NO_VENV": "1"}, False),
    ):
        done = bash(train, "emoji", 1, PATH=python, **env)
        assert (done.stdout == "chosen\n") == chosen, env


def test_an_unsuitable_python_is_refused(checkout, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("python", "python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        (old / name).write_text("#!/bin/sh\nexit 1\n")
        (old / name).chmod(0o755)
    for env in ({}, {"PROMPTCLIP_NO_VENV": "1"}):
        done = bash(checkout / "scripts/quickstart.sh", PATH=f"{old}:{os.environ['PATH']}", **env)
        assert done.returncode == 2
        assert "error: " in done.stderr
        assert "Python 3.10 to 3.13" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def sphinx(python, tmp_path):
    """A `python` whose Sphinx writes a site of one page, or finds a fault in it."""
    fake = tmp_path / "bin/python"
    fake.rename(tmp_path / "bin/other")
    fake.write_text(
        f"""#!/bin/sh
case "$*" in
"-m sphinx"*) for out; do :; done
    mkdir -p "$out" && echo "$PAGE" >"$out/index.html" && : >"$out/.buildinfo"
    exit "${{FOUND:-0}}" ;;
*) exec {tmp_path}/bin/other "$@" ;;
esac
"""
    )
    fake.chmod(0o755)
    return {"PATH": python, "PROMPTCLIP_NO_VENV": "1"}


def test_docs_makes_a_site_or_leaves_the_one_that_is_there(sphinx, checkout, tmp_path):
    docs, site = checkout / "scripts/docs.sh", tmp_path / "my site"
    for page, found, there in (("one", 0, "one"), ("two", 1, "one"), ("three", 0, "three")):
        done = bash(docs, site, **sphinx, PAGE=page, FOUND=str(found))
        assert done.returncode == found, done.stderr
        assert (site / "index.html").read_text() == f"{there}\n"
        assert [path.name for path in tmp_path.glob("my site*")] == ["my site"]
    assert done.stdout.splitlines()[-1] == f"{site}/index.html"
    assert bash(docs, **sphinx).returncode == 0
    assert (checkout / "output/site/index.html").is_file()


def test_docs_replaces_nothing_but_a_site(sphinx, checkout, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    for place in (tmp_path / "mine", tmp_path / "mine/thesis.tex"):
        done = bash(checkout / "scripts/docs.sh", place, **sphinx)
        assert done.returncode == 2
        assert f"error: {place} is there, and is no site of ours" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


TORCH = {"name": "torch", "version": "2.0"}
WEAK = TORCH | {"vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([TORCH | {"vulns": []}], 0, "audit: 1 packages looked at, 0 weaknesses known\n"),
        ([WEAK], 1, "audit: torch 2.0: CVE-1, mended in 2.1\naudit: 1 packages looked at, 1 weak"),
        ([TORCH | {"skip_reason": "not found"}], 0, "audit: skipped, the index here does not"),
        (None, 0, "audit: skipped, the index here does not tell"),
    ],
)
def test_the_audit_tells_what_it_finds_or_that_it_was_skipped(
    packages, status, said, checkout, tmp_path
):
    """With a pip-audit that answers so."""
    programs = tmp_path / "bin"
    programs.mkdir()
    answer = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    audit = programs / "audit"
    audit.write_text(
        f"""#!/bin/sh
while [ "$1" != --output ]; do shift; done
[ -z '{answer}' ] || echo '{answer}' >"$2"
"""
    )
    (programs / "python").write_text(
        f"""#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p "$3/bin"; cp {audit} "$3/bin/pip-audit"
    echo "#!/bin/sh" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
"-m pip "* | "-") cat >/dev/null ;;
*"sys.prefix"*) echo {tmp_path} ;;
*"torch.version"*) echo torch==2.0 ;;
*) exec {sys.executable} "$@" ;;
esac
"""
    )
    for file in programs.iterdir():
        file.chmod(0o755)
    run = {"PATH": f"{programs}:{os.environ['PATH']}", "PROMPTCLIP_NO_VENV": "1"}
    done = bash(checkout / "scripts/audit.sh", **run)
    assert done.returncode == status, done.stderr
    assert said in done.stdout
    done = bash(checkout / "scripts/audit.sh", **run, PROMPTCLIP_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "audit: skipped, PROMPTCLIP_OFFLINE is set\n")


def test_ci_runs_the_tests_as_a_developer_does():
    assert (ROOT / ".ci/run").read_text().splitlines()[-1].endswith('scripts/test.sh" --all')
