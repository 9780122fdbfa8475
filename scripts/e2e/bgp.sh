# By BIRD, and then by FRR, on the gateway's kernel a router learns of service addresses while a backend stands behind them, and traffic comes; it loses them with the last backend, and when the gateway is killed.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
FRR=/usr/lib/frr
{ command -v bird && [ -x $FRR/bgpd ]; } >/dev/null || skip "needs bird2 and frr"
lab
host b1 in 11
web b1
namespace up
ip -n "$LAB-up" link add br0 type bridge
ip -n "$LAB-up" link set br0 up
namespace r
cable out r eth0 192.0.2.254/24 2001:db8:1::254/64
cable up r eth1 198.51.100.1/24 2001:db8:9::1/64
at r sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
namespace c1
cable up c1 eth0 198.51.100.11/24 2001:db8:9::11/64
ip -n "$LAB-c1" route add default via 198.51.100.1
ip -6 -n "$LAB-c1" route add default via 2001:db8:9::1
ip -n "$LAB-gw" route add 198.51.100.0/24 via 192.0.2.254
ip -6 -n "$LAB-gw" route add 2001:db8:9::/64 via 2001:db8:1::254

cat >"$DIR/r.conf" <<END
router id 192.0.2.254;
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol kernel { ipv6 { export all; }; }
protocol bgp edge {
    local 192.0.2.254 as 65000;
    neighbor 192.0.2.1 as 65001;
    ipv4 { import all; export none; };
    ipv6 { import all; export none; };
}
END
start r r-bird bird -f -c "$DIR/r.conf" -s "$DIR/r.ctl" -P "$DIR/r.pid"
start gw gw-bird bird -f -c configs/bgp/bird.conf -s "$DIR/gw.ctl" -P "$DIR/gw.pid"
BIRD=$PID

world() { service web 203.0.113.80 2001:db8:cafe::80 80 TCP "$@"; }
world 11 | objects world
# An address that an operator has put there for good is not ours to take away.
ip -n "$LAB-gw" address add 203.0.113.99/32 dev lo
SPEC='  services: {addressesOn: lo}'
start_gateway

# routes: what the router has learned, and from whom.
routes() { { ip -n "$LAB-r" -j route show proto bird; ip -6 -n "$LAB-r" -j route show proto bird; } | jq -rs 'add | map("\(.dst) via \(.gateway)") | sort | join(", ")'; }
are() { [ "$(routes)" = "$1" ]; }
own='203.0.113.99 via 192.0.2.1'
both="2001:db8:cafe::80 via 2001:db8:1::1, 203.0.113.80 via 192.0.2.1, $own"
eventually 8 are "$both"
for url in http://203.0.113.80/ 'http://[2001:db8:cafe::80]/'; do
    [ "$(fetch c1 "$url")" = b1 ] || fail "no answer from $url by the learned route"
done
holds() { [ "$(status -r '[.dataplane.announced[] | select(.device == "lo" and .standing == "held") | .address] | join(" ")')" = "$1" ]; }
status() { sluice status -o json | jq "$@"; }
holds '203.0.113.80 2001:db8:cafe::80' || fail "status does not tell: $(status -c .dataplane.announced)"
# They are renewed, and nothing is read or published for it.
sleep 7
are "$both" || fail "the addresses went although nothing happened: $(routes)"

# Without a backend there is no route; with one there is again.
began=$(now_ms)
world | objects world
eventually 5 are "$own"
figure "without a backend the route is gone after $(($(now_ms) - began)) ms"
began=$(now_ms)
world 11 | objects world
eventually 5 are "$both"
figure "with a backend the route is there after $(($(now_ms) - began)) ms"
[ "$(fetch c1 http://203.0.113.80/)" = b1 ] || fail "no answer once the route is back"

# The dataplane is killed: its addresses outlive it by seconds, and go by themselves. The next one has them again.
began=$(now_ms)
kill -KILL $(descendants "$GATEWAY") "$GATEWAY"
eventually 15 are "$own"
figure "killed, the gateway loses its routes after $(($(now_ms) - began)) ms"
start_gateway
eventually 5 are "$both"
[ "$(fetch c1 http://203.0.113.80/)" = b1 ] || fail "no answer from the next gateway"
# Stopped in order it withdraws them at once.
began=$(now_ms)
stop "$GATEWAY"
eventually 3 are "$own"
figure "stopped, it loses them after $(($(now_ms) - began)) ms"

# The same by FRR: with a backend, without, and with one again.
stop "$BIRD"
eventually 15 are ''
chmod 711 "$DIR" # they run as a user of their own
install -d -o frr -g frr "$DIR/frr"
cp configs/bgp/frr.conf "$DIR/frr/bgpd.conf"
touch "$DIR/frr/zebra.conf"
frr() {
    start gw "gw-$1" "$FRR/$1" -f "$DIR/frr/$1.conf" -z "$DIR/frr/zebra.sock" --vty_socket "$DIR/frr" -P 0 -i "$DIR/frr/$1.pid" --log stdout
    eventually 5 [ -s "$DIR/frr/$1.pid" ]
}
frr zebra
frr bgpd
start_gateway
eventually 15 are "$both"
for url in http://203.0.113.80/ 'http://[2001:db8:cafe::80]/'; do
    [ "$(fetch c1 "$url")" = b1 ] || fail "no answer from $url by the route that FRR told of"
done
began=$(now_ms)
world | objects world
eventually 5 are "$own"
figure "by FRR the route of a service without a backend is gone after $(($(now_ms) - began)) ms"
world 11 | objects world
eventually 5 are "$both"
[ "$(fetch c1 http://203.0.113.80/)" = b1 ] || fail "no answer once FRR tells of the route again"
