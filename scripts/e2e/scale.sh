# 10,000 services of 10 backends are loaded and replaced whole under traffic: not one packet is lost, and the figures say where the time goes.
# Budget: 120 s
QUEUES=2
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
for n in $(seq 101 115); do ip -n "$LAB-b1" address add 10.244.0.$n/24 dev eth0; done
echo_server b1

# set SHIFT BACKENDS: 10,000 services; one of them leads to so many addresses of b1, the others to addresses that nobody has.
set_of() {
    python3 - "$1" "$2" <<'END'
import sys
shift, real = int(sys.argv[1]), int(sys.argv[2])
out = []
for n in range(10000):
    if n == 7:
        backends = [f"10.244.0.{101 + k}" for k in range(real)]
    else:
        first = n * 10 + shift
        backends = [f"10.{128 + (a >> 16)}.{a >> 8 & 255}.{a & 255}" for a in range(first, first + 10)]
    out.append(f"""---
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: lab}}
spec:
  type: LoadBalancer
  clusterIP: 10.{96 + (n >> 16)}.{n >> 8 & 255}.{n & 255}
  ports: [{{name: p, port: 7, targetPort: 7, protocol: UDP}}]
status: {{loadBalancer: {{ingress: [{{ip: 198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{n}-1, namespace: lab, labels: {{kubernetes.io/service-name: s{n}}}}}
addressType: IPv4
ports: [{{name: p, port: 7, protocol: UDP}}]
endpoints:
""" + "".join(f"  - {{addresses: [{ip}], conditions: {{ready: true}}}}\n" for ip in backends))
sys.stdout.write("".join(out))
END
}
endpoint c1 11 out 'app: client' | objects hosts
start_daemons
set_of 0 10 >"$DIR/one.yaml"
set_of 5000000 15 >"$DIR/two.yaml"
began=$(now_ms)
mv "$DIR/one.yaml" "$DIR/objects/services.yaml"
whole() { [ "$(status '.objects.services')" = 10000 ] && live; }
eventually 20 whole
figure "10,000 services live $(($(now_ms) - began)) ms after they were put in place"
talk c1 steady udp 198.18.0.7 7 --rate 1000
goes_on steady 500
before=$(generation)
began=$(now_ms)
mv "$DIR/two.yaml" "$DIR/objects/services.yaml"
eventually 20 eval "[ \$(generation) -gt $before ]"
figure "replaced whole $(($(now_ms) - began)) ms after they were put in place"
goes_on steady 500
hush steady
figure "steady: $(said steady '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"')"
cat $DIR/control.log
grep -h VmHWM /proc/$DATAPLANE/status /proc/$CONTROL/status
[ "$(said steady .lost)" = 0 ] || fail lost
