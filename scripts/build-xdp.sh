#!/bin/sh
# Rebuild the committed XDP object from its source; with --check, compare instead.
set -eu
cd "$(dirname "$0")/.."
object=xdp-steer/loader/src/steer.o
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
cargo run --quiet --manifest-path xdp-steer/prog/build/Cargo.toml --target-dir target/build-xdp -- \
    xdp-steer/prog/src/main.rs "$fresh/steer.o"
if [ "${1:-}" = --check ]; then
    if cmp "$fresh/steer.o" "$object"; then
        echo "The committed XDP object is what its source compiles to."
    else
        echo "$object differs from its source; run scripts/build-xdp.sh and commit the result" >&2
        exit 1
    fi
else
    cp "$fresh/steer.o" "$object"
    ls -l "$object"
fi
