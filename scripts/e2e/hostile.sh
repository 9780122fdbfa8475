# Frames with wrong checksums, lying lengths, spoofed and impossible sources end at the gateway, each counted for what it is.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
GUARD='10.244.0.0/24, 192.0.2.0/24, "2001:db8:2::/64"'
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11)
END
start_gateway
talk c1 beside udp 10.244.0.11 7 --rate 100
start b1 ear python3 "$E2E/frames.py" listen eth0 25 --proto udp
eventually 2 grep -q listening "$DIR/ear.log"
gateway=$(mac gw eth0)
# ends REASON DESCRIPTION OPTIONS…: twenty such frames, and exactly twenty more of that reason.
ends() {
    local reason=$1 what=$2 before; shift 2
    before=$(dropped "$reason")
    frames c1 send eth0 "$gateway" "$@" --dport 666 --count 20 --step 1
    eventually 2 eval "[ \$(dropped $reason) = $((before + 20)) ]"
    figure "$what: 20 of 20 are $reason"
}
ends INVALID_PACKET_DROPPED 'a wrong IP checksum' 192.0.2.11 10.244.0.11 --bad ip
ends INVALID_PACKET_DROPPED 'an IP length beyond the frame' 192.0.2.11 10.244.0.11 --lie 100
ends INVALID_PACKET_DROPPED 'an IPv6 length beyond the frame' 2001:db8:1::11 2001:db8:2::11 --lie 100
ends INVALID_PACKET_DROPPED 'SYN and FIN at once' 192.0.2.11 10.244.0.11 --proto tcp --flags SF
ends INVALID_SOURCE_IP 'an inside source from outside' 10.244.0.12 10.244.0.11
ends INVALID_SOURCE_IP 'an inside source from outside, IPv6' 2001:db8:2::12 2001:db8:2::11
ends INVALID_SOURCE_IP 'the address of a service as source' 203.0.113.7 10.244.0.11
ends INVALID_SOURCE_IP 'the gateway itself as source' 10.244.0.1 10.244.0.11
ends INVALID_SOURCE_IP 'a loopback source' 127.0.0.1 10.244.0.11
ends INVALID_SOURCE_IP 'a multicast source' 224.0.0.5 10.244.0.11
goes_on beside 50
lossless beside
through=$(jq -s 'map(select(.dport == 666)) | length' "$DIR/ear.log")
[ "$through" = 0 ] || fail "$through of them reached the backend"
# A wrong TCP or UDP checksum is for the ends to find: the gateway changes it by what it changed, and it stays wrong.
frames c1 send eth0 "$gateway" 192.0.2.11 203.0.113.7 --dport 7 --bad l4 --sport 42000
eventually 2 eval 'jq -e "select(.sport == 42000 and .l4_ok == false)" "$DIR/ear.log" >/dev/null'
