# One gigabyte over TCP through a service and a policy, side by side with the kernel forwarding the same frames without offloads.
# Budget: 150 s
. "$(dirname "$0")/lib.sh"
POLL=adaptive
lab
host c1 out 11
host b1 in 11
start b1 iperf3 iperf3 -s -p 5201
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
    at c1 timeout 60 iperf3 -J -n "$2" -p 5201 --connect-timeout 3000 -c "$1" >"$DIR/iperf.json" || fail "no transfer to $1: $(jq -r .error "$DIR/iperf.json")"
    jq -r '"\(.end.sum_received.bits_per_second / 1e6 | round) \(.end.sum_sent.retransmits)"' "$DIR/iperf.json"
}
by_kernel() { at gw sysctl -qw net.ipv4.ip_forward=1; transfer 10.244.0.11 "$1"; at gw sysctl -qw net.ipv4.ip_forward=0; }
by_gateway() {
    start_gateway
    transfer 203.0.113.81 "$1"
    [ "$(status '[.dataplane.devices[].steered] | add')" -gt 10000 ] || fail "the frames did not go through the gateway"
    stop "$GATEWAY"
}
# In turn, so that what else the machine does falls on both.
kernel=() gateway=()
for bytes in 1000M 300M 300M; do
    read -r rate again <<<"$(by_kernel $bytes)"; kernel+=("$rate")
    figure "the kernel, $bytes: $rate Mbit/s, $again segments again"
    read -r rate again <<<"$(by_gateway $bytes)"; gateway+=("$rate")
    figure "the gateway, $bytes: $rate Mbit/s, $again segments again"
done
best() { printf '%s\n' "$@" | sort -n | tail -n 1; }
share=$(($(best "${gateway[@]}") * 100 / $(best "${kernel[@]}")))
figure "best against best: the gateway has $share % of the kernel's rate (goal: 70)"
# The goal is for a machine that does nothing else; here a wide margin tells a mistake from noise.
[ $share -ge 25 ] || fail "the gateway is far slower than the kernel"
