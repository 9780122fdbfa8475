#!/usr/bin/env bash
# Run the end-to-end scenarios, or those named: one file each, in a lab of its own, within the time that its first lines
# say. Prints how many passed, failed and were skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "end-to-end tests need root" >&2; exit 2; }

passed=0 failed=0 skipped=0
scenarios=("$@")
[ ${#scenarios[@]} -gt 0 ] || scenarios=(scripts/e2e/[0-9a-z]*.sh)
logs=$(mktemp -d)
for scenario in "${scenarios[@]}"; do
    name=$(basename "$scenario" .sh)
    case $name in run | lib) continue ;; esac
    scenario=scripts/e2e/$name.sh
    budget=$(sed -n 's/^# Budget: \([0-9]*\) s.*/\1/p' "$scenario")
    began=$SECONDS
    timeout --kill-after=15 "${budget:-60}" bash "$scenario" >"$logs/$name.log" 2>&1 </dev/null
    status=$?
    took=$((SECONDS - began))
    case $status in
    0) passed=$((passed + 1)); printf 'PASS %s (%d s)\n' "$name" $took; grep '^figure: ' "$logs/$name.log" ;;
    77) skipped=$((skipped + 1)); printf 'SKIP %s: %s\n' "$name" "$(tail -n 1 "$logs/$name.log")" ;;
    *) failed=$((failed + 1)); printf 'FAIL %s (%d s, exit %d)\n' "$name" $took $status; tail -n 60 "$logs/$name.log" | sed 's/^/    /' ;;
    esac
done
rm -rf "$logs"
printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped
# In CI a scenario that could not run is a failure.
[ $failed = 0 ] && { [ $skipped = 0 ] || [ "${CI:-}" != true ]; }
