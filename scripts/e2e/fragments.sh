# Fragments follow their first one through a service in both families; those that come before it, or overlap, are dropped with their reason.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
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
# Datagrams of 4000 bytes: the client's kernel cuts them in three, the backend's puts them together and answers in three.
for address in 203.0.113.7 2001:db8:cafe::7; do
    talk c1 large udp $address 7 --size 4000 --rate 100
    goes_on large 30
    lossless large
done

gateway=$(mac gw eth0)
cut() { # cut SOURCE DESTINATION PIECES…: a datagram of 1208 bytes
    local source=$1 destination=$2; shift 2
    frames c1 send eth0 "$gateway" "$source" "$destination" --dport 7 --size 1200 "$@"
}
tried=0
refused() { # refused REASON COUNT COMMAND…
    local reason=$1 count=$2 before; shift 2
    before=$(dropped "$reason")
    "$@"
    eventually 2 eval "[ \$(dropped $reason) = $((before + count)) ]"
}
for family in '192.0.2.11 203.0.113.7' '2001:db8:1::11 2001:db8:cafe::7'; do
    # A first one, then the rest in any order: all go through, and the datagram is answered.
    start c1 ear python3 "$E2E/frames.py" listen eth0 20 --proto udp --count 1
    eventually 2 grep -q listening "$DIR/ear.log"
    cut $family --fragments 0+400,800+408,400+400
    eventually 2 grep -q '"sport": 7' "$DIR/ear.log"
    rm "$DIR/ear.log"
    # Later ones first: nobody knows yet whose they are.
    refused FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND 2 cut $family --fragments 400+400,800+408,0+400
    # One that overlaps poisons the datagram: it and all that follow are dropped.
    refused IP_FRAGMENTATION_NOT_SUPPORTED 2 cut $family --fragments 0+400,392+408,800+408
    # The same piece twice is an overlap, too; so is a second first one.
    refused IP_FRAGMENTATION_NOT_SUPPORTED 2 cut $family --fragments 0+400,0+400,800+408
    tried=$((tried + 1))
done
figure "in order, out of order and overlapping, in $tried families; $(status '[.dataplane.workers[].fragments] | add') datagrams still remembered"
