# A small MTU behind the gateway, at it and beyond, becomes known to clients through NAT, and real transfers adapt; what may be cut is cut.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
GUARD='10.244.0.0/16, "2001:db8:2::/64", "2001:db8:3::/64"'
lab
host c1 out 11
host r1 in 12
# Behind a router with a narrow link: the router's errors are about addresses that the client never used.
namespace b1
ip -n "$LAB-r1" link add narrow mtu 1400 type veth peer name eth0 mtu 1500 netns "$LAB-b1"
for end in 'r1 narrow 1' 'b1 eth0 11'; do
    read -r host device number <<<"$end"
    ip -n "$LAB-$host" address add 10.244.1.$number/24 dev $device
    ip -n "$LAB-$host" address add 2001:db8:3::$number/64 dev $device nodad
    ip -n "$LAB-$host" link set $device up
    at $host ethtool -K $device tx off tso off gso off gro off >/dev/null
done
ip -n "$LAB-b1" route add default via 10.244.1.1
ip -6 -n "$LAB-b1" route add default via 2001:db8:3::1
at r1 sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip -n "$LAB-gw" route add 10.244.1.0/24 via 10.244.0.12
ip -6 -n "$LAB-gw" route add 2001:db8:3::/64 via 2001:db8:2::12
start b1 iperf3 iperf3 -s -p 5201
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$({ TARGET=5201 service speed 203.0.113.81 2001:db8:cafe::81 5201 TCP 1; TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 1; } |
    sed 's/10\.244\.0\.1\b/10.244.1.11/; s/2001:db8:2::1\b/2001:db8:3::11/')
END
start_gateway
known() { at c1 ip route get "$1" | tr '\n' ' ' | sed -n 's/.* mtu \([0-9]*\).*/\1/p'; }
transfer() { at c1 timeout 10 iperf3 -J -n 4M -p 5201 -c "$1" >"$DIR/iperf.json" || fail "no transfer to $1: $(jq -r .error "$DIR/iperf.json")"; }
for address in 203.0.113.81 2001:db8:cafe::81; do
    transfer $address
    [ "$(known $address)" = 1400 ] || fail "the client did not learn the MTU to $address: $(at c1 ip route get $address)"
done
figure "a router beyond: 1400 is learned from its errors, translated, and 4 MB get through"
# Now at the gateway itself, which answers with its own address. The clients forget first.
at c1 ip route flush cache
at c1 ip -6 route flush cache
ip -n "$LAB-gw" link set eth1 mtu 1300
eventually 2 eval '[ "$(status ".dataplane.tables.routes")" -gt 0 ]'
for address in 203.0.113.81 2001:db8:cafe::81; do
    transfer $address
    [ "$(known $address)" = 1300 ] || fail "the client did not learn the gateway's MTU to $address: $(at c1 ip route get $address)"
done
[ "$(counter answered)" -ge 2 ] || fail "the gateway answered nothing"
figure "the gateway's own link: 1300 is learned, $(dropped CT_MISSING_TCP_ACK_FLAG) packets were too large"
# Whose datagrams may be cut hears nothing and loses nothing: 1428 bytes go in two pieces, 4028 in three of which the client
# makes two that are cut again.
at c1 sysctl -qw net.ipv4.ip_no_pmtu_disc=1
at c1 ip route flush cache
ip -n "$LAB-b1" link set eth0 mtu 1300 # a device takes in no more than it sends
told=$(counter answered)
for size in 1400 4000; do
    talk c1 large udp 203.0.113.7 7 --size $size --rate 500
    goes_on large 500
    lossless large
done
[ "$(known 203.0.113.7)" = '' ] || fail "the client was told of an MTU: $(at c1 ip route get 203.0.113.7)"
[ "$(counter answered)" = "$told" ] || fail "the gateway answered what it cut"
[ "$(counter cut)" -ge 1500 ] || fail "only $(counter cut) packets were cut"
figure "what may be cut: $(counter cut) packets cut into pieces of 1300, none lost"
