# Another `services.mode` after a restart: connections that are there keep their way back, in the next process and in the one after; new ones go the new way.
# Budget: 60 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
echo_server b1
# Between two processes the node's own address is the kernel's, which knows nothing of connections translated to it and resets one
# whose server sends again in that time. How long that is is the machine's: what is tested here are the ways.
at gw nft add table inet quiet
at gw nft add chain inet quiet out '{ type filter hook output priority 0; }'
at gw nft add rule inet quiet out tcp flags rst drop
objects world <<END
$(endpoint c1 11 out role: customer)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 TCP 11)
$(TARGET=7 service echo-udp 203.0.113.8 2001:db8:cafe::8 7 UDP 11)
END
by_mode() { SPEC="  services: {mode: $1, snatAddresses: [10.244.0.1, \"2001:db8:2::1\"]}"; start_gateway; }
# Whom the server has connections with, and how many.
seen() { at b1 ss -Htn state established 'sport = :7' | awk '{ sub(/^\[(::ffff:)?/, "", $4); sub(/\]?:[0-9]*$/, "", $4); print $4 }' | sort | uniq -c | awk '{ printf "%s x %s, ", $2, $1 }'; }
by_mode snat
talk c1 old4 tcp 203.0.113.7 7 --rate 100
talk c1 old6 tcp 2001:db8:cafe::7 7 --rate 100
talk c1 datagrams udp 203.0.113.8 7 --rate 100
for mode in dnat snat; do
    stop "$GATEWAY"
    by_mode $mode
    for name in old4 old6 datagrams; do goes_on $name 50; done
    talk c1 $mode tcp 203.0.113.7 7 --rate 100
    goes_on $mode 50
done
[ "$(seen)" = '10.244.0.1 x 2, 192.0.2.11 x 1, 2001:db8:2::1 x 1, ' ] || fail "the server sees $(seen)"
for name in old4 old6 dnat snat; do
    hush $name
    [ "$(said $name '"\(.error) \(.lost)"')" = 'null 0' ] || fail "the connection $name broke: $(cat "$DIR/$name.json")"
done
figure "snat, then dnat, then snat: connections of each go on, new ones go by the mode of the day"
