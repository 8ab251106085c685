#!/usr/bin/env bash
# Stands before rustc while the fuzzer is built: the crates whose parsers are under test count which edges they take, the
# others do not, or counting would be most of what a run does. Stable flags of rustc only.
name=
for ((at = 1; at < $#; at++)); do
    if [[ ${!at} == --crate-name ]]; then
        at=$((at + 1))
        name=${!at}
        break
    fi
done
case $name in
skep_* | toml | toml_parser | serde_json)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
