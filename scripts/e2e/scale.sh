# 10,000 services of 10 backends are loaded and replaced whole under traffic without one lost packet, started with in a second or so, and cost nothing while idle.
# Budget: 120 s
. "$(dirname "$0")/lib.sh"
POLL=sleep
lab
host c1 out 11
host b1 in 11
for n in $(seq 101 115); do ip -n "$LAB-b1" address add 10.244.0.$n/24 dev eth0; done
echo_server b1

# set_of SHIFT COUNT: 10,000 services. One of them has so many addresses of b1 behind it; the backends of the others are
# where nobody is, and another SHIFT is other backends.
set_of() {
    python3 - "$1" "$2" <<'END'
import sys
shift, real = int(sys.argv[1]), int(sys.argv[2])
for n in range(10000):
    backends = [f"10.{128 + (a >> 16)}.{a >> 8 & 255}.{a & 255}" for a in range(n * 10 + shift, n * 10 + shift + 10)]
    if n == 7:
        backends = [f"10.244.0.{101 + k}" for k in range(real)]
    sys.stdout.write(f"""---
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: lab}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.{n >> 8}.{n & 255}
  ports: [{{name: p, port: 7, targetPort: 7, protocol: UDP}}]
status: {{loadBalancer: {{ingress: [{{ip: 198.18.{n >> 8}.{n & 255}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{n}-1, namespace: lab, labels: {{kubernetes.io/service-name: s{n}}}}}
addressType: IPv4
ports: [{{name: p, port: 7, protocol: UDP}}]
endpoints:
""" + "".join(f"  - {{addresses: [{ip}], conditions: {{ready: true}}}}\n" for ip in backends))
END
}
set_of 0 10 >"$DIR/one.yaml"
set_of 5000000 15 >"$DIR/two.yaml"
lines=$(wc -c <"$DIR/one.yaml")
# The daemons' own account of the latest generation. In the dataplane it is from the last byte to every worker.
span_ms() { awk -v us="$(metric "sluice_generation_$1_microseconds")" 'BEGIN { printf "%.1f", us / 1000 }'; }
live_ms() { span_ms live; }
spans() { echo "$(span_ms read) ms reading, $(span_ms compiled) ms compiling, $(live_ms) ms in the dataplane"; }
# The scheduler's own account, to the nanosecond, of all threads.
cpu_us() { cat "/proc/$1"/task/*/schedstat | awk '{ all += $1 } END { printf "%d", all / 1000 }'; }
peak() { awk '/VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$1/status"; }

endpoint c1 11 out 'app: client' | objects hosts
start_daemons
# Everybody knows everybody: what is measured is not how long neighbours are looked for.
at c1 ping -qc 1 10.244.0.11 >/dev/null || fail "the hosts do not reach each other"
began=$(now_ms)
mv "$DIR/one.yaml" "$DIR/objects/services.yaml"
whole() { [ "$(status '.objects.services')" = 10000 ] && live; }
eventually 20 whole
loaded=$(($(now_ms) - began))
figure "10,000 services of 10 backends ($((lines >> 20)) MiB of YAML): live $loaded ms after they were put in place, of that $(spans) (goal: 1000)"

# Rows that no flow asks for are built as well, when there is nothing else to do.
rows_built() { [ "$(status .dataplane.tables.maglev_rows_pending)" = 0 ]; }
began=$(now_ms)
eventually 30 rows_built
figure "all Maglev rows were there $(($(now_ms) - began)) ms later; memory at most: dataplane $(peak "$DATAPLANE") MiB"

# One flow that stays, and new ones all the time.
talk c1 steady udp 198.18.0.7 7 --rate 1000
talk c1 fresh udp 198.18.0.7 7 --rate 200 --ports 2000
goes_on steady 500
before=$(generation)
began=$(now_ms)
mv "$DIR/two.yaml" "$DIR/objects/services.yaml"
eventually 20 eval "[ \$(generation) -gt $before ]"
figure "replaced whole under traffic: live $(($(now_ms) - began)) ms after the new set was put in place, of that $(spans) (goal: 50)"
goes_on steady 1000
for name in steady fresh; do
    lossless $name
    figure "meanwhile, $name: $(said $name '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"')"
done

# shares: what both daemons take of a core while nothing comes.
shares() {
    local dataplane control began passed
    dataplane=$(cpu_us "$DATAPLANE") control=$(cpu_us "$CONTROL") began=$(now_ms)
    sleep 5
    passed=$(($(now_ms) - began))
    awk -v d=$(($(cpu_us "$DATAPLANE") - dataplane)) -v c=$(($(cpu_us "$CONTROL") - control)) -v passed=$passed \
        'BEGIN { printf "%.2f %.2f", d / 10 / passed, c / 10 / passed }'
}
eventually 30 rows_built
read -r idle control <<<"$(shares)"
figure "idle in sleep mode: the dataplane takes $idle % of a core, control $control % (goal: 1)"
figure "memory at most: dataplane $(peak "$DATAPLANE") MiB, control $(peak "$CONTROL") MiB"

# From nothing: both processes read what there is, and the first packet comes back.
stop "$CONTROL"
stop "$DATAPLANE"
start c1 knock python3 -u -c '
import socket, time
knocking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
knocking.settimeout(0.002)
while True:
    knocking.sendto(b"x", ("198.18.0.7", 7))
    try:
        knocking.recv(1)
        break
    except (TimeoutError, ConnectionRefusedError):
        time.sleep(0.002)
print(int(time.time() * 1000))'
: >"$DIR/knock.log"
jq '.polling = "adaptive"' "$DIR/dataplane.json" >"$DIR/adaptive.json"
began=$(now_ms)
start gw dataplane "$BIN/sluiced" --settings "$DIR/adaptive.json"; DATAPLANE=$PID
start_control
eventually 15 [ -s "$DIR/knock.log" ]
cold=$(($(cat "$DIR/knock.log") - began))
figure "cold start: the first packet came back $cold ms after both processes were started (goal: 1000)"
eventually 15 whole
eventually 30 rows_built
read -r adaptive control <<<"$(shares)"
figure "idle with adaptive polling: $adaptive %"

stop "$CONTROL"
stop "$DATAPLANE"
jq '.polling = "busy"' "$DIR/dataplane.json" >"$DIR/busy.json"
start gw dataplane "$BIN/sluiced" --settings "$DIR/busy.json"; DATAPLANE=$PID
start_control
eventually 15 whole
eventually 30 rows_built
read -r busy control <<<"$(shares)"
figure "idle with busy polling: $busy %, one worker"

# The goals are for a machine that does nothing else; here wide margins tell a mistake from noise.
[ $loaded -le 6000 ] || fail "loading takes $loaded ms"
[ $cold -le 6000 ] || fail "a cold start takes $cold ms"
awk -v ms="$(live_ms)" 'BEGIN { exit !(ms <= 1500) }' || fail "the dataplane takes $(live_ms) ms for a set"
awk -v idle="$idle" 'BEGIN { exit !(idle <= 10) }' || fail "an idle gateway takes $idle % of a core"
