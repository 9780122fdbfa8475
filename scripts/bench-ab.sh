#!/usr/bin/env bash
# Two commits against each other: scripts/bench-ab.sh OLD NEW [options of `sluice-bench path`]
# Builds both, runs them in turn (ABAB…), and prints the difference with its noise: the spread of the rounds' ratios. A
# difference smaller than that is none.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n 2,4p "$0" | cut -c3-; exit 2; }
old=$(git rev-parse --short "$1") new=$(git rev-parse --short "$2")
shift 2
rounds=${ROUNDS:-7} profile=${PROFILE:-release}
work=$(mktemp -d)
trap 'for commit in $old $new; do git worktree remove --force "$work/$commit" 2>/dev/null || true; done; rm -rf "$work"' EXIT

for commit in $old $new; do
    [ -x "target/ab/$commit" ] && continue
    git worktree add --quiet --detach "$work/$commit" "$commit"
    echo "building $commit" >&2
    (cd "$work/$commit" && cargo build --quiet --profile "$profile" -p sluice-bench --target-dir "$OLDPWD/target/ab-build")
    mkdir -p target/ab
    cp "target/ab-build/$profile/sluice-bench" "target/ab/$commit"
done

for round in $(seq "$rounds"); do
    for commit in $old $new; do
        "target/ab/$commit" path --rounds 3 --packets 1000000 --anyway --json "$@" >>"$work/$commit.json"
    done
    echo "round $round of $rounds" >&2
done
jq -rn --arg old "$old" --arg new "$new" --slurpfile a "$work/$old.json" --slurpfile b "$work/$new.json" '
    def median: sort | .[length / 2 | floor];
    def tenths: . * 10 | round / 10;
    ($a | map(.ns_per_packet_min)) as $x | ($b | map(.ns_per_packet_min)) as $y
    | [range($x | length)] | map($y[.] / $x[.]) | sort as $ratios
    | "\($old): \($x | min | tenths) ns at best, \($x | median | tenths) in the median of rounds",
      "\($new): \($y | min | tenths) ns at best, \($y | median | tenths) in the median of rounds",
      "\($new) takes \(($ratios | median) * 1000 | round / 1000) of \($old); rounds from \($ratios[0] * 1000 | round / 1000) to \($ratios[-1] * 1000 | round / 1000)"'
