# Backends on a plain kernel are told in IP-in-IP, or by an option of the IP header, and answer past the gateway.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
SPEC='  services: {mode: dsr, bpf-lb-dsr-dispatch: ipip}'
GUARD=10.99.0.0/16
lab
host c1 out 11
# What it answers never meets the gateway.
direct_host b1 11 203.0.113.80 2001:db8:cafe::80
far_end b1 11
web b1
echo_server b1
objects world <<END
$(service web 203.0.113.80 2001:db8:cafe::80 8080 TCP 11)
$(TARGET=7 service echo 203.0.113.80 2001:db8:cafe::80 7 TCP 11)
END
start_gateway

# What leaves the gateway on either side, as others read it.
start in in-capture tcpdump -i gw -U -s 120 -c 3000 -w "$DIR/in.pcap"
start out out-capture tcpdump -i gw -U -s 120 -c 3000 -w "$DIR/out.pcap"
eventually 5 grep -q listening "$DIR/out-capture.log"
eventually 5 grep -q listening "$DIR/in-capture.log"
seen() { [ "$(tshark -r "$DIR/$1.pcap" -Y "$2" 2>/dev/null | wc -l)" "$3" "$4" ]; }

for url in 203.0.113.80:8080 '[2001:db8:cafe::80]:8080'; do
    [ "$(fetch c1 "http://$url/")" = b1 ] || fail "no answer from $url"
done
talk c1 v4 tcp 203.0.113.80 7 --rate 200
talk c1 v6 tcp 2001:db8:cafe::80 7 --rate 200
goes_on v4
goes_on v6
lossless v4
lossless v6
eventually 5 seen in 'ip.proto == 4 && tcp.dstport == 8080 && ip.src == 10.244.0.1 && ip.dst == 10.244.0.11 && ip.dst == 203.0.113.80' -ge 4
eventually 5 seen in 'ipv6.nxt == 41 && tcp.dstport == 8080 && ipv6.dst == 2001:db8:2::11 && ipv6.dst == 2001:db8:cafe::80' -ge 4
seen out 'ip.src == 203.0.113.80 || ipv6.src == 2001:db8:cafe::80' = 0 || fail "replies came by the gateway"

# A large upload: segments that do not fit the tunnel are answered by ICMP, and the client sends smaller ones.
at b1 python3 -c 'import socket
server = socket.create_server(("203.0.113.80", 9000))
got, conn = 0, server.accept()[0]
while part := conn.recv(1 << 16): got += len(part)
print(got, flush=True)' >"$DIR/upload" 2>&1 &
PIDS+=($!)
eventually 5 listens b1 tcp 9000
change large <<END
$(TARGET=9000 service large 203.0.113.80 2001:db8:cafe::80 9000 TCP 11)
END
before=$(now_ms)
head -c 20000000 /dev/zero | at c1 timeout 15 python3 -c 'import socket, sys
conn = socket.create_connection(("203.0.113.80", 9000))
conn.sendall(sys.stdin.buffer.read())
conn.close()' || fail "the upload broke off"
eventually 5 grep -qx 20000000 "$DIR/upload"
figure "20 MB by IP-in-IP in $(($(now_ms) - before)) ms, $(dropped CT_MISSING_TCP_ACK_FLAG) segments were too large and answered"
[ "$(dropped CT_MISSING_TCP_ACK_FLAG)" -gt 0 ] || fail "nothing was too large"

# The option, as tshark reads it; the numbers have their low bytes first.
stop "$GATEWAY"
SPEC='  services: {mode: dsr}'
start_gateway
start in option-capture tcpdump -i gw -U -s 120 -c 200 -w "$DIR/option.pcap"
eventually 5 grep -q listening "$DIR/option-capture.log"
at c1 curl -s --max-time 0.5 http://203.0.113.80:8080/ || true
at c1 curl -s --max-time 0.5 'http://[2001:db8:cafe::80]:8080/' || true
eventually 5 seen option 'ip.hdr_len == 28 && frame[34:8] == 9a:08:90:1f:50:71:00:cb && ip.dst == 10.244.0.11 && tcp.flags.syn == 1' -ge 1
eventually 5 seen option 'ipv6.opt.type == 0x1b && ipv6.opt.length == 20 && ipv6.dst == 2001:db8:2::11' -ge 1
