#!/bin/sh
# The compiler, with the fuzzer's counters put into ballot itself and into nothing else. The passes are stable.
for word in "$@"; do
    if [ "$word" = ballot ]; then
        exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
    fi
done
exec "$@"
