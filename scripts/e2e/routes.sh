# A route, a neighbour and a multipath route of the kernel are followed at once, on live flows and without a lost packet.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
GUARD='10.244.0.0/24, "2001:db8:2::/64", 198.51.100.0/24'
lab
host c1 out 11
host b1 in 11
host b2 in 12
# Both have the same address on their loopback device, as anycast servers do.
for backend in b1 b2; do ip -n "$LAB-$backend" address add 198.51.100.7/32 dev lo; done
echo_server b1 b2
objects world <<END
$(endpoint c1 11 out role: customer)
END
ip -n "$LAB-gw" route add 198.51.100.0/24 via 10.244.0.11
start_gateway
datagrams() { at "$1" awk '/^Udp:/ && $2 ~ /[0-9]/ { print $2 }' /proc/net/snmp; }
grows() { local before; before=$(datagrams "$1"); eventually 5 eval "[ \$(datagrams $1) -gt $before ]"; }
# moved NAME TO COMMAND…: how long after the command the live flow reaches another host; measured by the clock of both.
moved() {
    local what=$1 to=$2 before; shift 2
    start "$to" "$to-ear" python3 "$E2E/frames.py" listen eth0 20 --count 1 --proto udp
    eventually 5 grep -q listening "$DIR/$to-ear.log"
    before=$(now_ms)
    "$@"
    eventually 5 grep -q '"dport": 7' "$DIR/$to-ear.log"
    took=$(jq -s "((.[-1].at * 1000 | floor) - $before)" "$DIR/$to-ear.log")
    rm "$DIR/$to-ear.log"
    figure "$what: the live flow takes the new way after $took ms"
    [ "$took" -lt 300 ] || fail "$what took $took ms"
}
talk c1 flow udp 198.51.100.7 7
ip -n "$LAB-gw" neighbour show >/dev/null
at gw ping -c 1 -W 2 10.244.0.12 >/dev/null # so that its neighbour entry is there
moved 'a route' b2 ip -n "$LAB-gw" route replace 198.51.100.0/24 via 10.244.0.12
goes_on flow 50
moved 'a neighbour' b1 ip -n "$LAB-gw" neighbour replace 10.244.0.12 lladdr "$(mac b1 eth0)" dev eth1
goes_on flow 50
ip -n "$LAB-gw" neighbour replace 10.244.0.12 lladdr "$(mac b2 eth0)" dev eth1
goes_on flow 50
moved 'a more specific route' b1 ip -n "$LAB-gw" route add 198.51.100.7/32 via 10.244.0.11
goes_on flow 50
lossless flow
figure "$(said flow '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"')"

# Two ways: flows are spread, and each keeps to its own.
ip -n "$LAB-gw" route del 198.51.100.7/32
ip -n "$LAB-gw" route replace 198.51.100.0/24 nexthop via 10.244.0.11 weight 1 nexthop via 10.244.0.12 weight 3
for backend in b1 b2; do
    start $backend $backend-ear python3 "$E2E/frames.py" listen eth0 20 --proto udp
    eventually 5 grep -q listening "$DIR/$backend-ear.log"
done
for again in 1 2 3; do frames c1 send eth0 "$(mac gw eth0)" 192.0.2.11 198.51.100.7 --sport 20000 --step 1 --count 200 --rate 2000; done
seen() { jq -r 'select(.dport == 7 and .sport >= 20000 and .sport < 20200) | .sport' "$DIR/b1-ear.log" "$DIR/b2-ear.log" | wc -l; }
eventually 5 eval '[ "$(seen)" = 600 ]'
for backend in b1 b2; do jq -r 'select(.dport == 7 and .sport >= 20000 and .sport < 20200) | .sport' "$DIR/$backend-ear.log" | sort | uniq -c >"$DIR/$backend.ports"; done
[ -z "$(comm -12 <(awk '{print $2}' "$DIR/b1.ports") <(awk '{print $2}' "$DIR/b2.ports"))" ] || fail "a flow took both ways"
share=$(wc -l <"$DIR/b2.ports")
figure "a multipath route of weights 1 and 3: $((200 - share)) and $share of 200 flows"
[ "$share" -gt 110 ] && [ "$share" -lt 190 ] || fail "the weights are not kept"
