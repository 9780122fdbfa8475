# The demo works unattended, shows what it promises, and leaves nothing behind.
# Budget: 90 s
set -euo pipefail
before=$(ip netns list | sort)
text=$(target/lab/sluice demo --seconds 2)
printf '%s\n' "$text"
for part in 'native XDP' 'POLICY_DENIED by default deny' 'POLICY_DENY by' 'Gbit/s' 'Tearing down'; do
    grep -q "$part" <<<"$text" || { echo "the demo does not show: $part"; exit 1; }
done
[ "$(ip netns list | sort)" = "$before" ] || { echo "namespaces were left behind"; exit 1; }
left=$(find /sys/fs/bpf/sluice -type f 2>/dev/null || true)
[ -z "$left" ] || { echo "pins were left behind: $left"; exit 1; }
