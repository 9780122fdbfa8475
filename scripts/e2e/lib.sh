# What scenarios share: a lab of network namespaces, the gateway in it, and questions to both.
#
#   c1 192.0.2.11 ─┐                                   ┌─ b1 10.244.0.11
#   c2 192.0.2.12 ─┴─ out ── eth0 [gw] eth1 ── in ─────┴─ b2 10.244.0.12      (IPv6: 2001:db8:1:: and 2001:db8:2::)
#
# A scenario sources this file, says what differs from the defaults (MTU, QUEUES, WORKERS, …), calls `lab`, `host`s and
# `start_gateway`, and then asks and compares. Everything goes away by itself, also after a failure. Names, pins, sockets
# and files carry the process id, so that labs can be up side by side.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

BIN=${SLUICE_BIN:-$PWD/target/lab}
E2E=$PWD/scripts/e2e
LAB=sl-$(basename "$0" .sh | tr -dc 'a-z0-9' | cut -c1-8)-$$
DIR=$(mktemp -d "/tmp/$LAB.XXXX")
PINS=/sys/fs/bpf/sluice/$LAB

MTU=1500            # of every device
QUEUES=1            # of the gateway's devices
WORKERS=1           # `workers.cores`
POLL=adaptive
ON_FAILURE=drop
MAX_FLOWS=100000
GUARD='10.244.0.0/24, "2001:db8:2::/64"'
INTERFACES='[{name: eth0}, {name: eth1}]'
SPEC=               # further lines under `spec:`, indented by two

NAMESPACES=()
PIDS=()

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf '%s\n' "$*"; exit 77; }
figure() { printf 'figure: %s\n' "$*"; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# eventually SECONDS COMMAND…: until the command succeeds; what it says is shown only when it never does. The seconds are
# those of an idle machine: one that builds something else meanwhile has five times as long.
eventually() {
    local until=$(($(now_ms) + $1 * 5000)); shift
    until "$@" >"$DIR/eventually" 2>&1; do
        [ "$(now_ms)" -lt $until ] || { cat "$DIR/eventually" >&2; fail "never came true: $*"; }
        sleep 0.02
    done
}

# --- the lab ---------------------------------------------------------------------------------------------------------

# A command on a host. Only the network is the host's: what the gateway pins must outlive the process that pinned it.
at() { local host=$1; shift; nsenter "--net=/run/netns/$LAB-$host" "$@"; }

# start HOST NAME COMMAND…: in the background, its output in $DIR/NAME.log, its process id in $PID.
start() {
    local host=$1 name=$2; shift 2
    nsenter "--net=/run/netns/$LAB-$host" "$@" >>"$DIR/$name.log" 2>&1 </dev/null &
    PID=$!
    PIDS+=("$PID")
}

namespace() {
    ip netns add "$LAB-$1"
    NAMESPACES+=("$LAB-$1")
    at "$1" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip -n "$LAB-$1" link set lo up
}

# cable SWITCH HOST DEVICE ADDRESS…: between a port of a switch (named after the host) and a device of the host. Senders
# fill in checksums, tags and cut to the MTU, as on a wire: what skips the kernel's stack finds nobody who does it later.
cable() {
    local switch=$LAB-$1 host=$LAB-$2 port=$2 device=$3 address; shift 3
    local queues="numtxqueues $QUEUES numrxqueues $QUEUES"
    ip -n "$switch" link add "$port" mtu "$MTU" $queues type veth peer name "$device" mtu "$MTU" $queues netns "$host"
    ip -n "$switch" link set "$port" master br0 up
    for address in "$@"; do
        case $address in *:*) ip -n "$host" address add "$address" dev "$device" nodad ;; *) ip -n "$host" address add "$address" dev "$device" ;; esac
    done
    ip -n "$host" link set "$device" up
    nsenter "--net=/run/netns/$switch" ethtool -K "$port" tx off tso off gso off gro off txvlan off >/dev/null
    nsenter "--net=/run/netns/$host" ethtool -K "$device" tx off tso off gso off gro off txvlan off >/dev/null
}

# lab: the gateway with a leg into each of two switches, and nothing else.
lab() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    local segment
    namespace gw
    at gw sysctl -qw net.ipv4.ip_forward=0 # the kernel forwards nothing: what crosses the gateway crossed Sluice
    for segment in out in; do
        namespace $segment
        # A switch has no opinion about IP: it passes on what the gateway is to refuse.
        at $segment sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true
        ip -n "$LAB-$segment" link add br0 mtu "$MTU" type bridge
        ip -n "$LAB-$segment" link set br0 up
    done
    cable out gw eth0 192.0.2.1/24 2001:db8:1::1/64
    cable in gw eth1 10.244.0.1/24 2001:db8:2::1/64
}

# host NAME out|in NUMBER: a host behind that device of the gateway, with an address of each family that ends in NUMBER.
host() {
    local net4=192.0.2 net6=2001:db8:1:
    [ "$2" = out ] || { net4=10.244.0; net6=2001:db8:2:; }
    namespace "$1"
    cable "$2" "$1" eth0 "$net4.$3/24" "$net6:$3/64"
    ip -n "$LAB-$1" route add default via "$net4.1"
    ip -6 -n "$LAB-$1" route add default via "$net6:1"
}

# direct_host NAME NUMBER ADDRESS…: as `host` behind the gateway, with services' addresses as its own. What it sends as itself
# goes by the gateway, what it sends as a service straight to the clients, on whose link it answers for none of the addresses.
direct_host() {
    local name=$1 number=$2 address; shift 2
    host "$name" in "$number"
    cable out "$name" eth1 "192.0.2.$((10 + number))/24" "2001:db8:1::$((10 + number))/64"
    at "$name" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 \
        net.ipv4.conf.eth1.rp_filter=0 net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    for address in "$@"; do ip -n "$LAB-$name" address add "$address" dev lo; done
    ip -n "$LAB-$name" rule add from 10.244.0.0/24 lookup 100
    ip -n "$LAB-$name" route add default via 10.244.0.1 table 100
    ip -6 -n "$LAB-$name" rule add from 2001:db8:2::/64 lookup 100
    ip -6 -n "$LAB-$name" route add default via 2001:db8:2::1 table 100
}

# web HOST…: an HTTP server on port 8080 that answers with the host's name.
web() {
    local host
    for host in "$@"; do
        start "$host" "$host-web" "$BIN/sluice" demo-backend "$host" 8080
        eventually 15 listens "$host" tcp 8080
    done
}

# listens HOST tcp|udp PORT
listens() { [ -n "$(at "$1" ss -Hln "--$2" "sport = :$3")" ]; }

# fetch HOST URL: the body; fails within two seconds when there is none.
fetch() { at "$1" curl -sS --max-time 2 "$2"; }

# echo_server HOST…: UDP and TCP on port 7 come back as they went.
echo_server() {
    local host
    for host in "$@"; do
        start "$host" "$host-echo" python3 "$E2E/talk.py" serve 7
        eventually 15 listens "$host" tcp 7
    done
}

# far_end HOST NUMBER: the host of that number behind the gateway understands how it is told to answer c1 itself. What comes
# for it is kept from the kernel, which gets what far_end.py makes of it.
far_end() {
    [ -c /dev/net/tun ] || skip "needs /dev/net/tun"
    at "$1" nft -f - <<END
table inet apart {
    chain in {
        type filter hook prerouting priority raw;
        iifname eth0 ip protocol 4 drop
        iifname eth0 meta l4proto 41 drop
        iifname eth0 udp dport 6081 drop
        iifname eth0 ip saddr 192.0.2.11 ip daddr 10.244.0.$2 drop
        iifname eth0 ip6 saddr 2001:db8:1::11 ip6 daddr 2001:db8:2::$2 drop
    }
}
END
    start "$1" "$1-far-end" python3 "$E2E/far_end.py" eth0 tun0 "$DIR/$1.told"
    eventually 15 [ -s "$DIR/$1.told" ]
}
# told_by_kind HOST…: how often their far ends understood each kind, in sum. told_only KIND BEFORE HOST…: since it was so,
# that kind and no other.
told_by_kind() { (cd "$DIR" && jq -cs 'map(to_entries[]) | group_by(.key) | map({(.[0].key): (map(.value) | add)}) | add' "${@/%/.told}"); }
told_only() {
    local kind=$1 before=$2; shift 2
    jq -e --arg kind "$kind" --argjson before "$before" '. as $now | [keys[] | select($now[.] > $before[.])] == [$kind]' <<<"$(told_by_kind "$@")" >/dev/null
}

# talk HOST NAME udp|tcp ADDRESS PORT [--rate N] [--size N]: a numbered conversation with an echo server in the background.
# `said NAME FILTER` asks how it goes, `hush NAME` ends it; see talk.py for what is told.
declare -A TALKS
talk() {
    local host=$1 name=$2 kind=$3 address=$4 port=$5; shift 5
    start "$host" "$name" python3 "$E2E/talk.py" "$kind" "$address" "$port" "$DIR/$name.json" "$@"
    TALKS[$name]=$PID
    eventually 15 heard "$name" 1
}
said() { jq -r "$2" "$DIR/$1.json"; }
# heard NAME COUNT: have so many come back?
heard() { [ -s "$DIR/$1.json" ] && [ "$(said "$1" .received)" -ge "$2" ]; }
# goes_on NAME [COUNT]: more come back, from now.
goes_on() { eventually 5 heard "$1" $(($(said "$1" .received) + ${2:-20})); }
hush() { stop "${TALKS[$1]}"; [ "$(said "$1" .done)" = true ] || fail "$1 did not end in order"; }
# lossless NAME: end it, and not one was lost.
lossless() {
    hush "$1"
    [ "$(said "$1" '"\(.lost) \(.error)"')" = '0 null' ] || fail "$1 lost packets: $(cat "$DIR/$1.json")"
}

frames() { local host=$1; shift; at "$host" python3 "$E2E/frames.py" "$@"; }
mac() { at "$1" ip -j link show dev "$2" | jq -r .[0].address; }

# --- the gateway -----------------------------------------------------------------------------------------------------

# objects NAME <<END: (re)place a file of objects, in one step.
objects() {
    mkdir -p "$DIR/objects"
    cat >"$DIR/$1.new"
    mv "$DIR/$1.new" "$DIR/objects/$1.yaml"
}

# An Endpoint for a host of the lab: endpoint NAME NUMBER out|in LABELS
endpoint() {
    local net4=192.0.2 net6=2001:db8:1:
    [ "$3" = out ] || { net4=10.244.0; net6=2001:db8:2:; }
    printf -- '---\napiVersion: sluice.dev/v1\nkind: Endpoint\nmetadata: {name: %s, namespace: lab, labels: {%s}}\n' "$1" "${*:4}"
    printf 'spec: {addresses: [%s.%s, "%s:%s"]}\n' $net4 "$2" $net6 "$2"
}

# front NAME VIP4 VIP6 PORTS FIELD…: a Service with further fields of its spec, and ANNOTATIONS; `slices` are behind it.
front() {
    cat <<END
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: lab, annotations: {${ANNOTATIONS:-}}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.${2##*.}
  clusterIPs: [10.96.0.${2##*.}, "2001:db8:96::${2##*.}"]
  ports: [$4]
$(printf '  %s\n' "${@:5}")
status: {loadBalancer: {ingress: [{ip: $2}, {ip: "$3"}]}}
END
}

# slices NAME PORTS BACKEND-NUMBER…
slices() {
    local name=$1 ports=$2 family number; shift 2
    for family in IPv4 IPv6; do
        printf -- '---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n'
        printf 'metadata: {name: %s-%s, namespace: lab, labels: {kubernetes.io/service-name: %s}}\n' "$name" "${family,,}" "$name"
        printf 'addressType: %s\nports: [%s]\nendpoints:\n' $family "$ports"
        for number in "$@"; do
            if [ $family = IPv4 ]; then number=10.244.0.$number; else number="\"2001:db8:2::$number\""; fi
            printf '  - {addresses: [%s], conditions: {ready: true}}\n' "$number"
        done
    done
}

# service NAME VIP4 VIP6 PORT PROTO BACKEND-NUMBER…: on port 8080 of its backends (TARGET overrides).
service() {
    front "$1" "$2" "$3" "{name: p, port: $4, targetPort: ${TARGET:-8080}, protocol: $5}"
    slices "$1" "{name: p, port: ${TARGET:-8080}, protocol: $5}" "${@:6}"
}

# A device without a link-local address asks for no neighbours yet: the first packets would wait a second.
has_link_local() { [ "$(ip -6 -n "$LAB-gw" address show scope link | grep -c 'scope link *$')" -ge "$(ip -n "$LAB-gw" link show type veth up | grep -c '^[0-9]')" ]; }

configure() {
    eventually 5 has_link_local
    mkdir -p "$DIR/objects"
    cat >"$DIR/gateway.yaml" <<END
apiVersion: sluice.dev/v1
kind: Gateway
metadata: {name: $LAB}
spec:
  node: $LAB
  objects: {files: [$DIR/objects/]}
  interfaces: $INTERFACES
  workers: {cores: $WORKERS, poll: $POLL}
  guard: {prefixes: [$GUARD], onFailure: $ON_FAILURE}
  flows: {max: $MAX_FLOWS, snapshot: $DIR/flows}
  api: {socket: $DIR/control.sock, metrics: "127.0.0.1:9965"}
$SPEC
END
}

# Both daemons under their supervisor, ready; its process id in $GATEWAY.
start_gateway() {
    configure
    start gw gateway "$BIN/sluice" run --config "$DIR/gateway.yaml"
    GATEWAY=$PID
    eventually 15 ready
}

# The daemons by themselves, to be killed one by one: $DATAPLANE and $CONTROL.
start_dataplane() {
    configure
    "$BIN/sluice" config dataplane "$DIR/gateway.yaml" >"$DIR/dataplane.json"
    start gw dataplane "$BIN/sluiced" --settings "$DIR/dataplane.json"
    DATAPLANE=$PID
}
start_control() {
    start gw control "$BIN/sluice-control" --config "$DIR/gateway.yaml"
    CONTROL=$PID
}
start_daemons() {
    start_dataplane
    start_control
    eventually 15 ready
}

# stop PID [SIGNAL]: and wait until it is gone.
stop() { kill "-${2:-TERM}" "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }

sluice() { at gw "$BIN/sluice" --socket "$DIR/control.sock" "$@"; }
ready() { at gw curl -sf --max-time 2 http://127.0.0.1:9965/readyz; }
# status FILTER: of `sluice status`, by jq.
status() { sluice status -o json | jq -r "$1"; }
# dropped REASON: packets so far, of all workers.
dropped() { status "[.dataplane.workers[].dropped.$1 // 0] | add"; }
# counter NAME: of all workers.
counter() { status "[.dataplane.workers[].$1] | add"; }
# metric 'NAME{LABELS}': one sample.
metric() { sluice metrics | awk -v name="$1" 'index($0, name " ") == 1 { print $NF }'; }
# live: is what lies in the objects folder what the workers go by? (Asked after a change, not before.)
live() { [ "$(status '[.ready, .generation, .acknowledged, .dataplane.generation] | "\(.[0]) \(.[1] == .[2] and .[2] == .[3])"')" = 'true true' ]; }
generation() { status .acknowledged; }
# change NAME <<END: as `objects`, and wait until it is live.
change() {
    local before; before=$(generation)
    objects "$1"
    eventually 5 eval "[ \$(generation) -gt $before ]"
}

# --- the end -----------------------------------------------------------------------------------------------------------

descendants() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do descendants "$child"; echo "$child"; done
}

clean_up() {
    local status=$? pid all=() namespace file
    trap - EXIT TERM INT HUP
    set +e
    if [ $status != 0 ] && [ $status != 77 ]; then
        [ ! -S "$DIR/control.sock" ] || status '.dataplane | {workers, devices}' 2>/dev/null | jq -c 'walk(if type == "object" then del(.. | select(. == 0)) else . end)'
        for file in "$DIR"/*.log; do [ -s "$file" ] && { echo "--- ${file##*/}"; tail -n 15 "$file"; }; done
    fi
    for pid in "${PIDS[@]}"; do all+=($(descendants "$pid") "$pid"); done
    [ ${#all[@]} = 0 ] || kill -TERM "${all[@]}" 2>/dev/null
    for _ in $(seq 50); do
        kill -0 "${all[@]}" 2>/dev/null || break
        sleep 0.02
    done
    [ ${#all[@]} = 0 ] || kill -KILL "${all[@]}" 2>/dev/null
    wait 2>/dev/null
    for namespace in "${NAMESPACES[@]}"; do ip netns delete "$namespace" 2>/dev/null; done
    rm -rf "$DIR" "$PINS"
    exit $status
}
trap clean_up EXIT
trap 'exit 143' TERM INT HUP
