# Pings of services and hosts are answered, the gateway is a hop that traceroute sees, and unreachable ports say so through NAT.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11)
$(service none 203.0.113.9 2001:db8:cafe::9 80 TCP)
END
start_gateway
for address in 203.0.113.7 2001:db8:cafe::7 10.244.0.11 2001:db8:2::11 192.0.2.1 10.244.0.1; do
    at c1 ping -q -c 3 -i 0.05 -W 1 $address | grep -q ' 3 received' || fail "$address does not answer pings"
done
# A hop limit of one ends at the gateway, which says so with its own address; two reach the host.
one_hop() { at c1 ping -c 1 -W 1 -t 1 "$1" || true; }
[[ $(one_hop 10.244.0.11) == *'From 192.0.2.1 '*'Time to live exceeded'* ]] || fail "the gateway is no hop"
[[ $(one_hop 2001:db8:2::11) == *'From 2001:db8:1::1 '*'Time exceeded'* ]] || fail "the gateway is no hop, IPv6"
at c1 ping -q -c 1 -W 1 -t 2 10.244.0.11 | grep -q ' 1 received' || fail "two hops do not reach the host"
eventually 2 eval '[ "$(dropped TTL_EXCEEDED)" = 2 ]'

# Nobody listens at the backend: its error reaches the client as one of the service, about what the client sent.
for family in '192.0.2.11 203.0.113.7 icmp' '2001:db8:1::11 2001:db8:cafe::7 icmp6'; do
    read -r source vip proto <<<"$family"
    start c1 ear python3 "$E2E/frames.py" listen eth0 20 --proto "$proto"
    eventually 2 grep -q listening "$DIR/ear.log"
    frames c1 send eth0 "$(mac gw eth0)" "$source" "$vip" --sport 41000 --dport 7
    eventually 3 grep -q quoted "$DIR/ear.log"
    told=$(jq -c 'select(.quoted) | [.src, .quoted.src, .quoted.dst, .quoted.sport, .quoted.dport, .l4_ok]' "$DIR/ear.log" | head -n 1)
    [ "$told" = "[\"$vip\",\"$source\",\"$vip\",41000,7,true]" ] || fail "the error is not about what the client sent: $told"
    rm "$DIR/ear.log"
done
# A service without backends refuses at once.
status=0
at c1 curl -s --max-time 2 http://203.0.113.9/ || status=$?
[ $status = 7 ] || fail "a service without backends should refuse (curl's 7), not $status"
