#!/usr/bin/env bash
# Instructions a packet, counted by valgrind: the same on every run, so that growth shows where time is noise.
#   scripts/count.sh            count, compare with bench/instructions.txt, fail if any figure grew by more than 2 %
#   scripts/count.sh --update   count, and write the figures down; the commit that does so says why they grew
set -euo pipefail
cd "$(dirname "$0")/.."
figures=bench/instructions.txt
packets=12800
rustc=$(rustc --version | cut -d' ' -f2)
command -v valgrind >/dev/null || { echo "there is no valgrind: scripts/setup.sh installs it" >&2; exit 2; }
# Together with the others, as the end-to-end tests build them: alone it would be built with other features.
cargo build --quiet --profile lab -p sluice-bench -p sluice -p sluiced -p sluice-control
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

count() { # name, options
    local name=$1
    shift
    valgrind --tool=callgrind --callgrind-out-file="$out/$name" --collect-atstart=no \
        --toggle-collect='sluice_bench::count::measured*' target/lab/sluice-bench count --prefixes 100 --packets $packets "$@" \
        >"$out/packets" 2>"$out/log" || { cat "$out/log" >&2; exit 2; }
    [ "$(cat "$out/packets")" = $packets ] || { echo "$name: not every packet was forwarded" >&2; exit 2; }
    awk -v name="$name" -v packets=$packets '/Collected/ { printf "%-16s %8.1f\n", name, $NF / packets }' "$out/log"
}

{
    count gateway --flows 1000
    count gateway-ipv6 --flows 1000 --ipv6
    count gateway-vlan --flows 1000 --vlan
    count gateway-udp --flows 1000 --udp
    count forward --flows 1000 --scenario forward
    count policy --flows 1000 --scenario policy
    count lb --flows 1000 --scenario lb
    count new --flows $packets --scenario new
    count new-ipv6 --flows $packets --scenario new --ipv6
} >"$out/now"

if [ "${1:-}" = --update ]; then
    {
        echo "# Instructions a packet by scenario; scripts/count.sh compares, scripts/count.sh --update writes."
        echo "# rustc $rustc"
        cat "$out/now"
    } >"$figures"
    cat "$figures"
    exit
fi
if ! grep -qx "# rustc $rustc" "$figures"; then
    echo "figures are of another compiler ($(grep '^# rustc' "$figures")): not compared with $rustc"
    cat "$out/now"
    exit
fi
awk '
    FNR == NR { if ($1 != "#") was[$1] = $2; next }
    {
        change = ($1 in was) ? ($2 / was[$1] - 1) * 100 : 0
        printf "%-16s %8.1f instructions a packet, %+.1f %%\n", $1, $2, change
        if (change > 2) grown = grown " " $1
    }
    END { if (grown) { print "grew by more than 2 %:" grown "; if that is worth it, scripts/count.sh --update and say why" > "/dev/stderr"; exit 1 } }
' "$figures" "$out/now"
