#!/usr/bin/env bash
# Fuzzes ballot's log recovery, cookies and tickets with libFuzzer, coverage-guided, on the stable compiler.
#   apps/ballot/fuzz/run.sh [SECONDS]        altogether, a third for each target; 1800 unless said otherwise
# What it finds stays in target/fuzz-ballot/TARGET/found, with the command to see it again. It keeps what it learned in
# target/fuzz-ballot/TARGET/corpus and goes on from there.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-1800}
root=$(cd ../../.. && pwd)/target/fuzz-ballot
targets=(log cookie ticket)

RUSTC_WRAPPER=$PWD/rustc.sh cargo build --quiet --locked --target-dir "$root/build"

for target in "${targets[@]}"; do
    mkdir -p "$root/$target"/{corpus,found}
    log=$root/$target/log
    if ! "$root/build/debug/$target" "$root/$target/corpus" -max_total_time=$((seconds / ${#targets[@]})) -max_len=2048 \
        -timeout=20 -artifact_prefix="$root/$target/found/" >"$log" 2>&1; then
        tail -40 "$log" >&2
        echo "see it again: $root/build/debug/$target $root/$target/found/…" >&2
        exit 1
    fi
    tail -3 "$log" | sed -n "s/^Done \(.*\)/$target: \1/p"
done
