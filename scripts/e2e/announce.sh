# Two gateways announce a service address on the clients' own link: one answers ARP and ND for it, the other takes it with an announcement when the first is gone, and an address without backends is nobody's.
# Budget: 60 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
web b1
VIP4=192.0.2.80 VIP6=2001:db8:1::80
objects world <<END
$(endpoint b1 11 in app: web)
$(service web $VIP4 $VIP6 80 TCP 11)
END
INTERFACES='[{name: eth0, announce: true}, {name: eth1}]'
SPEC='  services: {mode: snat, snatAddresses: [10.244.0.1, "2001:db8:2::1"]}'
start_gateway

# The second gateway has a folder of its own and the same objects.
namespace gw2
at gw2 sysctl -qw net.ipv4.ip_forward=0
cable out gw2 eth0 192.0.2.2/24 2001:db8:1::2/64
cable in gw2 eth1 10.244.0.2/24 2001:db8:2::2/64
mkdir "$DIR/second"
sed -e "s|name: $LAB|name: $LAB-2|; s|$DIR/control|$DIR/second/control|; s|$DIR/flows|$DIR/second/flows|" \
    -e 's|\[10.244.0.1, "2001:db8:2::1"\]|[10.244.0.2, "2001:db8:2::2"]|' "$DIR/gateway.yaml" >"$DIR/second.yaml"
second() { at gw2 "$BIN/sluice" --socket "$DIR/second/control.sock" "$@"; }

holds() { [ "$($1 status -o json | jq -c '[.dataplane.announced[] | select(.standing == "held") | .address]')" = "$2" ]; }
both="[\"$VIP4\",\"$VIP6\"]"
eventually 5 holds sluice "$both"
start gw2 second "$BIN/sluice" run --config "$DIR/second.yaml"
SECOND=$PID
eventually 15 at gw2 curl -sf http://127.0.0.1:9965/readyz
sleep 1
holds second '[]' || fail "two gateways hold one address"

start c1 link tcpdump -lnni eth0 'arp or icmp6'
# knows IP GATEWAY: does the client send packets for the address to that gateway?
knows() { [ "$(ip -n "$LAB-c1" -j neigh show "$1" | jq -r '.[0].lladdr')" = "$(mac "$2" eth0)" ]; }
for ip in $VIP4 $VIP6; do
    url=http://$ip/; [ $ip = $VIP4 ] || url="http://[$ip]/"
    [ "$(fetch c1 "$url")" = b1 ] || fail "no answer from $url, to which no route leads but the link"
    knows $ip gw || fail "$ip is asked of another than its holder"
done
# Its kernel answers for its own addresses and no others.
at c1 ping -qc 1 -W 1 192.0.2.1 >/dev/null || fail "the gateway's own address does not answer"
at c1 ping -qc 1 -W 1 192.0.2.81 >/dev/null && fail "an address that nobody has answers"

# The first is killed: the second takes both addresses and says so, and the client follows without asking.
began=$(now_ms)
kill -KILL $(descendants "$GATEWAY") "$GATEWAY"
eventually 5 knows $VIP4 gw2
figure "taken over by the other gateway $(($(now_ms) - began)) ms after the first was killed (IPv4)"
eventually 5 knows $VIP6 gw2
holds second "$both" || fail "the second gateway does not hold the addresses"
eventually 2 grep -q "who-has $VIP4 tell $VIP4" "$DIR/link.log"
eventually 2 grep -q "> ff02::1: ICMP6, neighbor advertisement, tgt is $VIP6" "$DIR/link.log"
for url in http://$VIP4/ "http://[$VIP6]/"; do
    [ "$(fetch c1 "$url")" = b1 ] || fail "no answer from $url by the second gateway"
done

# A service whose last backend is gone is not announced.
objects world <<END
$(endpoint b1 11 in app: web)
$(service web $VIP4 $VIP6 80 TCP)
END
eventually 5 eval '[ "$(second status -o json | jq ".dataplane.announced | length")" = 0 ]'
ip -n "$LAB-c1" neigh flush dev eth0
! at c1 curl -s --max-time 1 http://$VIP4/ || fail "an address without backends answers"
eventually 3 eval '[ "$(ip -n "$LAB-c1" -j neigh show "$VIP4" | jq -r ".[0].lladdr")" = null ]'
