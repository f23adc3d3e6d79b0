#!/usr/bin/env bash
# Writes docs/results.md: base-to-new and few-shot on the built-in benchmarks, all methods.
#
#   bash scripts/results.sh [METHOD...]      (all that are registered)
#
# Environment: JOBS, how many methods at a time (1); SEEDS ("1 2 3"); EMOJI_SHOTS and PEOPLE_SHOTS
# for few-shot ("1" and "2"; "1 2 4 8" takes some hours on two cores); OUTPUT (output/results), which
# also gets <METHOD>.log; PAGE (docs/results.md). Stopped and started again, it goes on. Failures
# stand in the page.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
export OUTPUT=${OUTPUT:-output/results} SEEDS=${SEEDS:-1 2 3}
export EMOJI_SHOTS=${EMOJI_SHOTS:-1} PEOPLE_SHOTS=${PEOPLE_SHOTS:-2}
jobs=${JOBS:-1} page=${PAGE:-docs/results.md}

runs_of_one_method() {
    local method=$1 status=0 seeds
    read -ra seeds <<<"$SEEDS"
    unset SHOTS CFG # flags of the protocol, which are fixed here
    (protocol base2new --quiet --shots 16 "$method" emoji "${seeds[@]}") || status=1
    (protocol base2new --quiet --shots 2 "$method" emoji_people "${seeds[@]}") || status=1
    (protocol fewshot --quiet --shots "$EMOJI_SHOTS" "$method" emoji "${seeds[@]}") || status=1
    (protocol fewshot --quiet --shots "$PEOPLE_SHOTS" "$method" emoji_people "${seeds[@]}") || status=1
    return "$status"
}

if [ "${1:-}" = --runs-of ]; then
    echo "$2: started, see $OUTPUT/$2.log"
    start=$SECONDS
    runs_of_one_method "$2" >"$OUTPUT/$2.log" 2>&1 && result=done || result="done, with failures"
    echo "$2: $result ($((SECONDS - start)) s)"
    [ "$result" = done ]
    exit
fi

if [ $# -eq 0 ]; then
    names=$(python -m promptclip.results_page methods)
    read -ra methods <<<"${names//$'\n'/ }"
    set -- "${methods[@]}"
fi
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((cores > jobs ? cores / jobs : 1))
export MKL_NUM_THREADS=$OMP_NUM_THREADS
mkdir -p "$OUTPUT"
status=0
printf '%s\n' "$@" | xargs -P "$jobs" -I METHOD bash scripts/results.sh --runs-of METHOD || status=1
python -m promptclip.results_page page "$OUTPUT" >"$OUTPUT/page.md"
mv "$OUTPUT/page.md" "$page"
echo "$page is written"
exit "$status"
