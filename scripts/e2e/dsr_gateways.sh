# Two gateways in a row: one lets backends answer past it, in Geneve and in IP-in-IP, the other opens its tunnels in front of them.
# Budget: 120 s
. "$(dirname "$0")/lib.sh"
SPEC='  services: {mode: dsr, bpf-lb-dsr-dispatch: geneve}'
GUARD=10.99.0.0/16
lab
host c1 out 11
namespace far
ip -n "$LAB-far" link add br0 type bridge
ip -n "$LAB-far" link set br0 up
# The second gateway: tunnels come in by eth0, backends are behind eth1, answers go out by eth2.
namespace gw2
at gw2 sysctl -qw net.ipv4.ip_forward=0
cable in gw2 eth0 10.244.0.2/24 2001:db8:2::2/64
cable far gw2 eth1 10.245.0.1/24 2001:db8:3::1/64
cable out gw2 eth2 192.0.2.2/24 2001:db8:1::2/64
ip -n "$LAB-gw" route add 10.245.0.0/24 via 10.244.0.2
ip -6 -n "$LAB-gw" route add 2001:db8:3::/64 via 2001:db8:2::2
for n in 1 2; do
    namespace b$n
    cable far b$n eth0 10.245.0.1$n/24 2001:db8:3::1$n/64
    ip -n "$LAB-b$n" route add default via 10.245.0.1
    ip -6 -n "$LAB-b$n" route add default via 2001:db8:3::1
    web b$n
    echo_server b$n
done
start b1 b1-iperf3 iperf3 -s -p 5201
{
    service web 203.0.113.80 2001:db8:cafe::80 80 TCP 11 12
    TARGET=7 service echo 203.0.113.80 2001:db8:cafe::80 7 UDP 11 12
    TARGET=5201 service speed 203.0.113.81 2001:db8:cafe::81 5201 TCP 11
} | sed 's/10\.244\.0\./10.245.0./; s/2001:db8:2::/2001:db8:3::/' | objects world

second_gateway() {
    cat >"$DIR/second.yaml" <<END
apiVersion: sluice.dev/v1
kind: Gateway
metadata: {name: $LAB-2}
spec:
  node: $LAB-2
  objects: {files: [$DIR/objects/]}
  interfaces: [{name: eth0}, {name: eth1}, {name: eth2}]
  guard: {prefixes: [10.245.0.0/24, "2001:db8:3::/64"]}
  services: {clampMss: true}
  tunnels: {addresses: [10.245.0.0/24, "2001:db8:3::/64"], peers: [10.244.0.1/32, "2001:db8:2::1/128"]}
  api: {socket: $DIR/second.sock, metrics: "127.0.0.1:9966"}
END
    mkdir -p "$DIR/second"
    sed -i "s|$DIR/second.sock|$DIR/second/control.sock|" "$DIR/second.yaml"
    start gw2 second "$BIN/sluice" run --config "$DIR/second.yaml"
    eventually 15 at gw2 curl -sf --max-time 2 http://127.0.0.1:9966/readyz
}
# (The status is handed on to the lab's own end, which must come whatever it is.)
trap 'status=$?; set +e; rm -rf "$PINS-2"; (exit $status); clean_up' EXIT
eventually 5 eval '[ "$(ip -6 -n "$LAB-gw2" address show scope link | grep -c "scope link *$")" -ge 3 ]'
second_gateway

# What the first gateway sends on, and what comes to it, as others read it.
start in in-capture tcpdump -i gw2 -U -s 200 -c 2000 -w "$DIR/in.pcap"
start out out-capture tcpdump -i gw -U -s 100 -c 2000 -w "$DIR/out.pcap"
eventually 5 grep -q listening "$DIR/in-capture.log"
eventually 5 grep -q listening "$DIR/out-capture.log"
seen() { [ "$(tshark -r "$DIR/$1.pcap" -Y "$2" 2>/dev/null | wc -l)" "$3" "$4" ]; }
rate() { at c1 timeout 15 iperf3 -J -t 1 --connect-timeout 2000 -p 5201 "$@" | jq -r '"\(.end.sum_received.bits_per_second / 1e9 * 100 | round / 100) Gbit/s, \(.end.sum_sent.retransmits) retransmitted"'; }

for dispatch in geneve ipip; do
    SPEC="  services: {mode: dsr, bpf-lb-dsr-dispatch: $dispatch}"
    start_gateway
    for url in 203.0.113.80 '[2001:db8:cafe::80]'; do
        answers=$(for _ in $(seq 20); do fetch c1 "http://$url/" || fail "no answer from $url by $dispatch"; echo; done | grep . | sort | uniq -c)
        for backend in b1 b2; do grep -q $backend <<<"$answers" || fail "$url never led to $backend: $answers"; done
    done
    talk c1 $dispatch-4 udp 203.0.113.80 7 --rate 200
    talk c1 $dispatch-6 udp 2001:db8:cafe::80 7 --rate 200
    for talk in $dispatch-4 $dispatch-6; do goes_on $talk; done
    for talk in $dispatch-4 $dispatch-6; do lossless $talk; done
    stop "$GATEWAY"
done
eventually 5 seen in 'geneve.option.class == 0x014b && geneve.option.type == 0x81 && ip.dst == 10.245.0.11 && udp.dstport == 6081' -ge 4
eventually 5 seen in 'geneve.option.class == 0x014b && ipv6.dst == 2001:db8:3::11 && udp.dstport == 6081' -ge 4
eventually 5 seen in 'ip.proto == 4 && ip.src == 10.244.0.1 && ip.dst == 203.0.113.80' -ge 4
eventually 5 seen in 'ipv6.nxt == 41 && ipv6.dst == 2001:db8:cafe::80' -ge 4
seen out 'ip.src == 203.0.113.80 || ipv6.src == 2001:db8:cafe::80' = 0 || fail "replies came by the first gateway"
for dispatch in geneve ipip; do
    SPEC="  services: {mode: dsr, bpf-lb-dsr-dispatch: $dispatch}"
    start_gateway
    figure "TCP by $dispatch through both gateways, IPv4: $(rate -c 203.0.113.81)"
    figure "TCP by $dispatch through both gateways, IPv6: $(rate -c 2001:db8:cafe::81)"
    stop "$GATEWAY"
done
