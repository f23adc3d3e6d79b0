# Sourced by the other scripts: goes to the top of the checkout and chooses the environment, which
# is the active one (conda's base does not count), else .venv of this checkout where there is one.

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null || exit
if [ -f .venv/bin/activate ] && [ "${PROMPTCLIP_NO_VENV:-}" != 1 ] && [ -z "${VIRTUAL_ENV:-}" ] &&
    [ "${CONDA_DEFAULT_ENV:-base}" = base ]; then
    . .venv/bin/activate
fi

# protocol NAME ARGUMENTS: a command of promptclip; each environment variable is a flag.
protocol() {
    exec python -m promptclip "$1" ${DATA:+--root "$DATA"} \
        ${DATA_FOLDER:+--data-folder "$DATA_FOLDER"} ${SHOTS:+--shots "$SHOTS"} \
        ${CFG:+--cfg "$CFG"} ${OUTPUT:+--output "$OUTPUT"} "${@:2}"
}

# An environment of this checkout, made if need be, or with PROMPTCLIP_NO_VENV=1 the active one.
use_environment() {
    if [ "${PROMPTCLIP_NO_VENV:-}" = 1 ]; then
        check_python python || fail "python is not Python 3.10 to 3.13; activate such an environment"
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        local python
        python=$(find_python) || fail "no Python 3.10 to 3.13 with its venv module was found"
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    . .venv/bin/activate
}

find_python() {
    local python
    for python in python3.13 python3.12 python3.11 python3.10 python3 python; do
        if check_python "$python"; then
            echo "$python"
            return
        fi
    done
    return 1
}

check_python() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
        2>/dev/null </dev/null
}

# install_packages EXTRAS: promptclip with these extras, and the engine where there is none. Takes a second
# when nothing has changed since the last time. What .venv gets is pinned with checksums, but for the
# extras of developers; an environment of the user's keeps what fits the ranges of pyproject.toml.
install_packages() {
    local stamp state
    stamp=$(python -c 'import sys; print(sys.prefix)')/.promptclip-$1
    state=$(cat setup.py pyproject.toml constraints.txt runtime/pyproject.toml | cksum; pwd)
    [ "$state" = "$(cat "$stamp" 2>/dev/null)" ] && return
    echo "Installing promptclip[$1] and what it needs; the first time takes some minutes"
    set -- "$1" -e ".[$1]"
    needs_runtime && set -- "$@" -e ./runtime
    if [ "${PROMPTCLIP_NO_VENV:-}" != 1 ]; then
        install --require-hashes --only-binary :all: -r constraints.txt
        set -- "$@" --no-build-isolation # setuptools is among them
    fi
    install "${@:2}"
    echo "$state" >"$stamp"
}

install() {
    python -m pip install --quiet --disable-pip-version-check "$@" </dev/null
}

# The engine is one of two: the original Dassl, where the user has it, else ours.
needs_runtime() {
    python - <<'PYTHON'
import importlib.util
import pathlib
import sys

spec = importlib.util.find_spec("dassl")
ours = pathlib.Path("runtime").resolve()
sys.exit(not (spec is None or ours in pathlib.Path(spec.origin or "/").resolve().parents))
PYTHON
}

fail() {
    echo "error: $*" >&2
    exit 2
}
