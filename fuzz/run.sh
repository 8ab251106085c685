#!/usr/bin/env bash
# Runs the fuzz targets, two at a time: `fuzz/run.sh [SECONDS] [TARGET…]`. Seeds come from seeds/, what was found on the way
# stays in target/fuzz/corpus (it makes the next run start further on), and an input that breaks a promise is written to
# target/fuzz/findings and named. Repeat one with `SKEP_FUZZ_TARGET=<target> <binary> FILE`.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-10}
shift || true
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../target} RUSTC_WRAPPER=$PWD/rustc-wrapper.sh
cargo build --locked --quiet
fuzzer=$CARGO_TARGET_DIR/debug/skep-fuzz
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(SKEP_FUZZ_TARGET=list "$fuzzer")
work=$CARGO_TARGET_DIR/fuzz
[[ -z ${FUZZ_RUNS:-} ]] || { work=$CARGO_TARGET_DIR/fuzz-ci; rm -rf "$work"; }
mkdir -p "$work/findings"

one() {
    local target=$1 log=$work/$1.log
    mkdir -p "$work/corpus/$target"
    local arguments=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1
        -artifact_prefix="$work/findings/$target-")
    # The same inputs in every run, and no more than so many: for CI, where what passed yesterday must pass today.
    [[ -z ${FUZZ_RUNS:-} ]] || arguments+=(-seed=1 -runs="$FUZZ_RUNS")
    [[ ! -f dictionaries/$target.dict ]] || arguments+=(-dict="dictionaries/$target.dict")
    if SKEP_FUZZ_TARGET=$target "$fuzzer" "${arguments[@]}" "$work/corpus/$target" "seeds/$target" &>"$log"; then
        awk -v target="$target" -v seconds="$seconds" '
            /number_of_executed_units/ { runs = $2 }
            /new_units_added/ { added = $2 }
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
            END { printf "%-20s clean: %12d runs in %d s, %6d edges, %5d new inputs\n", target, runs, seconds, edges, added }
        ' "$log"
    else
        printf '%-20s FOUND SOMETHING:\n' "$target"
        grep -aE -A12 'panicked at|ERROR: libFuzzer|SUMMARY' "$log" || tail -20 "$log"
        return 1
    fi
}

# Which one ends first, and whether two end at once, says nothing about how they ended: each leaves a note itself.
rm -f "$work"/*.failed
for target in "${targets[@]}"; do
    while (($(jobs -rp | wc -l) >= ${JOBS:-2})); do
        wait -n || true
    done
    { one "$target" || : >"$work/$target.failed"; } &
done
wait
if compgen -G "$work/*.failed" >/dev/null; then exit 1; fi
