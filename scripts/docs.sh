#!/usr/bin/env bash
# The pages of docs/ as a site that needs no network, neither to be made nor to be read, in the
# environment of quickstart.sh: bash scripts/docs.sh [FOLDER]   (output/site)
# Open its index.html, or put the folder on any web server. A warning is an error, and the site that was
# there before then stays.
set -euo pipefail
site=${1:-}
[ -z "$site" ] || [ "${site:0:1}" = / ] || site=$PWD/$site
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
site=${site:-$PWD/output/site}
if [ -e "$site" ] && [ ! -f "$site/.buildinfo" ] && [ -n "$(ls -A "$site")" ]; then
    fail "$site is there, and is no site of ours; name a new or an empty folder"
fi
use_environment
install_packages docs
mkdir -p "$(dirname "$site")"
work=$(mktemp -d "$site.XXXXXX")
trap 'rm -rf "$work"' EXIT
python -m sphinx --quiet --fail-on-warning -b html -d "$work/read" docs "$work/site"
rm -rf "$site"
mv "$work/site" "$site"
echo "$site/index.html"
