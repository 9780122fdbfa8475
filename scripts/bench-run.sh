#!/usr/bin/env bash
# Measure everything that README.md shows, and keep it: bench/runs/DATE-HOST/ with the command, the machine, the kernel and
# the commit in every result. Then scripts/bench-readme.py writes README's figures.
#   scripts/bench-run.sh            release build, about half an hour on a quiet machine with root
#   PROFILE=lab SHORT=1 scripts/bench-run.sh   lab build and fewer rounds, about fifteen minutes, eight of them at half of a rate
#   scripts/bench-run.sh soak memory           these steps only, in place of what today's run has of them
# Steps: path tables veth soak memory scenarios.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release} short=${SHORT:-}
steps=${*:-path tables veth soak memory scenarios}
cargo build --quiet --profile "$profile" -p sluice-bench -p sluice -p sluiced -p sluice-control
bench=target/$profile/sluice-bench
run=bench/runs/$(date +%F)-$(hostname)
mkdir -p "$run"
rounds=11 packets=2000000
[ -z "$short" ] || { rounds=5 packets=1000000; }

# The goals are for 2 MiB pages, and memory in pieces has none.
in_one_piece() {
    [ "$(id -u)" = 0 ] || return 0
    sync
    echo 3 >/proc/sys/vm/drop_caches
    echo 1 >/proc/sys/vm/compact_memory
}
# Figures of a machine that was not quiet are kept with how far its null harness moved, not thrown away.
path() { in_one_piece; "$bench" path --anyway --json --rounds $rounds --packets $packets "$@" >>"$run/path.jsonl"; }
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }

step_path() {
    : >"$run/path.jsonl"
    for flows in 10000 1000000 10000000; do
        say "gateway, $flows flows"
        path --flows $flows
        path --flows $flows --ipv6
        path --flows $flows --vlan
    done
    say "new flows, other scenarios, attacks"
    for services in 1 1000 10000; do path --scenario new --services $services; done
    path --scenario new --ipv6
    path --scenario new --vlan
    path --scenario new --flows 1000000
    path --scenario new --flows 1000000 --ipv6
    path --scenario new --flows 1000000 --services 10000
    for scenario in forward policy lb; do path --scenario $scenario; done
    path --skew zipf --flows 1000000
    for attack in syn-flood fragments random malformed; do path --attack $attack; done
}

step_tables() {
    in_one_piece
    "$bench" tables ${short:+--quick} --json 2>/dev/null >"$run/tables.jsonl"
    [ -z "$short" ] || "$bench" tables 'expir' --json 2>/dev/null >>"$run/tables.jsonl"
}

step_veth() {
    "$bench" veth --two-cores --json ${short:+--rounds 9 --seconds 0.6 --steps 3} >"$run/veth.json"
    "$bench" veth --two-cores --peers sluice --apart 103 --rounds 21 --seconds 0.5 --steps 0 --json >"$run/apart.json"
}

# At half of the saturated rate, for each number of services and kind of traffic. The rings (2 GiB) hold what comes in 130 ms: a
# hypervisor takes cores away for longer than the usual ones hold (bench/README.md).
step_soak() {
    : >"$run/soak.jsonl"
    for services in 1 1000 10000; do
        "$bench" veth --two-cores --peers sluice --services $services --rounds 3 --seconds 1 --steps 0 --ring 65536 --soak 60 --json >>"$run/soak.jsonl"
    done
}

step_memory() { "$bench" memory --json >"$run/memory.json"; }

step_scenarios() { SLUICE_BIN=$PWD/target/$profile scripts/e2e/run.sh scale publish names >"$run/scenarios.txt"; }

for step in $steps; do
    case $step in
    path | tables) ;;
    veth | soak | memory | scenarios) [ "$(id -u)" = 0 ] || { say "$step needs root, left out"; continue; } ;;
    *) say "no step $step"; exit 2 ;;
    esac
    say "$step"
    "step_$step"
done
cp bench/instructions.txt "$run/"
python3 scripts/bench-readme.py
say "kept in $run"
