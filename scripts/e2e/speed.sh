# One gigabyte over TCP through a service and a policy, side by side with the kernel forwarding the same frames without offloads.
# Budget: 150 s
. "$(dirname "$0")/lib.sh"
# The gateway has a core, as it has in its rack, and so has who sends; who receives has what the gateway leaves. Without that,
# the scheduler keeps the sender beside the worker that wakes it, and the second core sleeps in half of all runs.
WORKERS='[0]'
lab
host c1 out 11
host b1 in 11
start b1 iperf3 taskset -c 0 iperf3 -s -p 5201
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: speed)
$(TARGET=5201 service speed 203.0.113.81 2001:db8:cafe::81 5201 TCP 11)
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: speed, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: speed}}
  ingress: [{fromEndpoints: [{matchLabels: {role: customer}}], toPorts: [{ports: [{port: "5201", protocol: TCP}]}]}]
END
# transfer TO BYTES: Mbit/s as the receiver counts them, and segments sent again.
transfer() {
    at c1 timeout 60 taskset -c 1 iperf3 -J -n "$2" -p 5201 --connect-timeout 3000 -c "$1" >"$DIR/iperf.json" || fail "no transfer to $1: $(jq -r .error "$DIR/iperf.json")"
    jq -r '"\(.end.sum_received.bits_per_second / 1e6 | round) \(.end.sum_sent.retransmits)"' "$DIR/iperf.json"
}
by_kernel() { at gw sysctl -qw net.ipv4.ip_forward=1; transfer 10.244.0.11 "$1"; at gw sysctl -qw net.ipv4.ip_forward=0; }
by_gateway() {
    start_gateway
    transfer 203.0.113.81 "$1"
    [ "$(status '[.dataplane.devices[].steered] | add')" -gt 10000 ] || fail "the frames did not go through the gateway"
    stop "$GATEWAY"
}
best() { printf '%s\n' "$@" | sort -n | tail -n 1; }
# In turn, so that what else the machine does falls on both; more than three turns only on a machine that does much else.
kernel=() gateway=() share=0
for turn in 1 2 3 4 5 6; do
    [ "$turn" -le 3 ] || [ $share -lt 70 ] || break
    read -r rate again <<<"$(by_kernel 1000M)"; kernel+=("$rate")
    figure "the kernel, 1 GB: $rate Mbit/s, $again segments again"
    read -r rate again <<<"$(by_gateway 1000M)"; gateway+=("$rate")
    figure "the gateway, 1 GB: $rate Mbit/s, $again segments again"
    share=$(($(best "${gateway[@]}") * 100 / $(best "${kernel[@]}")))
done
figure "best against best: the gateway has $share % of the kernel's rate (goal: 70)"
[ $share -ge 70 ] || fail "the gateway is slower than it is to be"
