# What `sluice policies`, `identities`, `endpoints`, `names`, `flows` and `status` tell of a gateway with a bit of everything.
# Budget: 30 s
. "$(dirname "$0")/lib.sh"
command -v dnsmasq >/dev/null || skip "needs dnsmasq"

lab
host client out 11
host dns out 53
host web in 80
host back in 81
web web back
echo '192.0.2.11 www.svc.example' >"$DIR/hosts"
start dns dnsmasq dnsmasq -k -C /dev/null -h -R -u root --pid-file="$DIR/dnsmasq.pid" --local-ttl=300 --addn-hosts="$DIR/hosts" --cache-size=0
eventually 5 listens dns udp 53

objects world <<END
$(endpoint web 80 in "app: web, tier: data")
$(endpoint back 81 in app: back | sed 's/namespace: lab,/namespace: lab, annotations: {policy.sluice.dev\/audit-mode: enabled},/')
END
objects policy <<END
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromCIDR: [192.0.2.11/32]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
  egress:
    - toCIDR: [192.0.2.53/32]
      toPorts:
        - ports: [{port: "53", protocol: UDP}]
          rules: {dns: [{matchPattern: "*.svc.example"}]}
    - toFQDNs: [{matchPattern: "*.svc.example"}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: back}}
  ingress: [{}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nobody, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: gone}}
  ingress: [{}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: hosts}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress: [{fromEntities: [cluster]}]
END
start_gateway
fetch client http://10.244.0.80:8080 >/dev/null
[ "$(at web dig +time=2 +tries=1 +short @192.0.2.53 www.svc.example)" = 192.0.2.11 ] || fail "no answer over the gateway"

# shows COMMAND… : PATTERN — the table has a line that the pattern fits.
shows() { local pattern=${*: -1}; sluice "${@:1:$#-1}" | grep -qE "$pattern" || { sluice "${@:1:$#-1}"; fail "no line like $pattern"; }; }
# answers CODE COMMAND… — the exit code.
answers() { local code=0; sluice "${@:2}" >"$DIR/out" 2>"$DIR/err" || code=$?; [ "$code" = "$1" ] || fail "$code, not $1: ${*:2}: $(cat "$DIR/err")"; }

shows policies '^CiliumNetworkPolicy +lab +names +app=web and [^ ]+ +1 +1 +2 +ingress,egress +yes$'
shows policies '^CiliumNetworkPolicy +lab +nobody .* 0 +0 +0 +ingress +no: selects nobody$'
shows policies '^CiliumClusterwideNetworkPolicy +- +hosts .* no: host policies are judged offline only$'
sluice policies lab/names -o json | jq -e '.[0] | .selects == 1 and .default_deny.egress and .tier == "Normal" and (.at | endswith("policy.yaml:5"))' >/dev/null || fail "policies -o json: $(sluice policies lab/names -o json)"
shows endpoints '^lab +web +10.244.0.80,2001:db8:2::80 +[0-9]+ +enforced +enforced$'
shows endpoints '^lab +back +[^ ]+ +[0-9]+ +audit +open$'
sluice endpoints lab/web -o json | jq -e '.[0] | .ingress_enforced and .ingress_enforced_by[0].name == "names" and (.labels | index("k8s:tier=data"))' >/dev/null || fail "endpoints -o json: $(sluice endpoints lab/web -o json)"
shows identities k8s:app=web '^[0-9]+ +k8s:app=web,.*k8s:tier=data'
[ "$(sluice identities app=web | wc -l)" = 2 ] || fail "one label, one identity"
shows names '^www.svc.example. +192.0.2.11 +[0-9]+ +\*.svc.example.$'
shows names www.svc.example '^www.svc.example. '
shows status '^!! NOT YET ENFORCED ON THE LIVE HOST: .*hosts$'
! sluice status | grep -q '^attention:' || fail "what needs attention is told twice"

# Filters mean what they say, and what they cannot mean is refused.
answers 0 flows --ip lab/web --protocol UDP --port 53
[ "$(wc -l <"$DIR/out")" = 2 ] || fail "not one flow to the DNS server: $(cat "$DIR/out")"
answers 0 flows --ip 10.244.0.8 --protocol udp
[ "$(wc -l <"$DIR/out")" = 1 ] || fail "10.244.0.8 is not 10.244.0.80"
answers 0 flows --ip 192.0.2.0/24 --port 808
[ "$(wc -l <"$DIR/out")" = 1 ] || fail "808 is not 8080"
answers 2 flows --protocol TPC
grep -q 'TPC is no protocol' "$DIR/err" || fail "$(cat "$DIR/err")"
answers 2 flows --ip lab/nobody
for what in policies endpoints identities names services; do
    answers 1 $what no/such
    grep -q "nothing in .sluice $what. is called no/such" "$DIR/err" || fail "$(cat "$DIR/err")"
done

# A set with a mistake changes nothing, and is told of first.
sed 's/toFQDNs/toFQDN/' "$DIR/objects/policy.yaml" >"$DIR/wrong"
mv "$DIR/wrong" "$DIR/objects/policy.yaml"
told() { sluice status | head -1 | grep -q '^!! THE OBJECTS ARE INVALID.*policy.yaml:14:7: spec.egress\[1\].toFQDN: unknown field; did you mean toFQDNs?'; }
eventually 5 told
shows policies '^CiliumNetworkPolicy +lab +names .* yes$'

stop "$GATEWAY"
answers 2 policies
grep -q "no gateway answers at $DIR/control.sock" "$DIR/err" || fail "$(cat "$DIR/err")"
