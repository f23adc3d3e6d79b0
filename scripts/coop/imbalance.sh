#!/usr/bin/env bash
# bash scripts/<method>/<script>.sh ... is bash scripts/<script>.sh <method> ...
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)
exec bash "$here/../$(basename -- "${BASH_SOURCE[0]}")" "$(basename -- "$here")" "$@"
