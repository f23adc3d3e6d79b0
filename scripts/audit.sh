#!/usr/bin/env bash
# Known weaknesses of the installed packages, as pip-audit finds them: bash scripts/audit.sh
# Where pip-audit, or what it asks, cannot be reached, one line says so, and that is no failure. Where
# it finds something, the exit status is 1.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_environment
install_packages docs,emoji,test

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skipped() {
    echo "audit: skipped, $1"
    exit 0
}

# audit ARGUMENTS: what pip-audit says of packages; the exit status is 3 if it knows none of them.
audit() {
    "$work/venv/bin/pip-audit" --progress-spinner off --timeout 15 --format json \
        --output "$work/found" "$@" >"$work/log" 2>&1 </dev/null || true
    python - "$work/found" <<'PYTHON'
import json
import pathlib
import sys

file = pathlib.Path(sys.argv[1])
packages = json.loads(file.read_text())["dependencies"] if file.is_file() else []
known = [package for package in packages if "vulns" in package]
weak = [(package, vuln) for package in known for vuln in package["vulns"]]
for package, vuln in weak:
    fixed = ", ".join(vuln["fix_versions"]) or "nowhere yet"
    print(f"audit: {package['name']} {package['version']}: {vuln['id']}, mended in {fixed}")
print(f"audit: {len(known)} packages looked at, {len(weak)} weaknesses known")
sys.exit(1 if weak else 0 if known else 3)
PYTHON
}

[ "${PROMPTCLIP_OFFLINE:-0}" = 0 ] || skipped "PROMPTCLIP_OFFLINE is set"
# In an environment of its own, so that it adds nothing to the one that is looked at.
python -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit \
    >"$work/log" 2>&1 </dev/null || skipped "pip-audit cannot be installed here"
# One package first: an index that does not know its weaknesses knows no other's.
python -c 'from torch.version import __version__ as v; print("torch==" + v.split("+")[0])' \
    >"$work/one.txt"
audit --disable-pip --no-deps --requirement "$work/one.txt" >"$work/one" || [ $? = 1 ] ||
    skipped "the index here does not tell the weaknesses of packages"
audit --skip-editable --path "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
