#!/usr/bin/env bash
# bash scripts/<method>/<script>.sh ... is bash scripts/<script>.sh <method> ...
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec bash "$here/../$(basename "${BASH_SOURCE[0]}")" "$(basename "$here")" "$@"
