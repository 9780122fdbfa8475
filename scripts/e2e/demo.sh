# The demo works unattended, shows what it promises, and leaves nothing behind, also when it is interrupted.
# Budget: 90 s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() { echo "FAILED: $*" >&2; exit 1; }

nothing_left() {
    ! ip netns list | grep '^sluice-demo-' || fail "namespaces were left behind"
    ! ip -o link | grep 'sluice-demo-' || fail "devices were left behind"
    [ ! -e /sys/fs/bpf/sluice/demo ] || fail "pins were left behind: $(ls /sys/fs/bpf/sluice/demo)"
    ! ls -d /tmp/sluice-demo-* 2>/dev/null || fail "files were left behind"
}

text=$(target/lab/sluice demo --seconds 2)
printf '%s\n' "$text"
for part in 'native XDP' 'POLICY_DENIED by default deny' 'POLICY_DENY by' 'Gbit/s' 'Tearing down'; do
    grep -q "$part" <<<"$text" || fail "the demo does not show: $part"
done
nothing_left

target/lab/sluice demo --seconds 20 >/tmp/sl-demo-$$.log 2>&1 &
demo=$!
trap 'kill -INT $demo 2>/dev/null || true; rm -f /tmp/sl-demo-$$.log' EXIT
until grep -q 'The gateway is up' /tmp/sl-demo-$$.log; do
    kill -0 $demo 2>/dev/null || fail "$(cat /tmp/sl-demo-$$.log)"
    sleep 0.2
done
kill -INT $demo
wait $demo && fail "an interrupted demo is no success"
nothing_left
