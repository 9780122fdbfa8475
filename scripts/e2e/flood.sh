# A SYN flood fills the flow table: half-open flows make room for each other, and established ones lose not one packet.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
MAX_FLOWS=2000
lab
host c1 out 11
host c2 out 12
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 TCP 11)
END
# The backend answers no strangers: the flood is the gateway's to bear.
ip -n "$LAB-b1" route add blackhole 198.18.0.0/15
start_gateway
talk c1 service tcp 203.0.113.7 7 --rate 200
talk c1 datagrams udp 10.244.0.11 7 --rate 200
goes_on service 50
goes_on datagrams 50
sent=$(frames c2 flood eth0 "$(mac gw eth0)" 203.0.113.7 7 --count 60000 --rate 20000)
goes_on service 50
goes_on datagrams 50
flows=$(counter flows) most=$(counter flows_max) created=$(counter flows_created) evicted=$(counter flows_evicted)
[ "$flows" -le "$most" ] || fail "$flows flows where $most are the most"
[ "$created" -gt $((most * 2)) ] || fail "the flood made only $created flows: the table was never full"
[ "$evicted" -gt 0 ] || fail "no half-open flow made room"
lossless datagrams
lossless service
figure "$(jq -r '"\(.sent) SYNs in \(.seconds) s"' <<<"$sent"): $created flows admitted, $evicted evicted, $(dropped CT_MAP_INSERTION_FAILED) refused; the established conversations lost 0 of $(($(said service .sent) + $(said datagrams .sent)))"
