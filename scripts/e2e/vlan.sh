# Tagged frames belong to the port of their VLAN: they come in and go out tagged, and tags that are not ours are dropped.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
INTERFACES='[{name: eth0, vlans: [100]}, {name: eth1, vlans: [200]}]'
GUARD='10.244.0.0/24, 10.244.200.0/24, 198.51.100.0/24'
lab
host c1 out 11
host b1 in 11
# This kernel may lack VLAN devices: anything of the usual name stands for one, and says which addresses, routes and
# neighbours it has. The frames themselves are made and read raw.
at gw ip link add eth0.100 type veth peer name stand0
at gw ip link add eth1.200 type veth peer name stand1
for device in eth0.100 stand0 eth1.200 stand1; do ip -n "$LAB-gw" link set $device up; done
ip -n "$LAB-gw" address add 198.51.100.1/24 dev eth0.100
ip -n "$LAB-gw" address add 10.244.200.1/24 dev eth1.200
ip -n "$LAB-gw" neighbour add 198.51.100.11 lladdr "$(mac c1 eth0)" dev eth0.100
ip -n "$LAB-gw" neighbour add 10.244.200.11 lladdr "$(mac b1 eth0)" dev eth1.200
objects world <<END
apiVersion: v1
kind: Namespace
metadata: {name: lab}
END
start_gateway
gateway=$(mac gw eth0) inside=$(mac gw eth1)
# crosses DESCRIPTION FROM TO EXPECTED FRAME…: twenty frames from one host, and what comes of them at the other.
crosses() {
    local what=$1 from=$2 to=$3 expected=$4; shift 4
    start "$to" ear python3 "$E2E/frames.py" listen eth0 60 --proto udp --count 20
    eventually 5 grep -q listening "$DIR/ear.log"
    frames "$from" send eth0 "$@" --count 20
    eventually 3 eval '[ "$(grep -c sport "$DIR/ear.log")" = 20 ]'
    local seen; seen=$(jq -r 'select(.sport) | "\(.vlan // "no tag") \(.dst)"' "$DIR/ear.log" | sort -u)
    [ "$seen" = "$expected" ] || fail "$what: $seen instead of $expected"
    rm "$DIR/ear.log"
    figure "$what: 20 of 20 arrive with $seen"
}
crosses 'tag 100 to tag 200' c1 b1 '200 10.244.200.11' "$gateway" 198.51.100.11 10.244.200.11 --vlan 100 --sport 5000
crosses 'the replies, tag 200 to tag 100' b1 c1 '100 198.51.100.11' "$inside" 10.244.200.11 198.51.100.11 --vlan 200 --sport 7 --dport 5000
at gw ping -q -c 1 -W 2 10.244.0.11 >/dev/null
at gw ping -q -c 1 -W 2 192.0.2.11 >/dev/null
crosses 'tag 100 to no tag' c1 b1 'no tag 10.244.0.11' "$gateway" 198.51.100.11 10.244.0.11 --vlan 100 --sport 5001
crosses 'no tag to tag 200' c1 b1 '200 10.244.200.11' "$gateway" 192.0.2.11 10.244.200.11 --sport 5002
before=$(dropped VLAN_FILTERED)
frames c1 send eth0 "$gateway" 198.51.100.11 10.244.200.11 --vlan 300 --count 20
eventually 2 eval '[ "$(dropped VLAN_FILTERED)" = $((before + 20)) ]'
# The tag is part of where a packet comes from: a guarded source that comes by another VLAN is spoofed.
before=$(dropped INVALID_SOURCE_IP)
frames c1 send eth0 "$gateway" 10.244.200.12 10.244.0.11 --vlan 100 --sport 5003 --count 20
eventually 2 eval '[ "$(dropped INVALID_SOURCE_IP)" = $((before + 20)) ]'
