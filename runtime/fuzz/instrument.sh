#!/bin/sh
# A wrapper of the compiler: as it is called, but with branches counted in the library of the host and in
# that of the formats.
# These are the flags of cargo-fuzz, without those that only a nightly takes.
case " $* " in
*" --crate-name millstream "*" --crate-type lib "* | *" --crate-name millstream_formats "*" --crate-type lib "*)
    set -- "$@" --cfg fuzzing -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*" --crate-name fuzz_"*)
    set -- "$@" --cfg fuzzing
    ;;
esac
exec "$@"
